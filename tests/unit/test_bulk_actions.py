"""Bulk actions over fake books: frozen, confirmed by their figures, worked off once, with an outcome for each end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from app.domain.bulk_actions import BulkKind, BulkOutcome, BulkState
from app.domain.errors import BulkActionCancelled, FiguresDiffer, IdempotencyConflict, NotFound, WalletNotFound
from app.domain.failed_ends import Filter
from app.domain.keys import Caller
from app.domain.reasons import FailureReason
from app.domain.wallets import wallet_of
from app.operations import bulk_actions
from app.operations.bulk_actions import Asked, BulkActionService, BulkView
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.ledger import billed
from tests.unit.fake_bulk import FakeBulkBooks
from tests.unit.fakes import ALICE, TOKEN, FakeChanges, FakeDoorbell, row

COST = 11 * TOKEN
BOB = wallet_of("bob")


class World:
    """Three failed ends of Alice and two of Bob."""

    def __init__(self) -> None:
        self.books = FakeBulkBooks(row(ALICE, tokens=5), row(BOB))
        self.changes = FakeChanges()
        self.bell = FakeDoorbell()
        self.service = BulkActionService(books=self.books, changes=self.changes, doorbell=self.bell)
        self.mine = [self.books.fail() for _ in range(3)]
        self.theirs = [self.books.fail("bob", state="dead") for _ in range(2)]
        for wallet_id, ends in ((ALICE, 3), (BOB, 2)):
            self.books.update(wallet_id, {"debt_micros": ends * COST})

    def draft(self, action: BulkKind = BulkKind.WRITE_OFF, which: Any = None, **values: Any) -> int:
        asked = {"selection": {"filter": {}}, "reference": "r", "reason": "left", "caller": Caller("ann"), **values}
        drafted, _ = self.service.draft(Asked(action, Filter() if which is None else which, **asked))
        return drafted.action.id

    def confirm(self, number: int) -> None:
        action = self.books.actions[number]
        self.service.confirm(number, ends=action.ends, cost_micros=action.cost_micros, caller=Caller("ben"))

    def start(self, action: BulkKind = BulkKind.WRITE_OFF, **values: Any) -> int:
        number = self.draft(action, **values)
        self.confirm(number)
        return number

    def work_off(self) -> bool:
        return self.service.work_off(seconds=60)

    def settle(self, end_id: UUID) -> None:
        """What a worker does."""
        end = self.books.failed.pop(end_id)
        self.books.enter(self.books.wallets[end.wallet_id], [billed(end)])

    def outcomes(self, number: int) -> dict[UUID, BulkOutcome | None]:
        return {end.end_id: end.outcome for end in self.service.ends(number, 100).items}


@pytest.fixture
def world() -> World:
    return World()


class TestDraft:
    def test_freezes_and_does_nothing(self, world: World) -> None:
        view = world.service.get(world.draft())
        assert (view.action.state, view.action.ends, view.action.cost_micros, view.figures.users) == (
            "draft",
            5,
            5 * COST,
            2,
        )
        assert [(each.key, each.ends, each.cost_micros) for each in view.figures.by_user] == [
            ("alice", 3, 3 * COST),
            ("bob", 2, 2 * COST),
        ]
        # What fails later is not meant.
        world.books.fail()
        assert not world.work_off()
        assert (world.service.get(view.action.id).action.ends, world.books.ledger) == (5, [])

    def test_of_ids_only_those_that_have_failed(self, world: World) -> None:
        number = world.draft(which=[world.mine[0], UUID(int=99)])
        assert list(world.outcomes(number)) == [world.mine[0]]

    def test_asked_for_again_it_is_the_same(self, world: World) -> None:
        number = world.draft()
        assert world.draft() == number
        for slip in ({"reason": "other"}, {"selection": {"ids": []}}, {"action": BulkKind.REPLAY}):
            with pytest.raises(IdempotencyConflict):
                world.draft(**slip)

    def test_old_ones_are_forgotten(self, world: World) -> None:
        kept, forgotten = world.start(), world.draft(reference="r2")
        world.service.forget_drafts()
        assert world.service.get(kept).action.id == kept
        with pytest.raises(NotFound):
            world.service.get(forgotten)


class TestConfirmation:
    @pytest.mark.parametrize(("ends", "cost_micros", "named"), [(4, 5 * COST, ["ends"]), (5, COST, ["cost"])])
    def test_other_figures_are_refused(self, world: World, ends: int, cost_micros: int, named: list[str]) -> None:
        number = world.draft()
        with pytest.raises(FiguresDiffer) as refused:
            world.service.confirm(number, ends=ends, cost_micros=cost_micros, caller=Caller("ben"))
        assert list(refused.value.errors or ()) == named
        assert world.books.actions[number].state is BulkState.DRAFT

    def test_once_is_enough(self, world: World) -> None:
        number = world.start()
        world.confirm(number)
        world.work_off()
        ledger = list(world.books.ledger)
        world.confirm(number)
        assert not world.work_off()
        assert (world.service.get(number).action.state, world.books.ledger) == ("done", ledger)

    def test_of_nothing_it_is_done(self, world: World) -> None:
        world.books.failed.clear()
        assert world.service.get(world.start()).action.state is BulkState.DONE

    def test_of_what_there_is_not(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.service.confirm(9, ends=0, cost_micros=0, caller=Caller("ben"))


class TestWriteOff:
    def test_each_end_as_a_single_one(self, world: World) -> None:
        number = world.start()
        world.work_off()
        assert set(world.outcomes(number).values()) == {BulkOutcome.WRITTEN_OFF}
        assert [(e.wallet_id, e.kind, e.amount_micros) for e in world.books.ledger] == [
            *[(ALICE, "write_off", COST), (ALICE, "usage", -COST)] * 3,
            *[(BOB, "write_off", COST), (BOB, "usage", -COST)] * 2,
        ]
        entry = world.books.ledger[0]
        assert (entry.reason, entry.actor, entry.reference) == ("left", "ben", "r")
        assert {wallet.id: (wallet.posted_micros, wallet.debt_micros) for wallet in world.books.wallets.values()} == {
            ALICE: (5 * TOKEN, 0),
            BOB: (0, 0),
        }
        assert [change.told for change in world.changes.applied] == [world.mine, world.theirs]
        assert not world.books.failed

    def test_what_somebody_else_has_done_meanwhile_is_said(self, world: World) -> None:
        number = world.start()
        first, second, third = world.mine
        world.settle(first)
        world.books.failed[second].cost_micros += 1
        world.books.failed[third].state = "accepted"
        world.books.wallets.pop(BOB)
        world.work_off()
        assert world.outcomes(number) == {
            first: BulkOutcome.ALREADY_SETTLED,
            second: BulkOutcome.CHANGED,
            # Somebody's replay: what comes of that isn't known yet.
            third: None,
            **dict.fromkeys(world.theirs, BulkOutcome.REFUSED),
        }
        assert world.service.ends(number, 9, outcome=BulkOutcome.REFUSED).items[0].detail == WalletNotFound.code
        world.books.failed[third].state = "dead"
        world.work_off()
        assert world.outcomes(number)[third] is BulkOutcome.WRITTEN_OFF
        assert world.service.get(number).action.state is BulkState.DONE

    def test_written_off_by_another_action(self, world: World) -> None:
        first = world.start(which=world.mine)
        second = world.start(reference="r2")
        world.work_off()
        assert set(world.outcomes(first).values()) == {BulkOutcome.WRITTEN_OFF}
        assert world.outcomes(second) == {
            **dict.fromkeys(world.mine, BulkOutcome.ALREADY_WRITTEN_OFF),
            **dict.fromkeys(world.theirs, BulkOutcome.WRITTEN_OFF),
        }
        assert len(world.books.ledger) == 10

    def test_a_locked_wallet_has_its_turn_later(self, world: World) -> None:
        number = world.start()
        world.books.busy.add(ALICE)
        assert not world.work_off()
        assert world.outcomes(number) == {
            **dict.fromkeys(world.mine), **dict.fromkeys(world.theirs, BulkOutcome.WRITTEN_OFF)
        }  # fmt: skip
        world.books.busy.clear()
        world.work_off()
        assert world.service.get(number).action.state is BulkState.DONE

    @pytest.mark.parametrize("batches", [0, 1, 2])
    def test_killed_anywhere_it_goes_on(self, world: World, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
        monkeypatch.setattr(bulk_actions, "ENDS_PER_BATCH", 2)
        number = world.start()
        world.books.dies_after = batches
        with pytest.raises(KeyboardInterrupt):
            world.work_off()
        world.books.dies_after = None
        world.work_off()
        assert set(world.outcomes(number).values()) == {BulkOutcome.WRITTEN_OFF}
        assert len(world.books.ledger) == 10

    def test_in_slices(self, world: World) -> None:
        number = world.start()
        assert world.service.work_off(seconds=0)
        assert world.outcomes(number) == dict.fromkeys([*world.mine, *world.theirs])

    def test_one_at_a_time(self, world: World) -> None:
        world.start()
        world.books.is_taken = True
        assert not world.work_off()
        assert world.books.ledger == []


class TestReplay:
    def test_sent_first_and_looked_after_later(self, world: World) -> None:
        poor, rich, later = world.mine
        world.books.failed[rich].last_error = FailureReason.QUOTE_DISAGREES
        number = world.start(BulkKind.REPLAY)
        world.work_off()
        view = world.service.get(number)
        assert (view.action.state, view.figures.open, view.figures.awaited) == ("running", 5, 5)
        assert world.bell.settled == [rich]
        assert world.bell.collected == [IndebtedWallet(ALICE, 2 * COST), IndebtedWallet(BOB, 2 * COST)]
        # Nobody is replayed twice.
        world.work_off()
        assert world.bell.settled == [rich]

        world.settle(rich)
        world.books.failed[poor].is_tried = True
        world.work_off()
        assert world.outcomes(number) == {
            poor: BulkOutcome.FAILED_AGAIN,
            rich: BulkOutcome.SETTLED,
            **dict.fromkeys([later, *world.theirs]),
        }
        assert world.service.ends(number, 9, outcome=BulkOutcome.FAILED_AGAIN).items[0].detail == "insufficient_tokens"
        for end_id in (later, *world.theirs):
            world.settle(end_id)
        world.work_off()
        assert world.service.get(number).action.state is BulkState.DONE

    def test_what_was_settled_meanwhile(self, world: World) -> None:
        number = world.start(BulkKind.REPLAY, which=world.mine)
        world.settle(world.mine[0])
        world.work_off()
        assert world.outcomes(number)[world.mine[0]] is BulkOutcome.ALREADY_SETTLED

    def test_it_fails_for_another_reason(self, world: World) -> None:
        number = world.start(BulkKind.REPLAY, which=[world.mine[0]])
        world.work_off()
        end = world.books.failed[world.mine[0]]
        end.state, end.last_error = "dead", FailureReason.TOO_SLOW
        world.work_off()
        [item] = world.service.ends(number, 9).items
        assert (item.outcome, item.detail) == (BulkOutcome.FAILED_AGAIN, "too_slow")


class TestCancel:
    def test_a_draft(self, world: World) -> None:
        number = world.draft()
        assert world.service.cancel(number, caller=Caller("ann")).action.state is BulkState.CANCELLED
        with pytest.raises(BulkActionCancelled):
            world.confirm(number)
        assert not world.work_off()
        assert world.books.ledger == []

    def test_half_way(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        number = world.start()
        world.books.busy.add(BOB)
        world.work_off()
        world.service.cancel(number, caller=Caller("ann"))
        world.books.busy.clear()
        world.work_off()
        assert world.outcomes(number) == {
            **dict.fromkeys(world.mine, BulkOutcome.WRITTEN_OFF), **dict.fromkeys(world.theirs, BulkOutcome.CANCELLED)
        }  # fmt: skip

    def test_what_was_replayed_is_looked_after(self, world: World) -> None:
        number = world.start(BulkKind.REPLAY)
        world.books.busy.add(BOB)
        world.work_off()
        assert world.service.cancel(number, caller=Caller("ann")).action.state is BulkState.CANCELLING
        for end_id in world.mine:
            world.settle(end_id)
        world.books.busy.clear()
        world.work_off()
        assert world.service.get(number).action.state is BulkState.CANCELLED
        assert world.outcomes(number) == {
            **dict.fromkeys(world.mine, BulkOutcome.SETTLED), **dict.fromkeys(world.theirs, BulkOutcome.CANCELLED)
        }  # fmt: skip

    def test_one_that_is_done_stays_done(self, world: World) -> None:
        number = world.start()
        world.work_off()
        assert world.service.cancel(number, caller=Caller("ann")).action.state is BulkState.DONE


def test_in_the_foreground(world: World) -> None:
    number = world.start()
    seen: list[int] = []

    def on_step(view: BulkView) -> None:
        seen.append(view.figures.open)

    assert world.service.go_on(number, on_step).action.state is BulkState.DONE
    assert seen == [5, 0]
    assert [action.id for action in world.service.list(10).items] == [number]
