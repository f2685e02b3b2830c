"""Repricings over fake books: frozen first, then each run amended once, wherever it is interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

import app.billing.repricings as module
from app.billing.repricings import RepricingService
from app.domain.errors import AlreadyWrittenOff, NotFound, NotReady
from app.domain.rates import RateCard, Rates
from app.domain.repricings import RepricingFilter, RepricingOutcome, RepricingState
from app.domain.usage import Usage
from app.domain.wallets import wallet_of
from app.stores.postgres.ledger import NewEntry
from app.stores.postgres.repricings import RepricedEnd
from tests.unit.fake_runs import FakeRepricingBooks, is_whole
from tests.unit.fakes import ALICE, NOW, TOKEN, FakeChanges, FakeDoorbell, row

# By the default rule 40 output tokens are 10 tokens and 1 of profit; by the new card 20 and 2.
RUN = Usage(120, 40)
NEW = 3
BOB = wallet_of("bob")


class World:
    def __init__(self) -> None:
        self.books = FakeRepricingBooks(row(ALICE, 100), row(BOB, 100))
        self.books.cards = {
            NEW: RateCard(NEW, Rates(0, 500_000 * TOKEN), None, None, NOW),
            4: RateCard(4, Rates(0, 250_000 * TOKEN), None, None, NOW),
        }
        self.changes = FakeChanges()
        self.service = RepricingService(books=self.books, changes=self.changes, doorbell=FakeDoorbell())

    def ready(self, filter: RepricingFilter | None = None) -> int:
        """A dry run that has selected all it is about."""
        number = self.service.create(NEW, filter or RepricingFilter(), reason="wrong list").repricing.id
        self.service.go_on(number, lambda: True)
        assert self.state(number) is RepricingState.READY
        return number

    def applied(self, number: int) -> None:
        self.service.apply(number)
        self.service.go_on(number, lambda: True)

    def state(self, number: int) -> RepricingState:
        return self.service.get(number).repricing.state

    def tokens(self, *wallet_ids: str) -> list[int]:
        assert is_whole(self.books, 100 * TOKEN, ALICE)
        assert is_whole(self.books, 100 * TOKEN, BOB)
        return [self.books.wallets[wallet_of(user)].posted_micros // TOKEN for user in wallet_ids]


@pytest.fixture
def world() -> World:
    return World()


class TestDryRun:
    def test_says_what_it_would_cost_and_changes_nothing(self, world: World) -> None:
        for _ in range(2):
            world.books.run(RUN)
        world.books.run(RUN, user_id="bob")
        number = world.ready()
        sums = world.service.get(number).sums
        assert (sums.runs, sums.old_cost_micros, sums.new_cost_micros) == (3, 33 * TOKEN, 66 * TOKEN)
        assert world.tokens("alice", "bob") == [78, 89]
        assert world.books.kept == []

    def test_only_what_is_meant_and_would_change(self, world: World) -> None:
        world.books.run(RUN)
        world.books.run(RUN, user_id="bob")
        world.books.run(Usage(120, 40), price_id=NEW)
        world.books.run(Usage(120, 0))
        number = world.ready(RepricingFilter(user_id="alice"))
        assert world.service.get(number).sums.runs == 1

    def test_what_was_written_off_is_left_out(self, world: World) -> None:
        end_id = world.books.run(RUN)
        world.books.enter(world.books.wallets[ALICE], [NewEntry("alice", "write_off", 0, end_id=end_id)])
        assert world.service.get(world.ready()).sums.runs == 0

    def test_batch_after_batch_each_run_is_frozen_once(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "ENDS_PER_BATCH", 2)
        for _ in range(5):
            world.books.run(RUN)
        steps: list[int] = []
        number = world.service.create(NEW, RepricingFilter(), reason="wrong list").repricing.id
        turns = itertools.count()
        # Interrupted after one batch, then gone on with.
        world.service.go_on(number, lambda: next(turns) < 1, steps.append)
        assert (steps, world.state(number)) == ([2], RepricingState.SELECTING)
        world.service.go_on(number, lambda: True, steps.append)
        assert (steps, world.service.get(number).sums.runs) == ([2, 2, 1], 5)

    def test_somebody_else_is_selecting(self, world: World) -> None:
        world.books.run(RUN)
        number = world.service.create(NEW, RepricingFilter(), reason="wrong list").repricing.id
        world.books.locked = {number}
        world.service.go_on(number, lambda: True)
        assert (world.state(number), world.books.frozen[number]) == (RepricingState.SELECTING, {})

    def test_it_can_not_be_applied_before_it_has_selected(self, world: World) -> None:
        number = world.service.create(NEW, RepricingFilter(), reason="wrong list").repricing.id
        with pytest.raises(NotReady):
            world.service.apply(number)

    @pytest.mark.parametrize(
        ("price_id", "filter"), [(99, RepricingFilter()), (NEW, RepricingFilter(feature_endpoint_id="video"))]
    )
    def test_what_there_is_not(self, world: World, price_id: int, filter: RepricingFilter) -> None:
        with pytest.raises(NotFound):
            world.service.create(price_id, filter, reason="wrong list")
        with pytest.raises(NotFound):
            world.service.get(1)
        with pytest.raises(NotFound):
            world.service.go_on(1, lambda: True)


class TestApplied:
    def test_each_run_is_amended_once(self, world: World) -> None:
        end_ids = [world.books.run(RUN), world.books.run(RUN), world.books.run(RUN, user_id="bob")]
        number = world.ready()
        world.applied(number)
        assert world.state(number) is RepricingState.DONE
        assert world.tokens("alice", "bob") == [56, 78]
        assert {(c.end_id, c.reference, c.price_id) for c in world.books.kept} == {
            (end_id, f"repricing-{number}", NEW) for end_id in end_ids
        }
        # A second time there is nothing to be done, whoever asks for it.
        world.applied(number)
        world.service.work_off(1.0)
        assert world.tokens("alice", "bob") == [56, 78]
        assert len(world.books.kept) == 3

    def test_interrupted_it_goes_on_where_it_was(self, world: World) -> None:
        for _ in range(3):
            world.books.run(RUN)
        number = world.ready()
        world.service.apply(number)
        turns = itertools.count()
        world.service.go_on(number, lambda: next(turns) < 1)
        assert (len(world.books.kept), world.state(number)) == (1, RepricingState.APPLYING)
        world.service.work_off(60.0)
        assert (len(world.books.kept), world.state(number)) == (3, RepricingState.DONE)
        assert world.tokens("alice") == [34]

    def test_what_another_process_has_done_meanwhile_is_left(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        end_id = world.books.run(RUN)
        number = world.ready()
        found = world.books.open_ends

        def overtaken(*asked: Any) -> Sequence[RepricedEnd]:
            ends = found(*asked)
            world.books.set_outcome(number, end_id, RepricingOutcome.AMENDED)
            return ends

        monkeypatch.setattr(world.books, "open_ends", overtaken)
        world.applied(number)
        assert (world.books.kept, world.tokens("alice")) == ([], [89])

    def test_a_busy_wallet_is_come_back_to_and_holds_up_nobody(self, world: World) -> None:
        world.books.run(RUN)
        world.books.run(RUN, user_id="bob")
        number = world.ready()
        world.books.busy = {ALICE}
        world.applied(number)
        assert (world.tokens("alice", "bob"), world.state(number)) == ([89, 78], RepricingState.APPLYING)
        world.books.busy = set()
        world.service.go_on(number, lambda: True)
        assert (world.tokens("alice", "bob"), world.state(number)) == ([78, 78], RepricingState.DONE)

    def test_what_became_another_matter_since_is_said(self, world: World) -> None:
        written_off, unchanged, amended = (world.books.run(RUN) for _ in range(3))
        number = world.ready()
        world.books.enter(world.books.wallets[ALICE], [NewEntry("alice", "write_off", 0, end_id=written_off)])
        # Another repricing by the same card was quicker.
        another = world.ready(RepricingFilter())
        world.books.frozen[another] = {unchanged: world.books.frozen[another][unchanged]}
        world.applied(another)
        world.applied(number)
        outcomes = {end_id: outcome for (of, end_id), outcome in world.books.outcomes.items() if of == number}
        assert outcomes == {
            written_off: AlreadyWrittenOff.code,
            unchanged: RepricingOutcome.UNCHANGED,
            amended: RepricingOutcome.AMENDED,
        }
        assert world.tokens("alice") == [45]

    def test_what_is_not_covered_is_debt(self, world: World) -> None:
        for _ in range(9):
            world.books.run(RUN)
        world.applied(world.ready())
        wallet = world.books.wallets[ALICE]
        assert (world.tokens("alice"), wallet.debt_micros) == ([1], 99 * TOKEN)

    def test_it_is_in_the_audit_log_when_made_and_when_applied(self, world: World) -> None:
        world.books.run(RUN)
        number = world.ready()
        world.applied(number)
        world.service.apply(number)
        changes = [(change.action, change.subject_id) for _, change in world.books.audited]
        assert changes == [("repricing.created", str(number)), ("repricing.applied", str(number))]

    def test_newest_first(self, world: World) -> None:
        numbers = [world.ready(), world.ready(), world.ready()]
        first = world.service.list(2)
        assert [view.repricing.id for view in first.items] == [numbers[2], numbers[1]]
        assert first.next_key is not None
        assert [view.repricing.id for view in world.service.list(2, first.next_key).items] == [numbers[0]]
