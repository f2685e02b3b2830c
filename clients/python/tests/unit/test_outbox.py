from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.unit.fake import Clock, Fake, failure
from tokentill import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    Outbox,
    OutboxError,
    OutboxFullError,
    UnavailableError,
    WalletNotFoundError,
)
from tokentill.cli import main
from tokentill.core import BATCH_ENDS_MAX


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    outbox = Outbox(path)
    yield outbox
    outbox.close()


def put(outbox: Outbox, *keys: str, lease_seconds: float = 0.0) -> None:
    for key in keys:
        body = {"user_id": "u", "feature_endpoint_id": "f", "input_token": 1, "output_token": 40}
        outbox.put(key, json.dumps(body), lease_seconds=lease_seconds)


def claim(outbox: Outbox, limit: int = 500, *, lease_seconds: float = 30.0, early: bool = False) -> list[str]:
    ends = outbox.claim(limit=limit, bytes_max=900_000, lease_seconds=lease_seconds, early=early)
    return [end.idempotency_key for end in ends]


def test_ends_come_out_in_order_and_to_one_claimer_only(outbox: Outbox) -> None:
    put(outbox, "a", "b", "c")
    assert claim(outbox, 2) == ["a", "b"]
    assert claim(outbox) == ["c"]
    assert claim(outbox, early=True) == []
    outbox.acknowledge(["a", "b", "c"])
    assert outbox.status().pending == 0


def test_a_lease_runs_out(outbox: Outbox) -> None:
    put(outbox, "a", lease_seconds=0.05)
    assert claim(outbox) == []
    time.sleep(0.06)
    assert claim(outbox) == ["a"]


def test_a_postponed_end_waits_unless_asked_for_early(outbox: Outbox) -> None:
    put(outbox, "a")
    outbox.postpone(["a"], "no connection", delay_seconds=60)
    assert claim(outbox) == []
    assert claim(outbox, early=True) == ["a"]
    assert outbox.status().last_error == "no connection"


def test_a_refused_end_stays_until_a_person_decides(outbox: Outbox) -> None:
    put(outbox, "a", "b")
    outbox.refuse("a", "User wallet not found")
    outbox.refuse("b", "User wallet not found")
    assert claim(outbox, early=True) == []
    assert outbox.status().refused == 2
    gone = outbox.discard_refused("a")
    assert gone is not None
    assert gone.error == "User wallet not found"
    assert outbox.discard_refused("a") is None
    assert outbox.retry_refused() == 1
    assert claim(outbox) == ["b"]


def test_the_same_key_stands_once(outbox: Outbox) -> None:
    put(outbox, "a", "a")
    assert outbox.status().pending == 1
    with pytest.raises(ConflictError):
        outbox.put("a", "{}", lease_seconds=0)


def test_a_full_outbox_says_so(path: Path) -> None:
    outbox = Outbox(path, ends_max=2)
    put(outbox, "a", "b")
    with pytest.raises(OutboxFullError, match=r"full: 2 ends wait"):
        put(outbox, "c")
    outbox.acknowledge(["a"])
    put(outbox, "c")
    outbox.close()


def test_a_batch_stays_below_the_servers_limit(outbox: Outbox) -> None:
    for n in range(4):
        outbox.put(str(n), json.dumps({"user_id": "u" * 400_000}), lease_seconds=0)
    assert [len(claim(outbox)) for _ in range(2)] == [2, 2]


