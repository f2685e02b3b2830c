"""Corrections over fake books: what a run is given back or charged, from where, and once."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from redis import ConnectionError as RedisConnectionError

from app.billing.corrections import CorrectionService
from app.domain.corrections import Chargeback, CorrectionKind, CorrectionRequest, OwnReversal
from app.domain.errors import (
    AlreadyWrittenOff,
    BalanceOutOfRange,
    CorrectionOfCorrection,
    ExceedsOriginal,
    IdempotencyConflict,
    NotFound,
    ReversalNotAllowed,
    Unavailable,
    WalletNotFound,
)
from app.domain.rates import RateCard, Rates
from app.domain.usage import Usage
from app.stores.postgres.inbox import KnownEnd
from app.stores.postgres.ledger import NewEntry
from tests.unit.fake_runs import FakeRunBooks, is_whole
from tests.unit.fakes import ALICE, FEATURE, NOW, TOKEN, FakeChanges, FakeDoorbell, gate, row

# 40 output tokens are 10 tokens, and 1 of profit.
RUN = Usage(120, 40)


class FakeSpool:
    def __init__(self) -> None:
        self.ends: set[UUID] = set()
        self.is_away = False

    def size(self) -> int:
        return len(self.holding(list(self.ends)))

    def holding(self, end_ids: list[UUID]) -> set[UUID]:
        if self.is_away:
            raise RedisConnectionError
        return self.ends & set(end_ids)


class World:
    def __init__(self, tokens: int = 100) -> None:
        self.opening_micros = tokens * TOKEN
        self.books = FakeRunBooks(row(ALICE, tokens))
        self.changes = FakeChanges()
        self.doorbell = FakeDoorbell()
        self.spool = FakeSpool()
        self.redis = gate()
        self.service = CorrectionService(
            books=self.books, changes=self.changes, doorbell=self.doorbell, spool=self.spool, redis=self.redis
        )

    @property
    def tokens(self) -> tuple[int, int]:
        """Posted and owed. Ledger and debts add up to them, always."""
        assert is_whole(self.books, self.opening_micros, ALICE)
        wallet = self.books.wallets[ALICE]
        return wallet.posted_micros // TOKEN, wallet.debt_micros // TOKEN

    def set_tokens(self, tokens: int) -> None:
        """Somebody tops the wallet up, or down."""
        wallet = self.books.wallets[ALICE]
        amount_micros = tokens * TOKEN - wallet.posted_micros
        self.books.enter(wallet, [NewEntry("alice", "adjustment", amount_micros)])
        self.books.update(ALICE, {"posted_micros": tokens * TOKEN})


@pytest.fixture
def world() -> World:
    return World()


def reversal(end_id: UUID, reference: str = "r1", reason: str = "failed") -> CorrectionRequest:
    return CorrectionRequest(end_id, CorrectionKind.REVERSAL, reference, reason)


def amendment(end_id: UUID, usage: Usage, reference: str = "a1") -> CorrectionRequest:
    return CorrectionRequest(end_id, CorrectionKind.AMENDMENT, reference, "counted wrong", usage)


class TestASettledRun:
    def test_a_reversal_gives_all_of_it_back(self, world: World) -> None:
        end_id = world.books.run(RUN)
        assert world.tokens == (89, 0)
        corrected = world.service.correct(reversal(end_id))
        assert world.tokens == (100, 0)
        [entry] = corrected.entries
        assert (entry.kind, entry.corrects, entry.amount_micros) == ("reversal", end_id, 11 * TOKEN)
        assert (entry.input_tokens, entry.output_tokens, entry.base_cost_micros) == (-120, -40, -10 * TOKEN)
        assert world.changes.applied[-1].wallet.posted_micros == 100 * TOKEN

    def test_an_amendment_downwards_gives_the_difference_back(self, world: World) -> None:
        end_id = world.books.run(RUN)
        corrected = world.service.correct(amendment(end_id, Usage(120, 20)))
        assert world.tokens == (94, 0)
        assert world.books.wallets[ALICE].posted_micros == 94_500_000
        assert corrected.correction.amount_micros == 5_500_000
        assert corrected.correction.usage == Usage(120, 20)

    def test_one_upwards_is_paid_at_once_where_it_can_be(self, world: World) -> None:
        end_id = world.books.run(RUN)
        corrected = world.service.correct(amendment(end_id, Usage(120, 80)))
        assert world.tokens == (78, 0)
        assert [entry.kind for entry in corrected.entries] == ["amendment"]
        assert corrected.correction.posted_change_micros == -11 * TOKEN

    def test_and_is_debt_where_it_can_not(self, world: World) -> None:
        end_id = world.books.run(RUN)
        world.set_tokens(5)
        corrected = world.service.correct(amendment(end_id, Usage(120, 80)))
        assert world.tokens == (5, 11)
        assert (corrected.entries, corrected.correction.debt_change_micros) == ([], 11 * TOKEN)
        # And that debt is the first to go when the run is reversed: nobody is paid tokens for it.
        world.service.correct(reversal(end_id))
        assert world.tokens == (16, 0)

    def test_what_is_pinned_prices_it(self, world: World) -> None:
        card = RateCard(3, Rates(0, 1_000_000 * TOKEN), None, None, NOW)
        world.books.cards[3] = card
        end_id = world.books.run(Usage(0, 10), price_id=3)
        assert world.tokens == (89, 0)
        assert world.service.correct(amendment(end_id, Usage(0, 20))).correction.cost_after_micros == 22 * TOKEN
        by_another = replace(amendment(end_id, Usage(0, 20), "a2"), price_id=4)
        world.books.cards[4] = RateCard(4, Rates(0, 500_000 * TOKEN), None, None, NOW)
        assert world.service.correct(by_another).correction.cost_after_micros == 11 * TOKEN
        # From then on it is billed by that one.
        assert world.service.correct(amendment(end_id, Usage(0, 40), "a3")).correction.cost_after_micros == 22 * TOKEN


class TestAnUnsettledRun:
    def test_one_that_waits_is_settled_first(self, world: World) -> None:
        end_id = world.books.run(RUN, "accepted")
        corrected = world.service.correct(reversal(end_id))
        assert world.tokens == (100, 0)
        assert [entry.kind for entry in world.books.ledger] == ["usage", "reversal"]
        assert world.changes.applied[-1].told == [end_id]
        assert corrected.correction.posted_change_micros == 11 * TOKEN

    @pytest.mark.parametrize("state", ["retrying", "dead"])
    def test_debt_is_given_up_and_nothing_is_paid_out(self, state: str) -> None:
        world = World(tokens=5)
        end_id = world.books.run(RUN, state)
        assert world.tokens == (5, 11)
        corrected = world.service.correct(reversal(end_id))
        assert world.tokens == (5, 0)
        assert corrected.correction.debt_change_micros == -11 * TOKEN
        assert {entry.kind for entry in corrected.entries} <= {"usage", "reversal"}
        assert sum(entry.amount_micros for entry in world.books.ledger) == 0
        assert end_id not in world.books.failed
        # Its mark on the cached wallet goes as well.
        assert end_id in world.changes.applied[-1].told

    def test_those_behind_it_are_woken(self) -> None:
        world = World(tokens=5)
        end_id = world.books.run(RUN, "retrying")
        # Four tokens and their profit, which the five that are there will pay.
        world.books.run(Usage(0, 16), "retrying")
        world.service.correct(reversal(end_id))
        [woken] = world.doorbell.collected
        assert (woken.wallet_id, world.tokens) == (ALICE, (5, 4))


class TestOnce:
    def test_the_same_again_answers_the_same(self, world: World) -> None:
        end_id = world.books.run(RUN)
        first = world.service.correct(reversal(end_id))
        again = world.service.correct(reversal(end_id))
        assert (again.replayed, first.replayed) == (True, False)
        assert (again.correction, again.entries) == (first.correction, first.entries)
        assert world.tokens == (100, 0)
        assert len(world.changes.applied) == 1

    @pytest.mark.parametrize("another", [{"reason": "other"}, {"kind": CorrectionKind.AMENDMENT}, {"price_id": 9}])
    def test_another_body_under_its_reference_is_refused(self, world: World, another: dict[str, object]) -> None:
        end_id = world.books.run(RUN)
        world.service.correct(reversal(end_id))
        with pytest.raises(IdempotencyConflict):
            world.service.correct(replace(reversal(end_id), **another))  # type: ignore[arg-type]
        assert world.tokens == (100, 0)

    def test_what_was_given_back_is_not_given_back_again(self, world: World) -> None:
        end_id = world.books.run(RUN)
        world.service.correct(reversal(end_id))
        with pytest.raises(ExceedsOriginal):
            world.service.correct(reversal(end_id, "r2"))
        assert world.tokens == (100, 0)

    def test_each_is_in_the_audit_log_once(self, world: World) -> None:
        end_id = world.books.run(RUN)
        for _ in range(2):
            world.service.correct(reversal(end_id))
        [(_, change)] = world.books.audited
        assert (change.action, change.subject_id) == ("end.reversed", str(end_id))
        assert (change.before or {})["cost_micros"] == 11 * TOKEN


class TestRefused:
    def test_an_end_that_nobody_knows(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.service.correct(reversal(UUID(int=99)))
        with pytest.raises(NotFound):
            world.service.of_end(UUID(int=99))

    def test_one_that_is_still_spooled(self, world: World) -> None:
        world.spool.ends = {UUID(int=99)}
        with pytest.raises(Unavailable):
            world.service.correct(reversal(UUID(int=99)))

    def test_with_redis_away_one_that_postgres_does_not_know_may_be_spooled(self, world: World) -> None:
        world.spool.is_away = True
        for _ in range(2):
            with pytest.raises(Unavailable):
                world.service.correct(reversal(UUID(int=99)))
            # The second time nobody asks Redis.
            assert not world.redis.is_open
        with pytest.raises(Unavailable):
            world.service.reverse_own(OwnReversal("alice", "r", "failed", idempotency_key="key"))

    @pytest.mark.parametrize("tokens", [89, 5])
    def test_what_a_correction_has_charged(self, world: World, tokens: int) -> None:
        """Paid, or owed yet."""
        end_id = world.books.run(RUN)
        world.set_tokens(tokens)
        charge_id = world.service.correct(amendment(end_id, Usage(120, 80))).correction.charge_id
        assert charge_id is not None
        with pytest.raises(CorrectionOfCorrection):
            world.service.correct(reversal(charge_id))

    def test_a_run_that_was_written_off(self) -> None:
        world = World(tokens=5)
        end_id = world.books.run(RUN, "dead")
        world.books.enter(world.books.wallets[ALICE], [NewEntry("alice", "write_off", 0, end_id=end_id)])
        with pytest.raises(AlreadyWrittenOff):
            world.service.correct(reversal(end_id))
        assert world.books.kept == []

    def test_nothing_of_a_refused_one_stays(self, world: World) -> None:
        end_id = world.books.run(RUN, "accepted")
        world.books.cards[3] = RateCard(3, Rates(0, 2**62), None, None, NOW)
        with pytest.raises(BalanceOutOfRange):
            world.service.correct(replace(amendment(end_id, Usage(0, 10**9)), price_id=3))
        assert (world.tokens, world.books.ledger, world.books.kept) == ((100, 0), [], [])
        assert end_id in world.books.failed


class TestByTheService:
    def known(self, world: World, user_id: str = "alice") -> UUID:
        end_id = world.books.run(RUN)
        world.books.keys.append(KnownEnd(end_id, user_id, "key", "process", "", 0, 0, None))  # type: ignore[arg-type]
        return end_id

    def allow(self, world: World, seconds: int) -> None:
        world.books.features[FEATURE] = replace(world.books.features[FEATURE], reversal_seconds=seconds)

    @pytest.mark.parametrize("named", [{"idempotency_key": "key"}, {"process_id": "process"}])
    def test_within_the_window(self, world: World, named: dict[str, str]) -> None:
        end_id = self.known(world)
        self.allow(world, 60)
        world.books.ages[end_id] = 60.0
        assert world.service.reverse_own(OwnReversal("alice", "r", "failed", **named)).correction.end_id == end_id
        assert world.tokens == (100, 0)

    @pytest.mark.parametrize(("seconds", "age"), [(0, 0.0), (60, 60.1)])
    def test_not_without_one_or_behind_it(self, world: World, seconds: int, age: float) -> None:
        end_id = self.known(world)
        self.allow(world, seconds)
        world.books.ages[end_id] = age
        with pytest.raises(ReversalNotAllowed):
            world.service.reverse_own(OwnReversal("alice", "r", "failed", idempotency_key="key"))
        assert world.tokens == (89, 0)

    def test_not_of_another_user(self, world: World) -> None:
        self.known(world, "bob")
        self.allow(world, 60)
        with pytest.raises(NotFound):
            world.service.reverse_own(OwnReversal("alice", "r", "failed", idempotency_key="key"))

    def test_both_keys_have_to_be_of_one_run(self, world: World) -> None:
        self.known(world)
        self.allow(world, 60)
        with pytest.raises(NotFound):
            world.service.reverse_own(OwnReversal("alice", "r", "failed", process_id="other", idempotency_key="key"))

    def test_while_anything_is_spooled_an_unknown_key_may_be_in_it(self, world: World) -> None:
        world.spool.ends = {UUID(int=5)}
        with pytest.raises(Unavailable):
            world.service.reverse_own(OwnReversal("alice", "r", "failed", idempotency_key="key"))


class TestChargeback:
    def test_what_is_there_is_taken_and_else_owed(self, world: World) -> None:
        paid = world.service.charge_back(Chargeback("alice", 60 * TOKEN, "c1"))
        assert (world.tokens, paid.correction.posted_change_micros) == ((40, 0), -60 * TOKEN)
        owed = world.service.charge_back(Chargeback("alice", 60 * TOKEN, "c2"))
        assert (world.tokens, owed.correction.debt_change_micros) == ((40, 60), 60 * TOKEN)

    def test_once(self, world: World) -> None:
        asked = Chargeback("alice", 60 * TOKEN, "c1", "stolen card")
        world.service.charge_back(asked)
        assert world.service.charge_back(asked).replayed
        assert world.tokens == (40, 0)
        for another in (replace(asked, amount_micros=TOKEN), replace(asked, reason="other")):
            with pytest.raises(IdempotencyConflict):
                world.service.charge_back(another)

    def test_a_reference_of_a_posting_is_taken(self, world: World) -> None:
        world.books.enter(world.books.wallets[ALICE], [NewEntry("alice", "top_up", 0, reference="t1")])
        with pytest.raises(IdempotencyConflict):
            world.service.charge_back(Chargeback("alice", TOKEN, "t1"))

    def test_a_wallet_that_there_is_not(self, world: World) -> None:
        with pytest.raises(WalletNotFound):
            world.service.charge_back(Chargeback("bob", TOKEN, "c1"))
