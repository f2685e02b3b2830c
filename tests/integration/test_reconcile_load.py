"""Reconciliation in the midst of everything: no false alarm, and what is wrong is found all the same."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.errors import NotFound
from app.stores.redis.keys import wallet_keys
from tests.reconciling import only
from tests.support import FEATURE, Billing, collect_now


@pytest.fixture
def steadily() -> Iterator[Callable[..., None]]:
    """Runs functions over and over, each on a thread of its own, until the test is over."""
    stopping = threading.Event()
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []

    def repeat(act: Callable[[random.Random], Any], seed: int) -> None:
        dice = random.Random(seed)
        try:
            while not stopping.is_set():
                act(dice)
        except BaseException as error:
            errors.append(error)

    def begin(*acts: Callable[[random.Random], Any]) -> None:
        for i, act in enumerate(acts):
            threads.append(threading.Thread(target=repeat, args=(act, i)))
            threads[-1].start()

    yield begin
    stopping.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_no_false_alarm_under_load(make_container: Callable[[], Container], steadily: Callable[..., None]) -> None:
    """Two processes' worth of starts, ends, settlements, retries, replays and postings, and a flush of the cache."""
    first, second = make_container(), make_container()
    billing = Billing(first)
    billing.catalog()
    second.catalog.refresh()
    users = [f"user-{i}" for i in range(6)]
    for user_id in users:
        billing.wallet(user_id, tokens=300)

    def end(dice: random.Random) -> None:
        container = dice.choice([first, second])
        container.start.start(StartRequest(dice.choice(users), FEATURE, hold_micros=dice.choice([0, 1_000_000])))
        container.end.end(billing.usage(dice.choice(users), output_tokens=dice.randrange(1, 80)))

    def settle(dice: random.Random) -> None:
        dice.choice([first, second]).settlement.sweep(older_than_seconds=0)
        time.sleep(0.02)

    def heal(dice: random.Random) -> None:
        collect_now(second, dice.choice(users))
        for row in billing.inbox(dice.choice(users))[:3]:
            # It may be settled by now.
            with suppress(NotFound):
                second.failed_ends.replay(row.id)
        second.stale_copies.refresh(older_than_seconds=0.5)
        time.sleep(0.1)

    steadily(end, end, end, settle, settle, heal)
    for i in range(4):
        if i == 2:
            first.redis_client.flushall()
        done = first.reconciliation.run()
        assert list(done.drifted) == []
        assert (done.checked, done.cache_checked, done.adds_up) == (6, True, True)


def test_a_drift_is_found_and_corrected_under_load(
    make_container: Callable[[], Container], steadily: Callable[..., None]
) -> None:
    container = make_container()
    billing = Billing(container)
    billing.catalog()
    billing.wallet("user-1", tokens=100_000)

    def end(dice: random.Random) -> None:
        container.end.end(billing.usage(output_tokens=dice.randrange(1, 80)))

    def settle(_: random.Random) -> None:
        container.settlement.sweep(older_than_seconds=0)
        time.sleep(0.02)

    container.loader.load(["user-1"], container.catalog.epoch)
    container.redis_client.hincrby(wallet_keys("user-1")[0], "available", 5_000_000)
    steadily(end, end, settle)
    drift = only(done := container.reconciliation.run())
    assert (drift.kind, drift.repaired, done.adds_up) == ("cache", True, True)
    assert drift.detail == "available is 5 off its own sum (totals counted anew)"
    assert container.reconciliation.run().drifted_count == 0
