"""start over fake stores: who is asked, in which order, and what is answered with one of them away."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.billing.start import StartRequest, StartService
from app.domain.errors import (
    FeatureNotAvailable,
    IdempotencyConflict,
    Unavailable,
    WalletNotFound,
)
from app.domain.wallets import Access, Balance, WalletStatus
from tests.unit.fakes import (
    ALICE,
    FEATURE,
    NOW,
    TOKEN,
    FakeBalances,
    FakeCache,
    FakeCatalog,
    FakeHoldService,
    FakeLoader,
    gate,
    wallet,
)


class World:
    def __init__(self) -> None:
        self.catalog = FakeCatalog()
        self.balances = FakeBalances(wallet())
        self.cache = FakeCache()
        self.loader = FakeLoader(self.balances, self.cache)
        self.holds = FakeHoldService()
        self.redis = gate()
        self.service = StartService(
            balances=self.balances,
            catalog=self.catalog,
            cache=self.cache,
            loader=self.loader,
            holds=self.holds,
            redis=self.redis,
            hold_seconds_default=900,
            now=lambda: NOW,
            timeout_seconds=1,
        )


@pytest.fixture
def world() -> World:
    return World()


def test_a_cached_wallet_is_decided_without_postgres(world: World) -> None:
    world.cache.balances[ALICE] = Balance(5 * TOKEN)
    world.balances.is_away = True
    answer = world.service.start(StartRequest("alice", FEATURE))
    assert (answer.access, answer.spendable_micros, answer.replayed) == (Access.GRANTED, 5 * TOKEN, False)
    assert answer.process_id


def test_one_that_is_not_cached_is_loaded_first(world: World) -> None:
    assert world.service.start(StartRequest("alice", FEATURE)).spendable_micros == 100 * TOKEN
    assert ALICE in world.cache.balances


def test_a_wallet_below_the_minimum_of_the_feature_is_denied(world: World) -> None:
    world.cache.balances[ALICE] = Balance(TOKEN - 1)
    answer = world.service.start(StartRequest("alice", FEATURE))
    assert (answer.access, answer.process_id) == (Access.DENIED, None)


def test_nobody_else_has_a_wallet(world: World) -> None:
    with pytest.raises(WalletNotFound):
        world.service.start(StartRequest("bob", FEATURE))


@pytest.mark.parametrize("is_away", [False, True])
def test_a_feature_outside_of_the_package_tells_the_balance(world: World, is_away: bool) -> None:
    world.cache.is_away = is_away
    with pytest.raises(FeatureNotAvailable) as caught:
        world.service.start(StartRequest("alice", "video"))
    assert caught.value.data == {"user_id": "alice", "spendable_micros": 100 * TOKEN, "status": Access.DENIED}


def test_a_hold_is_granted_with_its_end(world: World) -> None:
    answer = world.service.start(StartRequest("alice", FEATURE, hold_micros=30 * TOKEN))
    assert (answer.hold_micros, answer.spendable_micros) == (30 * TOKEN, 70 * TOKEN)
    assert answer.expires_at == NOW + timedelta(seconds=900)
    assert world.service.start(StartRequest("alice", FEATURE, hold_micros=71 * TOKEN)).access is Access.DENIED


def test_a_key_answers_the_same_run_again_and_no_other_body(world: World) -> None:
    request = StartRequest("alice", FEATURE, hold_micros=TOKEN, idempotency_key="k")
    first, again = world.service.start(request), world.service.start(request)
    assert (again.process_id, again.replayed, first.replayed) == (first.process_id, True, False)
    with pytest.raises(IdempotencyConflict):
        world.service.start(StartRequest("alice", FEATURE, hold_micros=2 * TOKEN, idempotency_key="k"))


def test_with_redis_away_postgres_answers_and_nobody_asks_redis_again(world: World) -> None:
    world.cache.is_away = True
    answer = world.service.start(StartRequest("alice", FEATURE))
    assert (answer.access, answer.spendable_micros) == (Access.GRANTED, 100 * TOKEN)
    assert not world.redis.is_open
    # It answers again, but only the watcher opens the gate.
    world.cache.is_away = False
    world.cache.balances[ALICE] = Balance(0)
    assert world.service.start(StartRequest("alice", FEATURE)).access is Access.GRANTED


@pytest.mark.parametrize("fields", [{"status": WalletStatus.SUSPENDED}, {"package_id": None}])
def test_postgres_knows_wallets_that_may_start_nothing(world: World, fields: dict[str, Any]) -> None:
    world.balances.wallets[ALICE] = wallet(**fields)
    world.cache.is_away = True
    with pytest.raises(WalletNotFound):
        world.service.start(StartRequest("alice", FEATURE))


def test_debt_stops_every_start_also_by_postgres(world: World) -> None:
    world.balances.wallets[ALICE] = wallet(debt_micros=1)
    world.cache.is_away = True
    assert world.service.start(StartRequest("alice", FEATURE)).access is Access.DENIED


@pytest.mark.parametrize(("key", "owed"), [(None, 1), ("k", 0)])
def test_a_hold_that_redis_may_have_granted_is_given_back(world: World, key: str | None, owed: int) -> None:
    """Under a key the next attempt finds it."""
    world.cache.is_away = True
    with pytest.raises(Unavailable):
        world.service.start(StartRequest("alice", FEATURE, hold_micros=TOKEN, idempotency_key=key))
    assert len(world.holds.later) == owed


def test_a_wallet_that_cannot_be_cached_is_answered_by_postgres(world: World) -> None:
    world.loader.refuses.add(ALICE)
    assert world.service.start(StartRequest("alice", FEATURE)).access is Access.GRANTED
    assert world.redis.is_open


def test_both_away_is_unavailable(world: World) -> None:
    world.cache.is_away = world.balances.is_away = True
    with pytest.raises(Unavailable):
        world.service.start(StartRequest("alice", FEATURE))
