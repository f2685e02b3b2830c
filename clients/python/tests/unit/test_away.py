"""The server away: who waits, who goes on, and what is known of it afterwards."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.fake import Clock, Fake, failure, wait_until
from tokentill import (
    ConfigurationError,
    InsufficientTokensError,
    Outbox,
    OutboxError,
    UnavailableError,
    with_token_process,
)
from tokentill.away import Away
from tokentill.settings import Settings

DOWN = httpx.ConnectError("refused")
MANY = 10_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def away(fake: Fake) -> None:
    fake.answers = [DOWN] * MANY


def back(fake: Fake) -> None:
    fake.answers = []


def fails(call: Any) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        call()
    return caught.value


def test_after_five_failed_calls_nobody_waits_any_more(clock: Clock) -> None:
    fake = Fake()
    away(fake)
    with fake.client() as client:
        for _ in range(5):
            fails(lambda: client.start("u", "f"))
        asked, began = len(fake.calls), clock.now
        error = fails(lambda: client.start("u", "f"))
        assert (len(fake.calls), clock.now) == (asked, began), "it was refused at once"
        assert "last calls got no answer" in str(error)
        assert client.away_report().away
        assert client.away_report().refused_runs_total == 6
        # One caller is sent to look every five seconds.
        clock.now += 5
        back(fake)
        assert client.start("u", "f").access_able
        assert client.start("u", "f").access_able
        assert not client.away_report().away


def test_only_one_looks_whether_it_is_back(clock: Clock) -> None:
    fake = Fake()
    away(fake)
    with fake.client(breaker_failures=1, breaker_seconds=60) as client:
        fails(lambda: client.start("u", "f"))
        asked = len(fake.calls)
        clock.now += 60
        fails(lambda: client.start("u", "f"))
        assert len(fake.calls) > asked
        asked = len(fake.calls)
        fails(lambda: client.start("u", "f"))
        assert len(fake.calls) == asked


def test_the_others_do_not_wait_while_one_looks(clock: Clock) -> None:
    away = Away(Settings.resolve("http://t.test", "key", breaker_failures=1, breaker_seconds=60))
    away.failed()
    clock.now += 60
    assert [away.worth_asking() for _ in range(3)] == [True, False, False]
    away.answered()
    assert away.worth_asking()


@pytest.mark.parametrize("answer", [failure(500, "internal"), failure(404, "wallet_not_found"), failure(401)])
def test_a_server_that_answers_is_there(clock: Clock, answer: httpx.Response) -> None:
    fake = Fake(answers=[answer] * MANY)
    with fake.client() as client:
        for _ in range(10):
            with pytest.raises(Exception, match="says"):
                client.start("u", "f")
        assert not client.away_report().away
        back(fake)
        assert client.start("u", "f").access_able


def test_an_end_that_stands_nowhere_else_is_always_tried(clock: Clock) -> None:
    fake = Fake()
    away(fake)
    with fake.client(breaker_failures=1) as client:
        fails(lambda: client.start("u", "f"))
        back(fake)
        assert client.end("u", "f", 1, 40).cost == 11
        assert client.start("u", "f").access_able, "its answer closed the breaker"


def test_an_end_in_the_outbox_waits_there_while_the_server_is_away(clock: Clock, path: Path) -> None:
    fake = Fake()
    away(fake)
    with fake.client(breaker_failures=1, outbox=path, background=False) as client:
        assert fails(lambda: client.end("u", "f", 1, 40)).queued
        asked = len(fake.calls)
        assert fails(lambda: client.end("u", "f", 1, 40)).queued
        assert len(fake.calls) == asked
        back(fake)
        assert client.flush_outbox().sent == 2
        assert client.start("u", "f").access_able, "the flush has seen that it is back"


def work_of(client: Any, ran: list[int]) -> Any:
    @with_token_process(feature_endpoint_id="f", user_id="u", client=client)
    def work(number: int) -> dict[str, int]:
        ran.append(number)
        return {"input_token": 10, "output_token": 40}

    return work


def test_closed_refuses_runs(clock: Clock, path: Path) -> None:
    fake, ran = Fake(), list[int]()
    away(fake)
    with fake.client(outbox=path, background=False) as client:
        fails(lambda: work_of(client, ran)(1))
    assert ran == []


def test_open_lets_so_many_runs_go_on(clock: Clock, path: Path) -> None:
    fake, ran = Fake(), list[int]()
    away(fake)
    with fake.client(outbox=path, background=False, when_away="open", open_runs_max=3) as client:
        work = work_of(client, ran)
        for number in range(3):
            work(number)
        fails(lambda: work(3))
        assert ran == [0, 1, 2]
        report = client.away_report()
        assert (report.away, report.open_runs, report.open_tokens) == (True, 3, 150)
        assert report.refused_runs_total == 1
        assert client.outbox is not None
        assert client.outbox.status().pending == 3
        back(fake)
        assert client.flush_outbox().sent == 3
        assert sorted(end["output_token"] for end in fake.of("end/batch")[-1].body["ends"]) == [40] * 3
        # Back again, the next absence has its own bounds.
        report = client.away_report()
        assert (report.away, report.open_runs, report.open_runs_total) == (False, 0, 3)
        assert (report.open_tokens, report.open_tokens_total) == (0, 150)
        work(4)
        assert fake.paths()[-2:] == ["start", "end"]


def test_open_lets_so_many_tokens_be_used(clock: Clock, path: Path) -> None:
    fake, ran = Fake(), list[int]()
    away(fake)
    with fake.client(outbox=path, background=False, when_away="open", open_tokens_max=100) as client:
        work = work_of(client, ran)
        work(0)
        work(1)
        fails(lambda: work(2))
    assert ran == [0, 1]


def test_open_refuses_as_ever_what_the_server_refuses(path: Path) -> None:
    fake = Fake(start_data={"token": 0, "status": "not-access-able"})
    with (
        fake.client(outbox=path, background=False, when_away="open") as client,
        pytest.raises(InsufficientTokensError),
    ):
        work_of(client, [])(1)


def test_a_direct_start_says_that_nobody_was_asked(clock: Clock, path: Path) -> None:
    fake = Fake()
    away(fake)
    with fake.client(outbox=path, background=False, when_away="open") as client:
        start = client.start("u", "f")
    assert (start.access_able, start.away, start.process_id) == (True, True, None)


def test_open_needs_a_place_for_its_ends(clock: Clock, path: Path) -> None:
    fake, ran = Fake(), list[int]()
    with pytest.raises(ConfigurationError, match="needs an outbox"):
        fake.client(when_away="open")
    away(fake)
    with Outbox(path, ends_max=1) as full:
        full.put("a", "{}", lease_seconds=0)
        with fake.client(outbox=full, background=False, when_away="open") as client:
            fails(lambda: work_of(client, ran)(1))
    path.write_bytes(b"no database " * 1000)
    with fake.client(outbox=path, background=False, when_away="open") as client:
        fails(lambda: work_of(client, ran)(1))
        assert client.away_report().refused_runs_total == 1
    assert ran == []


def test_open_on_asyncio(path: Path) -> None:
    fake = Fake()
    away(fake)

    async def work() -> None:
        async with fake.async_client(
            outbox=path, background=False, when_away="open", total_timeout_seconds=0.05
        ) as client:

            @with_token_process(feature_endpoint_id="f", user_id="u", client=client)
            async def feature() -> dict[str, int]:
                return {"output_token": 40}

            await feature()
            assert client.away_report().open_tokens == 40

    asyncio.run(work())


def unusable(path: Path, how: str) -> None:
    if how == "no folder":
        return
    path.parent.mkdir()
    if how == "no database":
        path.write_bytes(b"no database " * 1000)
    elif how == "a folder":
        path.mkdir()
    else:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE things (id INTEGER)")
        other.close()


@pytest.mark.parametrize("how", ["no folder", "no database", "a folder", "something else"])
def test_an_outbox_that_cannot_be_used_stops_nothing(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "folder" / "outbox.db"
    unusable(path, how)
    fake, ran = Fake(), list[int]()
    with fake.client(outbox=path) as client:
        work_of(client, ran)(1)
        assert client.end("u", "f", 1, 40).cost == 11
    assert ran == [1]
    assert fake.paths() == ["start", "end", "end"]
    assert str(path) in caplog.text, "but it is said"
    with pytest.raises(OutboxError):
        Outbox(path)


def test_an_outbox_that_can_be_used_again_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "outbox.db"
    fake = Fake()
    with fake.client(outbox=path, background=False, total_timeout_seconds=0.01) as client:
        away(fake)
        with pytest.raises(OutboxError):
            client.end("u", "f", 1, 40)
        path.parent.mkdir()
        assert fails(lambda: client.end("u", "f", 1, 40)).queued


def test_a_file_that_was_removed_is_made_again(path: Path) -> None:
    fake = Fake()
    with fake.client(outbox=path, background=False, total_timeout_seconds=0.01) as client:
        for name in os.listdir(path.parent):
            (path.parent / name).unlink()
        away(fake)
        assert fails(lambda: client.end("u", "f", 1, 40)).queued
    with Outbox(path) as outbox:
        assert outbox.status().pending == 1


def test_an_outbox_that_somebody_else_has_locked_is_not_waited_for_long(path: Path) -> None:
    fake = Fake()
    with fake.client(outbox=path, background=False) as client:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        done = threading.Event()

        def end() -> None:
            client.end("u", "f", 1, 40)
            done.set()

        thread = threading.Thread(target=end)
        thread.start()
        wait_until(done.is_set, 4.0)
        thread.join()
        other.execute("ROLLBACK")
        other.close()
    assert fake.paths() == ["end"]


class HungOutbox(Outbox):
    """On a disk that doesn't answer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answers = threading.Event()

    def put(self, idempotency_key: str, body: str, *, lease_seconds: float) -> None:
        with self._open():
            self.answers.wait(30)


def test_a_disk_that_hangs_stops_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokentill.drivers.DISK_SECONDS", 0.2)
    monkeypatch.setattr("tokentill.outbox._LOCK_TIMEOUT_SECONDS", 0.2)
    fake = Fake()
    outbox = HungOutbox(path)

    async def work() -> None:
        async with fake.async_client(outbox=outbox, background=False) as client:
            await asyncio.wait_for(asyncio.gather(*[client.end("u", "f", 1, n) for n in range(5)]), 5)

    try:
        with fake.client(outbox=outbox, background=False) as client:
            # One thread hangs with the disk; the others notice.
            hung = threading.Thread(target=lambda: client.end("u", "f", 1, 40), daemon=True)
            hung.start()
            wait_until(outbox._lock.locked)
            assert client.end("u", "f", 1, 40).cost == 11
            asyncio.run(work())
            assert len(fake.of("end")) == 6
            outbox.answers.set()
            hung.join(5)
    finally:
        outbox.answers.set()
        outbox.close()
