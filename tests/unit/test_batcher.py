from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.access.batcher import BatchAborted, Batcher, BatchTimeout


def test_calls_that_wait_share_a_run() -> None:
    runs: list[list[int]] = []

    def run(calls: list[int]) -> Sequence[int]:
        runs.append(calls)
        time.sleep(0.02)
        return [call * 2 for call in calls]

    batcher: Batcher[int, int] = Batcher(run, calls_max=100, timeout_seconds=5)
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(batcher.submit, range(200)))
    assert results == [call * 2 for call in range(200)]
    assert sorted(call for calls in runs for call in calls) == list(range(200))
    assert len(runs) < 40


def test_nothing_to_answer_leaves_the_lead_free() -> None:
    batcher: Batcher[int, int] = Batcher(lambda calls: calls, calls_max=10, timeout_seconds=0.5)
    assert batcher.submit_all([]) == []
    assert batcher.submit(1) == 1


def test_runs_never_overlap_and_respect_the_limit() -> None:
    running = threading.Lock()
    sizes: list[int] = []

    def run(calls: list[int]) -> Sequence[int]:
        assert running.acquire(blocking=False)
        sizes.append(len(calls))
        time.sleep(0.001)
        running.release()
        return calls

    batcher: Batcher[int, int] = Batcher(run, calls_max=7, timeout_seconds=5)
    with ThreadPoolExecutor(16) as pool:
        many = pool.map(lambda start: batcher.submit_all(list(range(start, start + 20))), range(0, 600, 20))
        assert [result for results in many for result in results] == list(range(600))
    assert max(sizes) <= 7


def test_one_failed_call_leaves_its_neighbours_alone() -> None:
    def run(calls: list[int]) -> Sequence[int | Exception]:
        return [ValueError(call) if call == 2 else call for call in calls]

    batcher: Batcher[int, int] = Batcher(run, calls_max=10, timeout_seconds=5)
    results = batcher.submit_all([1, 2, 3])
    assert (results[0], results[2]) == (1, 3)
    assert isinstance(results[1], ValueError)
    with pytest.raises(ValueError, match="2"):
        batcher.submit(2)


def test_a_run_that_raises_fails_all_its_calls_and_the_next_run_goes_on() -> None:
    def run(calls: list[int]) -> Sequence[int]:
        if 0 in calls:
            raise RuntimeError("down")
        return calls

    batcher: Batcher[int, int] = Batcher(run, calls_max=10, timeout_seconds=5)
    assert all(isinstance(result, RuntimeError) for result in batcher.submit_all([0, 1]))
    assert batcher.submit(1) == 1


def test_a_stuck_run_keeps_nobody_waiting_for_ever() -> None:
    stuck = threading.Event()

    def run(calls: list[int]) -> Sequence[int]:
        if 0 in calls:
            stuck.wait(10)
        return calls

    batcher: Batcher[int, int] = Batcher(run, calls_max=1, timeout_seconds=0.1)
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(batcher.submit, 0)
        time.sleep(0.05)
        with pytest.raises(BatchTimeout):
            batcher.submit(1)
        stuck.set()
        assert leader.result() == 0
    assert batcher.submit(2) == 2


def test_a_call_that_is_being_run_is_waited_for_longer_than_one_whose_turn_has_not_come() -> None:
    """Given up in the queue nothing has happened; given up in the middle of a run nobody knows."""
    done: list[int] = []

    def run(calls: list[int]) -> Sequence[int]:
        time.sleep(0.3)
        done.extend(calls)
        return calls

    batcher: Batcher[int, int] = Batcher(run, calls_max=2, timeout_seconds=0.2)
    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(batcher.submit, 0)
        time.sleep(0.05)
        # 1 and 2 are run together after 0; 3 would be after them.
        others = [pool.submit(batcher.submit, call) for call in (1, 2)]
        time.sleep(0.05)
        last = pool.submit(batcher.submit, 3)
        given_up = {call for call, future in zip((1, 2, 3), [*others, last], strict=True) if future.exception()}
        assert leader.result() == 0
    time.sleep(0.1)
    assert given_up
    assert given_up.isdisjoint(done)


def test_leads_are_handed_on_under_pressure_with_timeouts() -> None:
    def run(calls: list[int]) -> Sequence[int]:
        time.sleep(0.004)
        return calls

    batcher: Batcher[int, int] = Batcher(run, calls_max=2, timeout_seconds=0.02)

    def submit(call: int) -> bool:
        try:
            return batcher.submit(call) == call
        except BatchTimeout:
            return False

    with ThreadPoolExecutor(24) as pool:
        answered = list(pool.map(submit, range(600)))
    assert any(answered)
    # Nobody left with the lead in hand: the batcher still works.
    assert batcher.submit(1) == 1


class ThreadEnds(BaseException):
    """What a thread is told to end with, such as SystemExit."""


@pytest.mark.parametrize("raised", [ThreadEnds, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_whatever_a_run_raises_the_next_one_goes_on(raised: type[BaseException]) -> None:
    def run(calls: list[int]) -> Sequence[int]:
        if 0 in calls:
            raise raised
        return calls

    batcher: Batcher[int, int] = Batcher(run, calls_max=10, timeout_seconds=0.5)
    for _ in range(3):
        with pytest.raises(raised):
            batcher.submit(0)
        assert batcher.submit(1) == 1
        assert batcher.submit_all([2, 3]) == [2, 3]


def test_a_leader_that_is_ended_takes_nobody_with_it() -> None:
    leading = threading.Event()
    go_on = threading.Event()

    def run(calls: list[int]) -> Sequence[int]:
        if 0 in calls:
            leading.set()
            go_on.wait(5)
        if 2 in calls:
            raise ThreadEnds
        return calls

    batcher: Batcher[int, int] = Batcher(run, calls_max=2, timeout_seconds=5)
    with ThreadPoolExecutor(5) as pool:
        # 0 leads; 1 and 2 are run together after it, by whoever waits first; 3 and 4 are next.
        first = pool.submit(batcher.submit, 0)
        assert leading.wait(5)
        others = []
        for call in (1, 2, 3, 4):
            others.append(pool.submit(batcher.submit, call))
            while len(batcher._queue) < call:
                time.sleep(0.001)
        go_on.set()
        assert first.result() == 0
        with pytest.raises((ThreadEnds, BatchAborted)):
            others[0].result(timeout=5)
        with pytest.raises((ThreadEnds, BatchAborted)):
            others[1].result(timeout=5)
        assert [future.result(timeout=2) for future in others[2:]] == [3, 4]
    assert batcher.submit(5) == 5


def test_a_caller_that_is_ended_while_it_waits_is_not_handed_the_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()

    def run(calls: list[int]) -> Sequence[int]:
        if 0 in calls:
            started.set()
            go_on.wait(5)
        return calls

    batcher: Batcher[int, int] = Batcher(run, calls_max=1, timeout_seconds=2)

    def end_the_waiting(*_: object) -> bool:
        raise ThreadEnds

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(batcher.submit, 0)
        assert started.wait(5)
        with monkeypatch.context() as patched:
            patched.setattr(batcher, "_wait_for", end_the_waiting)
            with pytest.raises(ThreadEnds):
                batcher.submit_all([1, 2])
        go_on.set()
        assert leader.result() == 0
    assert batcher.submit(3) == 3
