"""Counting, and adding up what a machine's processes have counted, whoever of them has died."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from app.meters import share as shares
from app.meters.instruments import Description, Histogram, Meters
from app.meters.listener import Listener
from app.meters.numbers import Numbers, labels_of
from app.meters.share import Share
from tests.conftest import PROJECT
from tests.processes import free_port, wait_until

REQUESTS = "tokentill_http_request_duration_seconds"


class TestInstruments:
    def test_each_value_falls_into_the_first_bucket_that_holds_it(self) -> None:
        histogram = Histogram(Description("h", ""), (0.1, 1.0))
        histogram.observe_all([0.1, 0.10001, 1.0, 7.0])
        assert histogram.values() == {"": [1, 2, 1, pytest.approx(8.20001)]}

    def test_many_threads_lose_nothing(self) -> None:
        meters = Meters()

        def count() -> None:
            for _ in range(2_000):
                meters.requests.observe(0.25, "POST", "/x", 200)
                meters.settled.add(2, "inbox")

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        numbers = meters.numbers()
        [(key, series)] = numbers.histograms[REQUESTS].items()
        assert (labels_of(key), sum(series[:-1]), series[-1]) == (["POST", "/x", "200"], 16_000, 4_000.0)
        assert numbers.counters["tokentill_ends_settled"] == {"inbox": 32_000, "debt": 0}

    def test_gauges_are_read_when_asked(self) -> None:
        meters = Meters()
        waiting = [3]
        meters.gauge("waiting", lambda: {("a",): waiting[0]})
        waiting[0] = 5
        assert meters.numbers().gauges == {"waiting": {"a": 5}}


class Process:
    """A process that shares its numbers, as far as files can tell."""

    def __init__(self, folder: Path, kind: str = "web") -> None:
        self.meters = Meters()
        self.meters.gauge("busy", lambda: {(): 1})
        self.share = Share(folder, self.meters)
        self.share.start(kind)

    def settle(self, ends: int) -> None:
        self.meters.settled.add(ends, "inbox")
        self.meters.lag.observe_all([0.2] * ends)
        self.share._write()

    def die(self) -> None:
        """As by kill -9: nothing more is written, and the kernel lets go of its lock."""
        self.share._stopping.set()
        assert self.share._lock_file is not None
        os.close(self.share._lock_file)
        self.share._name = None


def settled(process: Process) -> int:
    together = process.share.collect().together
    found = together.counters["tokentill_ends_settled"]["inbox"]
    assert sum(together.histograms["tokentill_settlement_lag_seconds"].get("", [0])[:-1]) == found
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def start(kind: str = "web") -> Process:
        made.append(Process(tmp_path / "numbers", kind))
        return made[-1]

    yield start
    for process in made:
        process.share.close()


class TestShare:
    def test_whoever_is_asked_tells_of_all(self, start: Callable[..., Process]) -> None:
        one, other, worker = start(), start(), start("worker")
        one.settle(1)
        other.settle(10)
        worker.settle(100)
        assert settled(one) == settled(other) == settled(worker) == 111
        # What a process counted this very moment, it knows at least itself.
        one.meters.settled.add(5, "inbox")
        assert one.share.collect().together.counters["tokentill_ends_settled"]["inbox"] == 116

    def test_the_dead_stay_counted_once_and_nothing_of_them_grows(
        self, start: Callable[..., Process], tmp_path: Path
    ) -> None:
        one = start()
        one.settle(1)
        for i in range(20):
            other = start("worker")
            other.settle(10)
            assert settled(one) == 11 + 10 * i
            other.die()
            assert settled(one) == settled(one) == 11 + 10 * i
        assert sorted(path.suffix for path in (tmp_path / "numbers").iterdir()) == ["", ".json", ".json", ".lock"]
        start()
        assert settled(one) == 201

    def test_the_gauges_of_the_dead_are_gone(self, start: Callable[..., Process]) -> None:
        one, other = start(), start()
        one.settle(1)
        other.settle(1)
        assert len(set(one.share._folder.glob("*.lock"))) == 2
        # Two processes have ids of their own; here both are this one, and told under one name.
        assert set(one.share.collect().gauges) == {f"web-{os.getpid()}"}
        other.die()
        found = one.share.collect().gauges
        assert found[f"web-{os.getpid()}"].gauges == {"busy": {"": 1}}
        assert len(set(one.share._folder.glob("*.lock"))) == 1

    def test_who_leaves_in_order_stays_counted(self, start: Callable[..., Process]) -> None:
        one, other = start(), start()
        one.settle(1)
        other.meters.settled.add(7, "debt")
        other.share.close()
        for _ in range(2):
            assert one.share.collect().together.counters["tokentill_ends_settled"] == {"inbox": 1, "debt": 7}

    def test_who_dies_while_adding_up_leaves_nobody_counted_twice(
        self, start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, other, reader = start(), start(), start()
        one.settle(1)
        other.settle(10)
        other.die()

        def dies(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            # The sum is written, and the files of the dead are still there.
            patched.setattr(Path, "unlink", dies)
            with pytest.raises(KeyboardInterrupt):
                reader.share.collect()
        assert settled(one) == settled(one) == settled(reader) == 11
        third = start()
        third.settle(100)
        third.die()
        assert settled(one) == 111

    def test_a_process_that_joins_isnt_taken_for_dead(self, start: Callable[..., Process]) -> None:
        """However often others add up meanwhile."""
        one = start()
        stop = threading.Event()

        def collect() -> None:
            while not stop.is_set():
                one.share.collect()

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            others = [start() for _ in range(30)]
            for other in others:
                other.settle(1)
        finally:
            stop.set()
            thread.join()
        assert settled(one) == 30
        assert len(set(one.share._folder.glob("*.lock"))) == 31

    def test_what_another_version_or_nobody_can_read_is_left_out(self, start: Callable[..., Process]) -> None:
        one, other, third = start(), start(), start()
        one.settle(1)
        for process, content in ((other, b"{"), (third, b'{"counters": {"x": {"": 3}}, "bounds": {}}')):
            assert process.share._name is not None
            process.share._stopping.set()
            process.share._data_path(process.share._name).write_bytes(content)
        assert settled(one) == 1
        other.die()
        third.die()
        assert settled(one) == 1
        assert one.share.collect().together.counters["x"] == {"": 3}
        one.share._data_path(shares.RETIRED).write_bytes(b"no JSON")
        assert settled(one) == 1

    def test_a_histogram_with_other_bounds_isnt_added(self) -> None:
        numbers = Numbers(histograms={"h": {"": [1, 2, 3.0]}}, bounds={"h": [1.0]})
        numbers.add(Numbers(histograms={"h": {"": [1, 1, 1, 3.0]}}, bounds={"h": [1.0, 2.0]}))
        numbers.add(Numbers(histograms={"h": {"": [5, 5, 7.0]}}, bounds={"h": [1.0]}))
        assert numbers.histograms == {"h": {"": [6, 7, 10.0]}}
        assert Numbers.decode(numbers.encode()) == numbers

    @pytest.mark.parametrize("how", ["open to all", "a link", "a file"])
    def test_a_folder_that_isnt_ours_alone_is_left_alone(self, tmp_path: Path, how: str) -> None:
        folder = tmp_path / "numbers"
        if how == "a file":
            folder.touch()
        elif how == "a link":
            (tmp_path / "elsewhere").mkdir()
            folder.symlink_to(tmp_path / "elsewhere")
        else:
            folder.mkdir()
            folder.chmod(0o777)
        process = Process(folder)
        process.settle(3)
        assert settled(process) == 3
        assert not any(path.is_file() and path.name != "numbers" for path in tmp_path.rglob("*"))

    def test_a_killed_process_is_found_dead_by_its_lock(self, start: Callable[..., Process], tmp_path: Path) -> None:
        """A real one: the kernel lets go, whatever process gets its id next."""
        script = """