def test_what_is_put_is_synced_and_only_the_owner_reads_it(outbox: Outbox, path: Path) -> None:
    put(outbox, "a")
    # What goes is not worth a sync, and what comes after it is again.
    outbox.acknowledge(["a"])
    put(outbox, "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert outbox._connection is not None
    assert outbox._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert outbox._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_files_of_something_else_are_refused(path: Path, tmp_path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE things (id INTEGER)")
    other.close()
    with pytest.raises(OutboxError, match="something else"):
        Outbox(path)
    text = tmp_path / "text"
    text.write_text("no database, but long enough to look like one\n" * 100)
    with pytest.raises(OutboxError, match="can't be used"):
        Outbox(text)
    with pytest.raises(OutboxError, match="can't be used"):
        Outbox(tmp_path / "no" / "such" / "folder")


def test_a_file_of_a_newer_client_is_refused(outbox: Outbox, path: Path) -> None:
    assert outbox._connection is not None
    outbox._connection.execute("PRAGMA user_version = 2")
    with pytest.raises(OutboxError, match="newer client"):
        Outbox(path)


def test_many_open_a_new_file_at_once(path: Path) -> None:
    failed: list[Exception] = []

    def work(name: str) -> None:
        try:
            outbox = Outbox(path)
            put(outbox, *[f"{name}-{n}" for n in range(20)])
            outbox.close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    outbox = Outbox(path)
    assert outbox.status().pending == 160
    outbox.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_uses_a_connection_of_its_own(outbox: Outbox) -> None:
    put(outbox, "before")
    outbox._lock.acquire()  # As if another thread were in the middle of it.
    child = os.fork()
    if child == 0:
        try:
            put(outbox, "child")
        except BaseException:
            os._exit(1)
        os._exit(0)
    outbox._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    put(outbox, "after")
    assert claim(outbox) == ["before", "child", "after"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_what_put_returned_for_survives_kill_9(path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        outbox = Outbox(path)
        n = 0
        while True:
            put(outbox, f"end-{n}")
            os.write(writer, b"%d\n" % n)
            n += 1
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        acknowledged = [int(said.readline()) for _ in range(25)]
        os.kill(child, signal.SIGKILL)
        acknowledged += [int(line) for line in said if line.endswith(b"\n")]
    os.waitpid(child, 0)
    outbox = Outbox(path)
    there = claim(outbox)
    outbox.close()
    assert set(there) >= {f"end-{n}" for n in acknowledged}


def test_an_end_is_on_disk_while_it_is_sent_and_gone_when_acknowledged(outbox: Outbox) -> None:
    pending: list[int] = []
    fake = Fake()

    def answer(request: httpx.Request) -> httpx.Response:
        pending.append(outbox.status().pending)
        return fake(request)

    from tokentill import TokenProcess

    transport = httpx.MockTransport(answer)
    with TokenProcess("http://t.test", "key", outbox=outbox, background=False, transport=transport) as client:
        client.end("u", "f", 1, 40)
    assert pending == [1]
    assert outbox.status().pending == 0


def test_an_end_that_could_not_be_sent_is_queued_and_sent_later(outbox: Outbox) -> None:
    fake = Fake(answers=[httpx.ConnectError("refused")] * 20)
    with fake.client(outbox=outbox, background=False, total_timeout_seconds=0.05) as client:
        with pytest.raises(UnavailableError) as caught:
            client.end("u", "f", 1, 40)
        assert caught.value.queued
        fake.answers = []
        done = client.flush_outbox()
    assert (done.sent, done.postponed) == (1, 0)
    assert len({call.headers["idempotency-key"] for call in fake.calls}) == 1


def test_many_queued_ends_go_through_the_batch_call(outbox: Outbox) -> None:
    put(outbox, *[f"end-{n}" for n in range(BATCH_ENDS_MAX + 3)])
    fake = Fake()
    with fake.client(outbox=outbox, background=False) as client:
        assert client.flush_outbox().sent == BATCH_ENDS_MAX + 3
    assert fake.paths() == ["end/batch", "end/batch"]
    assert fake.calls[0].body["ends"][0] == {
        "user_id": "u",
        "feature_endpoint_id": "f",
        "input_token": 1,
        "output_token": 40,
        "idempotency_key": "end-0",
    }


def test_a_bad_end_in_a_batch_leaves_the_others_alone(outbox: Outbox) -> None:
    put(outbox, "a", "b", "c")
    good = {"success": True, "data": {"user_id": "u", "token": 1, "cost": 1, "status": "return-able"}}
    results = [
        good,
        {"success": False, "status": 404, "message": "User wallet not found", "code": "wallet_not_found"},
        {"success": False, "status": 503, "message": "busy", "code": "temporarily_unavailable"},
    ]
    answer = httpx.Response(200, json={"success": True, "data": {"results": results}})
    with Fake(answers=[answer]).client(outbox=outbox, background=False) as client:
        done = client.flush_outbox(timeout_seconds=0)
    assert (done.sent, done.refused, done.postponed) == (1, 1, 1)
    assert [end.idempotency_key for end in outbox.refused()] == ["b"]
    assert claim(outbox, early=True) == ["c"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, json={"success": True, "data": {"results": []}}),
        httpx.Response(200, json={"success": True, "data": {}}),
        httpx.Response(200, text="<html>"),
        httpx.Response(404, text="<html>"),
        failure(401),
        failure(404, "not_found"),
        failure(413, "request_entity_too_large"),
    ],
)
def test_no_end_leaves_the_outbox_for_an_answer_that_is_not_about_it(
    outbox: Outbox, answer: httpx.Response
) -> None:
    put(outbox, "a", "b")
    with Fake(answers=[answer] * 9).client(
        outbox=outbox, background=False, total_timeout_seconds=0.01
    ) as client:
        done = client.flush_outbox(timeout_seconds=0)
    assert (done.sent, done.refused, done.postponed) == (0, 0, 2)
    assert claim(outbox, early=True) == ["a", "b"]


def test_a_batch_refused_as_a_whole_is_sent_one_by_one(outbox: Outbox) -> None:
    put(outbox, "a", "b")
    fake = Fake(answers=[failure(400, "invalid_json"), None, failure(400, "validation_failed")])
    with fake.client(outbox=outbox, background=False) as client:
        done = client.flush_outbox(timeout_seconds=0)
    assert (done.sent, done.refused) == (1, 1)
    assert fake.paths() == ["end/batch", "end", "end"]


def test_a_refused_end_is_kept_and_raised(outbox: Outbox) -> None:
    fake = Fake(answers=[failure(404, "wallet_not_found")])
    with (
        fake.client(outbox=outbox, background=False) as client,
        pytest.raises(WalletNotFoundError),
    ):
        client.end("u", "f", 1, 40)
    assert outbox.status().refused == 1


def test_a_wrong_key_leaves_the_end_pending(outbox: Outbox) -> None:
    with (
        Fake(answers=[failure(401)]).client(outbox=outbox, background=False) as client,
        pytest.raises(AuthenticationError),
    ):
        client.end("u", "f", 1, 40)
    assert outbox.status().pending == 1


def test_with_a_full_outbox_the_end_is_still_sent(path: Path) -> None:
    outbox = Outbox(path, ends_max=1)
    put(outbox, "a")
    fake = Fake()
    with fake.client(outbox=outbox, background=False, total_timeout_seconds=0.01) as client:
        assert client.end("u", "f", 1, 40).cost == 11
        fake.answers = [failure(503)] * 9
        with pytest.raises(OutboxFullError):
            client.end("u", "f", 1, 40)
    outbox.close()


def test_the_background_thread_sends_what_an_earlier_run_left(path: Path) -> None:
    earlier = Outbox(path)
    put(earlier, "a", "b", "c")
    earlier.close()
    fake = Fake()
    with fake.client(outbox=path) as client:
        assert client.outbox is not None
        deadline = time.monotonic() + 5
        while client.outbox.status().pending and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.outbox.status().pending == 0
    assert fake.paths() == ["end/batch"]


def test_the_background_thread_ends_with_its_client(path: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        client = Fake().client(outbox=path)
        del client
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_the_path_may_come_from_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTILL_OUTBOX", str(path))
    with Fake().client() as client:
        assert client.outbox is not None
        assert client.outbox.path == path
    monkeypatch.delenv("TOKENTILL_OUTBOX")
    with Fake().client() as client:
        assert client.outbox is None
        with pytest.raises(ConfigurationError, match="TOKENTILL_OUTBOX"):
            client.flush_outbox()


def test_status_and_discard_on_the_command_line(
    outbox: Outbox, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKENTILL_OUTBOX", raising=False)
    put(outbox, "a", "b")
    outbox.refuse("b", "User wallet not found")
    assert main(["outbox", "status", "--path", str(path)]) == 1
    assert "pending   1 of at most 100000, the oldest 0 s old" in capsys.readouterr().out
    assert main(["outbox", "status", "--path", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["pending"], report["refused_ends"][0]["idempotency_key"]) == (1, "b")
    assert main(["outbox", "discard", "b", "--path", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["body"]["output_token"] == 40
    assert main(["outbox", "discard", "b", "--path", str(path)]) == 2
    assert main(["outbox", "status"]) == 2
    assert main(["outbox", "status", "--path", str(path) + "-not-there"]) == 2
    assert "no outbox at" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_a_flush_takes_no_longer_than_it_may(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    put(outbox, *"ab"[:count])
    clock = Clock(monkeypatch)
    fake = Fake(answers=[httpx.ConnectError("down")] * 99)
    with fake.client(outbox=outbox, background=False, total_timeout_seconds=30) as client:
        began = clock.now
        done = client.flush_outbox(timeout_seconds=5)
    assert (done.sent, done.postponed) == (0, count)
    assert 4 < clock.now - began < 7
