"""Holds over fake stores: extended, given back, listed; and given back later while Redis is away."""

from __future__ import annotations

import pytest

from app.billing.holds import OWED_PER_CALL, ExtendRequest, HoldService
from app.domain.ends import EndRequest
from app.domain.errors import (
    AlreadyEnded,
    HoldNotFound,
    IdempotencyConflict,
    ProcessOfAnotherUser,
    Unavailable,
    WalletNotFound,
)
from app.domain.processes import new_process_id
from app.domain.usage import Usage
from app.domain.wallets import Access, Balance
from app.stores.postgres.inbox import KnownEnd
from app.stores.redis.wallet_calls import ExtendCall, ExtendReply
from tests.unit.fakes import (
    ALICE,
    FEATURE,
    TOKEN,
    FakeAuditBook,
    FakeBalances,
    FakeCache,
    FakeCatalog,
    FakeHolds,
    FakeIntake,
    FakeLoader,
    FakeRecords,
    gate,
    wallet,
)


class World:
    def __init__(self) -> None:
        self.balances = FakeBalances(wallet())
        self.cache = FakeCache()
        self.runs = FakeIntake()
        self.holds = FakeHolds(self.cache)
        self.records = FakeRecords(self.cache)
        self.redis = gate()
        self.cache.balances[ALICE] = Balance(100 * TOKEN)
        self.cache.holds[ALICE, "run"] = 30 * TOKEN
        self.service = HoldService(
            balances=self.balances,
            runs=self.runs,
            catalog=FakeCatalog(),
            holds=self.holds,
            records=self.records,
            loader=FakeLoader(self.balances, self.cache),
            redis=self.redis,
            audit=FakeAuditBook(),
        )

    def end_run(self, user_id: str = "alice") -> None:
        request = EndRequest(user_id, FEATURE, Usage(1, 1), process_id="run")
        known = KnownEnd(ALICE, user_id, None, "run", request.payload_hash, 0, 0, None)  # type: ignore[arg-type]
        self.runs.keys.append(known)


@pytest.fixture
def world() -> World:
    return World()


class TestCancel:
    def test_gives_the_hold_back_and_may_be_repeated(self, world: World) -> None:
        assert world.service.cancel("alice", "run") == 100 * TOKEN
        assert world.service.cancel("alice", "run") == 100 * TOKEN

    def test_a_run_that_was_billed_can_not_be_cancelled(self, world: World) -> None:
        world.records.ended.add("run")
        with pytest.raises(AlreadyEnded):
            world.service.cancel("alice", "run")

    def test_postgres_remembers_longer(self, world: World) -> None:
        world.end_run()
        with pytest.raises(AlreadyEnded):
            world.service.cancel("alice", "run")

    def test_another_users_run_of_that_name_is_none_of_hers(self, world: World) -> None:
        world.end_run("bob")
        assert world.service.cancel("alice", "run") == 100 * TOKEN

    def test_an_id_that_start_gave_to_another_user_is_refused(self, world: World) -> None:
        with pytest.raises(ProcessOfAnotherUser):
            world.service.cancel("alice", new_process_id("bob"))

    def test_with_postgres_away_giving_back_is_right_either_way(self, world: World) -> None:
        world.end_run()
        world.runs.is_away = True
        assert world.service.cancel("alice", "run") == 100 * TOKEN

    def test_nobody_else_has_a_wallet(self, world: World) -> None:
        with pytest.raises(WalletNotFound):
            world.service.cancel("bob", "run")


class TestRedisAway:
    def test_the_hold_is_given_back_once_it_answers(self, world: World) -> None:
        world.cache.is_away = True
        world.balances.wallets[ALICE] = wallet(pending_micros=TOKEN)
        assert world.service.cancel("alice", "run") == 99 * TOKEN
        world.cache.is_away = False
        world.service.release_owed()
        # The gate is closed until the watcher opens it.
        assert world.cache.holds
        world.redis.open()
        world.service.release_owed()
        assert not world.cache.holds

    def test_no_caller_gives_back_all_that_is_owed(self, world: World) -> None:
        for i in range(OWED_PER_CALL + 2):
            world.cache.holds[ALICE, f"run-{i}"] = TOKEN
            world.service.release_later(ALICE, f"run-{i}")
        world.service.release_owed()
        assert len(world.cache.holds) == 1 + 2
        world.service.release_owed()
        assert list(world.cache.holds) == [(ALICE, "run")]

    def test_what_could_not_be_given_back_stays_owed(self, world: World) -> None:
        world.service.release_later(ALICE, "run")
        world.cache.is_away = True
        world.service.release_owed()
        world.cache.is_away = False
        world.redis.open()
        world.service.release_owed()
        assert not world.cache.holds

    def test_nothing_can_be_extended_or_listed(self, world: World) -> None:
        world.cache.is_away = True
        with pytest.raises(Unavailable):
            world.service.extend(ExtendRequest("alice", "run", TOKEN, 0))
        with pytest.raises(Unavailable):
            world.service.list("alice", 10)


class TestExtend:
    def test_adds_to_an_open_hold(self, world: World) -> None:
        answer = world.service.extend(ExtendRequest("alice", "run", 5 * TOKEN, 60))
        assert (answer.access, answer.hold_micros, answer.spendable_micros) == (
            Access.GRANTED,
            35 * TOKEN,
            65 * TOKEN,
        )

    def test_denied_leaves_it_as_it_was(self, world: World) -> None:
        answer = world.service.extend(ExtendRequest("alice", "run", 71 * TOKEN, 0))
        assert (answer.access, answer.hold_micros) == (Access.DENIED, 30 * TOKEN)

    def test_only_an_open_one(self, world: World) -> None:
        with pytest.raises(HoldNotFound):
            world.service.extend(ExtendRequest("alice", "another", TOKEN, 0))

    def test_a_wallet_that_is_not_cached_is_loaded_first(self, world: World) -> None:
        world.cache.balances.clear()
        assert world.service.extend(ExtendRequest("alice", "run", TOKEN, 0)).hold_micros == 31 * TOKEN

    def test_a_key_of_another_body_is_refused(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        extend = world.holds.extend

        def seen(call: ExtendCall, epoch: int) -> ExtendReply | None:
            other = ExtendRequest("alice", "run", 2 * TOKEN, 0).payload_hash
            return extend(ExtendCall(call.wallet_id, call.process_id, 0, 0, "k", other), epoch)

        monkeypatch.setattr(world.holds, "extend", seen)
        with pytest.raises(IdempotencyConflict):
            world.service.extend(ExtendRequest("alice", "run", TOKEN, 0, idempotency_key="k"))


def test_operators_page_through_holds_and_give_one_back(world: World) -> None:
    world.cache.holds |= {(ALICE, f"run-{i}"): TOKEN for i in range(3)}
    page = world.service.list("alice", 3)
    assert [hold.process_id for hold in page.items] == ["run", "run-0", "run-1"]
    assert page.next_key is not None
    last = world.service.list("alice", 3, page.next_key)
    assert ([hold.process_id for hold in last.items], last.next_key) == (["run-2"], None)
    assert world.service.give_back("alice", "run-2").released_micros == TOKEN
    with pytest.raises(HoldNotFound):
        world.service.give_back("alice", "run-2")