import sys, time
from pathlib import Path
from app.meters.instruments import Meters
from app.meters.share import Share
meters = Meters()
meters.settled.add(40, "inbox")
share = Share(Path(sys.argv[1]), meters)
share.start("worker")
share._write()
print("ready", flush=True)
time.sleep(60)
"""
        one = start()
        command = [sys.executable, "-c", script, str(tmp_path / "numbers")]
        with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert f"worker-{other.pid}" in one.share.collect().gauges
            other.kill()
            other.wait()
        found = one.share.collect()
        assert set(found.gauges) == {f"web-{os.getpid()}"}
        assert found.together.counters["tokentill_ends_settled"]["inbox"] == 40


class TestListener:
    def test_one_of_many_has_the_port_and_another_takes_over(self) -> None:
        port = free_port()
        listeners = [Listener("127.0.0.1", port, lambda name=name: name, "text/plain") for name in (b"a", b"b")]
        told: set[str] = set()

        def ask() -> bool:
            try:
                told.add(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=2).text)
            except httpx.TransportError:
                return False
            return True

        try:
            for listener in listeners:
                listener.start()
                wait_until(ask, what="the port")
            [first] = told
            listeners["ab".index(first)].close()
            wait_until(lambda: ask() and len(told) == 2, what="the other one")
        finally:
            for listener in listeners:
                listener.close()

    def test_only_metrics_are_there_and_a_failure_says_nothing(self) -> None:
        port = free_port()

        def fails() -> bytes:
            raise RuntimeError("secret")

        listener = Listener("127.0.0.1", port, fails, "text/plain")
        listener.start()
        try:
            wait_until(lambda: _answers(port), what="the port")
            failed = httpx.get(f"http://127.0.0.1:{port}/metrics")
            assert (failed.status_code, failed.text) == (500, "")
            assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 404
            assert httpx.post(f"http://127.0.0.1:{port}/metrics").status_code == 501
        finally:
            listener.close()


def _answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=2)
    except httpx.TransportError:
        return False
    return True


def test_retired_numbers_survive_their_form() -> None:
    retired = shares._Retired(Numbers(counters={"a": {"": 1}}), ["web-1-ab"])
    assert msgspec.json.decode(msgspec.json.encode(retired), type=shares._Retired) == retired
