"""end over fake stores: what is decided where, what is durable before yes, and what becomes of it when one is away."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import DataError

from app.billing.end import EndService
from app.billing.end_decide import EndDecider
from app.billing.end_record import EndRecorder
from app.billing.pricer import Pricer
from app.domain.ends import EndAnswer, EndRequest
from app.domain.errors import (
    FeatureNotAvailable,
    IdempotencyConflict,
    ProcessOfAnotherUser,
    Unavailable,
    UnknownPayloadVersion,
    WalletNotFound,
)
from app.domain.processes import new_process_id
from app.domain.usage import Usage
from app.domain.wallets import Balance, Deduction, wallet_of
from tests.unit.fakes import (
    ALICE,
    FEATURE,
    NOW,
    TOKEN,
    FakeBalances,
    FakeCache,
    FakeCatalog,
    FakeDoorbell,
    FakeHoldService,
    FakeIntake,
    FakeLoader,
    FakeSpool,
    gate,
    wallet,
)

# 40 output tokens and 10 %.
COST = 11 * TOKEN


class World:
    def __init__(self) -> None:
        catalog = FakeCatalog()
        self.balances = FakeBalances(wallet(), wallet("bob", tokens=10))
        self.cache = FakeCache()
        self.loader = FakeLoader(self.balances, self.cache)
        self.intake = FakeIntake()
        self.spool = FakeSpool(self.cache)
        self.holds = FakeHoldService()
        self.bell = FakeDoorbell()
        self.redis = gate()
        self.service = EndService(
            pricer=Pricer(catalog=catalog, now=lambda: NOW),
            catalog=catalog,
            decider=EndDecider(cache=self.cache, balances=self.balances, holds=self.holds, redis=self.redis),
            recorder=EndRecorder(
                intake=self.intake,
                cache=self.cache,
                in_flight=self.cache,
                loader=self.loader,
                spool=self.spool,
                redis=self.redis,
            ),
            loader=self.loader,
            holds=self.holds,
            redis=self.redis,
            doorbell=self.bell,
            timeout_seconds=1,
        )

    def lose(self, *, postgres: bool = False, redis: bool = False) -> None:
        self.balances.is_away = self.intake.is_away = postgres
        self.cache.is_away = redis


@pytest.fixture
def world() -> World:
    return World()


def usage(user_id: str = "alice", output_tokens: int = 40, **fields: Any) -> EndRequest:
    return EndRequest(user_id, FEATURE, Usage(10, output_tokens), **fields)


def test_it_is_recorded_with_its_price_before_the_answer(world: World) -> None:
    assert world.service.end(usage()) == EndAnswer("alice", 89 * TOKEN, COST, Deduction.COVERED)
    [recorded] = world.intake.rows.values()
    assert (recorded.wallet_id, recorded.price.base_micros, recorded.price.profit_micros) == (
        ALICE,
        10 * TOKEN,
        TOKEN,
    )
    assert recorded.price.profit_rule_id == 7
    assert world.bell.settled == [recorded.id]
    assert recorded.id in world.cache.marks
    assert not world.cache.in_flight


def test_what_the_balance_does_not_cover_is_recorded_as_failed(world: World) -> None:
    answer = world.service.end(usage("bob"))
    assert (answer.deduction, answer.spendable_micros) == (Deduction.FAILED, -TOKEN)
    assert len(world.intake.rows) == len(world.bell.settled) == 1


def test_nothing_used_is_not_recorded(world: World) -> None:
    world.cache.balances[ALICE] = Balance(100 * TOKEN)
    world.cache.holds[ALICE, "run"] = 30 * TOKEN
    answer = world.service.end(EndRequest("alice", FEATURE, Usage(0, 0, requests=0), process_id="run"))
    assert answer == EndAnswer("alice", 100 * TOKEN, 0, Deduction.COVERED)
    assert not any((world.intake.rows, world.cache.marks, world.cache.holds, world.bell.settled))


def test_refused_before_any_store_is_asked(world: World) -> None:
    world.lose(postgres=True, redis=True)
    with pytest.raises(FeatureNotAvailable):
        world.service.end(EndRequest("alice", "video", Usage(1, 1)))
    with pytest.raises(ProcessOfAnotherUser):
        world.service.end(usage(process_id=new_process_id("bob")))


def test_nobody_else_has_a_wallet(world: World) -> None:
    with pytest.raises(WalletNotFound):
        world.service.end(usage("carol"))
    world.lose(redis=True)
    with pytest.raises(WalletNotFound):
        world.service.end(usage("carol"))


class TestKeys:
    @pytest.mark.parametrize("by", ["idempotency_key", "process_id"])
    def test_the_same_again_bills_once(self, world: World, by: str) -> None:
        first, again = world.service.end(usage(**{by: "k"})), world.service.end(usage(**{by: "k"}))
        assert (first.replayed, again.replayed) == (False, True)
        assert (again.cost_micros, again.spendable_micros) == (first.cost_micros, first.spendable_micros)
        assert len(world.intake.rows) == 1
        assert set(world.bell.settled) == set(world.intake.rows)

    def test_another_body_is_refused(self, world: World) -> None:
        world.service.end(usage(idempotency_key="k"))
        with pytest.raises(IdempotencyConflict):
            world.service.end(usage(idempotency_key="k", output_tokens=41))
        assert world.cache.spendable_micros() == 89 * TOKEN

    def test_a_key_that_redis_has_forgotten_is_known_to_postgres(self, world: World) -> None:
        first = world.service.end(usage(idempotency_key="k"))
        world.cache.ends.clear()
        again = world.service.end(usage(idempotency_key="k"))
        assert (again.replayed, again.spendable_micros) == (True, first.spendable_micros)
        # The second mark was taken back.
        assert list(world.cache.marks) == list(world.intake.rows)
        assert world.cache.spendable_micros() == 89 * TOKEN
        world.cache.ends.clear()
        with pytest.raises(IdempotencyConflict):
            world.service.end(usage(idempotency_key="k", output_tokens=41))
        assert world.cache.spendable_micros() == 89 * TOKEN

    def test_a_repeat_records_what_the_first_call_did_not_get_to(self, world: World) -> None:
        world.intake.is_away = True
        world.redis.close(Exception("both away for the first call's last step"))
        world.redis.open()
        world.cache.balances[ALICE] = Balance(100 * TOKEN)
        request = usage(idempotency_key="k")
        [reply] = world.cache.end([world.service._priced(request).mark], 1)
        assert reply is not None
        world.intake.is_away = False
        answer = world.service.end(request)
        assert answer.replayed
        assert list(world.intake.rows) == [reply.end_id]
        # Its mark may be given back at this moment.
        assert world.intake.outdated == {ALICE}
        assert world.loader.refreshed == [ALICE]

    def test_a_body_of_a_newer_version_can_not_be_compared(self, world: World) -> None:
        request = usage(idempotency_key="k")
        world.service.end(request)
        reply = world.cache.ends["k"]
        world.cache.ends["k"] = type(reply)(
            reply.end_id, "99:abc", reply.spendable_micros, reply.deduction, reply.price, seen=True
        )
        with pytest.raises(UnknownPayloadVersion):
            world.service.end(request)

    def test_twice_in_one_batch_bills_once(self, world: World) -> None:
        first, again = world.service.end_all([usage(idempotency_key="k")] * 2)
        assert isinstance(first, EndAnswer)
        assert isinstance(again, EndAnswer)
        assert (first.replayed, again.replayed) == (False, True)
        assert len(world.intake.rows) == 1


class TestPostgresAway:
    def test_redis_keeps_what_redis_has_decided(self, world: World) -> None:
        world.cache.balances[ALICE] = Balance(100 * TOKEN)
        world.lose(postgres=True)
        assert world.service.end(usage()).spendable_micros == 89 * TOKEN
        [kept] = world.spool.ends
        assert kept.id in world.cache.marks
        assert world.bell.settled == [kept.id]

    def test_a_wallet_that_is_not_cached_is_refused(self, world: World) -> None:
        world.lose(postgres=True)
        with pytest.raises(Unavailable):
            world.service.end(usage())
        assert not world.spool.ends


class TestRedisAway:
    def test_postgres_decides_one_after_the_other(self, world: World) -> None:
        world.lose(redis=True)
        ends = world.service.end_all([usage(output_tokens=160), usage(output_tokens=200), usage(output_tokens=4)])
        assert [end.deduction for end in ends if isinstance(end, EndAnswer)] == [
            Deduction.COVERED,
            Deduction.COVERED,
            Deduction.FAILED,
        ]
        assert [end.spendable_micros for end in ends if isinstance(end, EndAnswer)] == [
            56 * TOKEN,
            TOKEN,
            -TOKEN // 10,
        ]
        assert len(world.intake.rows) == 3

    def test_what_is_cached_counts_as_old_from_then_on(self, world: World) -> None:
        world.lose(redis=True)
        world.service.end(usage(process_id="run"))
        assert world.redis.take_bypass()
        assert world.intake.outdated == {ALICE}
        # The run may have a hold there.
        assert world.holds.later == [(ALICE, "run")]

    def test_both_away_is_unavailable_and_nothing_is_kept(self, world: World) -> None:
        world.lose(postgres=True, redis=True)
        with pytest.raises(Unavailable):
            world.service.end(usage())
        assert not any((world.intake.rows, world.spool.ends, world.bell.settled))

    def test_redis_that_fails_to_keep_it_is_unavailable(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.cache.balances[ALICE] = Balance(100 * TOKEN)
        world.lose(postgres=True)

        def gone(_: Any) -> None:
            world.cache.is_away = True
            world.cache._ask()

        monkeypatch.setattr(world.spool, "put", gone)
        with pytest.raises(Unavailable):
            world.service.end(usage())
        assert not world.redis.is_open


def test_a_wallet_that_cannot_be_cached_is_decided_by_postgres(world: World) -> None:
    world.loader.refuses.add(ALICE)
    assert world.service.end(usage()).spendable_micros == 89 * TOKEN
    # Redis works, and is told that its copies lack this one.
    assert world.redis.is_open
    assert not world.redis.take_bypass()
    assert world.intake.outdated == {ALICE}


def test_what_postgres_refuses_fails_alone_and_takes_its_mark_back(world: World) -> None:
    world.intake.refuses.add("bad")
    good, bad, other = world.service.end_all(
        [usage(idempotency_key="good"), usage(idempotency_key="bad"), usage("bob", idempotency_key="other")]
    )
    assert isinstance(good, EndAnswer)
    assert isinstance(bad, DataError)
    assert isinstance(other, EndAnswer)
    assert {end.request.idempotency_key for end in world.intake.rows.values()} == {"good", "other"}
    assert set(world.cache.marks) == set(world.intake.rows)
    assert world.cache.spendable_micros() == 89 * TOKEN


def test_one_that_is_refused_leaves_its_neighbours_alone(world: World) -> None:
    refused, answered, missing = world.service.end_all(
        [EndRequest("alice", "video", Usage(1, 1)), usage(), usage("carol")],
    )
    assert isinstance(refused, FeatureNotAvailable)
    assert isinstance(answered, EndAnswer)
    assert isinstance(missing, WalletNotFound)


def test_a_mark_that_was_lost_meanwhile_corrects_its_wallet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    record = world.intake.record

    def flushed(*arguments: Any) -> Any:
        world.cache.marks.clear()
        return record(*arguments)

    monkeypatch.setattr(world.intake, "record", flushed)
    world.service.end(usage())
    assert world.loader.refreshed == [wallet_of("alice")]
