"""Faults on the way to the real server: every end is billed once, whatever the client had to repeat."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from tests.real.bank import Bank
from tests.real.faults import FaultProxy
from tests.real.server import Server, WebProcess
from tokentill import Outbox, TokenProcess, UnavailableError


def billed_models(bank: Bank, user: str) -> list[str]:
    return sorted(item["model"] for item in bank.usage(user))


@pytest.mark.parametrize("fault", ["503", "cut", "swallow", "delay", "garbage"])
def test_an_end_that_is_repeated_is_billed_once(
    fault: str, proxy: FaultProxy, server: Server, bank: Bank, user: str, feature: str
) -> None:
    proxy.plan = lambda number: fault if number <= 2 else None
    with TokenProcess(proxy.url, server.server_key, timeout_seconds=0.5) as client:
        end = client.end(user, feature, 1, 40)
    assert proxy.count("/end") == 3
    assert len({call.key for call in proxy.seen}) == 1
    assert end.cost == 11
    assert end.replayed == (fault in {"swallow", "delay", "garbage"})
    assert bank.settled(user) == 989
    assert len(bank.usage(user)) == 1


def test_retry_after_is_waited_for(
    proxy: FaultProxy, server: Server, bank: Bank, user: str, feature: str
) -> None:
    proxy.retry_after = "1"
    proxy.plan = lambda number: "503" if number == 1 else None
    began = time.monotonic()
    with TokenProcess(proxy.url, server.server_key) as client:
        client.end(user, feature, 1, 40)
    assert time.monotonic() - began >= 1
    assert bank.settled(user) == 989


def test_an_end_nobody_takes_ends_with_the_time_limit(proxy: FaultProxy, server: Server) -> None:
    proxy.plan = lambda _number: "503"
    with (
        TokenProcess(proxy.url, server.server_key, total_timeout_seconds=0.5) as client,
        pytest.raises(UnavailableError),
    ):
        client.end("u", "f", 1, 40)
    assert proxy.count("/end") > 1


def test_an_end_accepted_but_never_answered_is_not_billed_again_by_the_outbox(
    tmp_path: Path, proxy: FaultProxy, server: Server, bank: Bank, user: str, feature: str
) -> None:
    proxy.plan = lambda _number: "swallow"
    outbox = tmp_path / "outbox.db"
    with TokenProcess(
        proxy.url, server.server_key, outbox=outbox, background=False, total_timeout_seconds=0.5
    ) as client:
        for n in range(5):
            with pytest.raises(UnavailableError) as caught:
                client.end(user, feature, 1, 40, model=f"run-{n}")
            assert caught.value.queued
        assert bank.settled(user) == 1_000 - 55, "the server has them already"
        # The batch's first answers get lost too.
        seen = len(proxy.seen)
        proxy.plan = lambda number: "swallow" if number <= seen + 2 else None
        done = client.flush_outbox(timeout_seconds=20)
    assert (done.sent, done.postponed) == (5, 0)
    assert proxy.count("/end/batch") >= 3
    assert bank.settled(user) == 1_000 - 55
    assert billed_models(bank, user) == [f"run-{n}" for n in range(5)]


def test_the_background_thread_delivers_when_the_server_is_back(
    tmp_path: Path, proxy: FaultProxy, server: Server, bank: Bank, user: str, feature: str
) -> None:
    proxy.plan = lambda _number: "503"
    with TokenProcess(
        proxy.url, server.server_key, outbox=tmp_path / "outbox.db", total_timeout_seconds=0.2
    ) as client:
        for n in range(3):
            with pytest.raises(UnavailableError):
                client.end(user, feature, 1, 40, model=f"run-{n}")
        proxy.plan = lambda _number: None
        deadline = time.monotonic() + 30
        assert client.outbox is not None
        while client.outbox.status().pending and time.monotonic() < deadline:
            time.sleep(0.05)
    assert billed_models(bank, user) == ["run-0", "run-1", "run-2"]
    assert bank.settled(user) == 1_000 - 33


def test_a_server_killed_in_the_middle_of_ends_bills_each_once(
    web: WebProcess, own_server: Server, own_bank: Bank
) -> None:
    """No outbox: the retries alone outlive the server's death."""
    feature, package = own_bank.feature(10)
    user = own_bank.wallet(package, 100_000)
    answered: list[str] = []
    failed: list[Exception] = []

    with TokenProcess(web.url, own_server.server_key, timeout_seconds=5, total_timeout_seconds=120) as client:

        def work(thread: int) -> None:
            for n in range(60):
                name = f"run-{thread}-{n}"
                try:
                    client.end(user, feature, 1, 40, model=name)
                    answered.append(name)
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for kills in range(1, 4):
            while len(answered) < 80 * kills and any(thread.is_alive() for thread in threads):
                time.sleep(0.002)
            web.kill()
            web.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert len(answered) == 360
    assert billed_models(own_bank, user) == sorted(answered)
    assert own_bank.settled(user) == 100_000 - 360 * 11


def test_ten_thousand_queued_ends_are_flushed(
    tmp_path: Path,
    server: Server,
    bank: Bank,
    ten_percent: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    feature, package = ten_percent
    users = [bank.wallet(package, 100_000) for _ in range(20)]
    outbox = Outbox(tmp_path / "outbox.db")
    began = time.monotonic()
    for n in range(10_000):
        # One of them no server takes: it must not hold up its neighbours.
        user = "nobody-at-all" if n == 5_000 else users[n % 20]
        body = {"user_id": user, "feature_endpoint_id": feature, "input_token": 1, "output_token": 40}
        outbox.put(f"{package}-{n}", json.dumps(body), lease_seconds=0)
    written_seconds = time.monotonic() - began
    began = time.monotonic()
    with TokenProcess(server.url, server.server_key, outbox=outbox, background=False) as client:
        done = client.flush_outbox(timeout_seconds=200)
    flushed_seconds = time.monotonic() - began
    assert (done.sent, done.refused, done.postponed) == (9_999, 1, 0)
    assert [end.idempotency_key for end in outbox.refused()] == [f"{package}-5000"]
    outbox.close()
    # 500 runs for each user; the one that was refused was the first user's.
    assert [bank.settled(user) for user in users] == [100_000 - 499 * 11, *[100_000 - 500 * 11] * 19]
    with capsys.disabled():
        print(  # noqa: T201
            f"\n10,000 ends: written in {written_seconds:.1f} s, flushed in {flushed_seconds:.1f} s", end=" "
        )
