"""A wallet with more due holds than anybody may have: made by hand, or by a server of another version."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from app.billing.holds import ExtendRequest
from app.billing.start import StartRequest
from app.domain.errors import HoldNotFound
from app.stores.redis.keys import wallet_keys
from tests.reconciling import only, quick
from tests.support import FEATURE, Billing

TOKEN = 1_000_000
DUE = 200_000

_MAKE = """
local first, last, ends_at = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
for i = first, last do
  redis.call('HSET', KEYS[1], 'h:by-hand-' .. ARGV[3] .. '-' .. i, '1')
  redis.call('ZADD', KEYS[2], ends_at, 'by-hand-' .. ARGV[3] .. '-' .. i)
end
redis.call('HINCRBY', KEYS[1], 'held', last - first + 1)
"""


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    billing.wallet(tokens=100)
    billing.container.start.start(StartRequest("user-1", FEATURE))
    return billing


def make_holds(redis_client: Redis, count: int, ends_in_seconds: int) -> None:
    make = redis_client.register_script(_MAKE)
    ends_at_ms = int(time.time() + ends_in_seconds) * 1000
    for first in range(0, count, 5_000):
        make(keys=wallet_keys("user-1"), args=[first, min(first + 5_000, count) - 1, ends_at_ms])


def test_due_ones_leave_in_slices_and_count_no_more(shop: Billing, redis_client: Redis) -> None:
    services = shop.container
    running = services.start.start(StartRequest("user-1", FEATURE, hold_micros=10 * TOKEN))
    assert running.process_id is not None
    make_holds(redis_client, DUE, ends_in_seconds=-60)
    for _ in range(20):
        started = services.start.start(StartRequest("user-1", FEATURE))
        assert started.spendable_micros == 90 * TOKEN
    answers = [
        services.end.end(shop.usage(output_tokens=4)).spendable_micros,
        services.end.end(shop.usage(process_id=running.process_id)).spendable_micros,
        services.holds.cancel("user-1", "unknown"),
        services.wallet_admin.get("user-1").balance.spendable_micros,
    ]
    assert answers == [88_900_000, 87_900_000, 87_900_000, 87_900_000]
    assert services.holds.list("user-1", 200).items == []
    # By each look no more than its slice, so that none takes long.
    [_, holds] = wallet_keys("user-1")
    assert DUE - 24 * 200 - 1 <= redis_client.zcard(holds) < DUE - 20 * 200


def test_they_are_all_gone_in_the_end(shop: Billing, redis_client: Redis) -> None:
    make_holds(redis_client, 1_000, ends_in_seconds=-60)
    for _ in range(5):
        assert shop.cached_spendable_micros() == 100 * TOKEN
    [wallet, holds] = wallet_keys("user-1")
    assert redis_client.exists(holds) == 0
    assert [name for name in redis_client.hkeys(wallet) if name.startswith("h:")] == []
    assert redis_client.hget(wallet, "held") == "0"


def test_what_is_no_number_reserves_nothing(shop: Billing, redis_client: Redis) -> None:
    [wallet, holds] = wallet_keys("user-1")
    for name, amount in (("word", "many"), ("power", "1e5"), ("endless", "9" * 30), ("negative", "-5")):
        for state, ends_at_ms in (("due", 1), ("open", int(time.time() + 60) * 1000)):
            redis_client.hset(wallet, f"h:{name}-{state}", amount)
            redis_client.zadd(holds, {f"{name}-{state}": ends_at_ms, f"lost-{state}": ends_at_ms})
    started = shop.container.start.start(StartRequest("user-1", FEATURE, hold_micros=TOKEN))
    assert started.spendable_micros == 99 * TOKEN
    assert shop.container.holds.cancel("user-1", "endless-open") == 99 * TOKEN
    assert [hold.process_id for hold in shop.container.holds.list("user-1", 9).items] == [started.process_id]


def test_more_open_ones_than_allowed_are_no_trouble(shop: Billing, redis_client: Redis) -> None:
    make_holds(redis_client, 2_000, ends_in_seconds=-60)
    make_holds(redis_client, 5_000, ends_in_seconds=600)
    # Counted in full until the due ones are gone: never less than what is reserved.
    assert 99_993_000 <= (shop.cached_spendable_micros() or 0) <= 99_995_000
    for _ in range(12):
        shop.cached_spendable_micros()
    assert shop.cached_spendable_micros() == 99_995_000


def test_a_sick_copy_is_its_own_trouble(shop: Billing, redis_client: Redis) -> None:
    services = shop.container
    running = services.start.start(StartRequest("user-1", FEATURE, hold_micros=TOKEN))
    assert running.process_id is not None
    [wallet, _] = wallet_keys("user-1")
    calls: list[Callable[[str], Any]] = [
        lambda process_id: services.holds.extend(ExtendRequest("user-1", process_id, TOKEN, 0)),
        lambda process_id: services.holds.give_back("user-1", process_id),
    ]
    for call in calls:
        redis_client.delete(wallet)
        redis_client.set(wallet, "x")
        with pytest.raises(HoldNotFound):
            call(running.process_id)
    redis_client.set(f"{wallet.removesuffix('wallet')}process:{running.process_id}", "x")
    assert services.holds.cancel("user-1", running.process_id) == 100 * TOKEN
    redis_client.hset(wallet, "held", "many")
    assert services.holds.list("user-1", 9).items == []
    assert services.redis_gate.is_open


def test_a_reconciliation_counts_them_in_no_long_call(shop: Billing, redis_client: Redis) -> None:
    make_holds(redis_client, 6_000, ends_in_seconds=600)
    redis_client.hincrby(wallet_keys("user-1")[0], "available", 5)
    drift = only(quick(shop.container).run())
    assert (drift.wallet_id, drift.repaired) == ("user-1", True)
    # What is too much to count is loaded anew, without its holds.
    assert shop.container.holds.list("user-1", 200).items == []
    assert shop.cached_spendable_micros() == 100 * TOKEN
