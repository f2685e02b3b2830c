"""Failed ends over fake books: replayed to whom they belong, written off once."""

from __future__ import annotations

from uuid import UUID

import pytest

from app.domain.errors import AlreadyExists, NotFound, WalletNotFound
from app.domain.failed_ends import Filter
from app.domain.keys import Caller
from app.domain.reasons import FailureReason
from app.domain.wallets import wallet_of
from app.operations.failed_ends import FailedEndService
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.ledger import billed
from tests.unit.fake_books import FakeBooks
from tests.unit.fakes import ALICE, TOKEN, FakeChanges, FakeDoorbell, row

COST = 11 * TOKEN
BOB = wallet_of("bob")


class World:
    def __init__(self) -> None:
        self.books = FakeBooks(row(ALICE, tokens=5), row(BOB))
        self.changes = FakeChanges()
        self.bell = FakeDoorbell()
        self.service = FailedEndService(books=self.books, changes=self.changes, doorbell=self.bell)

    def owe(self, **values: object) -> UUID:
        self.books.update(ALICE, {"debt_micros": self.books.wallets[ALICE].debt_micros + COST})
        return self.books.fail(**values)


@pytest.fixture
def world() -> World:
    return World()


class TestReplay:
    def test_what_lacks_tokens_is_collected(self, world: World) -> None:
        end_id = world.owe(state="dead")
        assert world.service.replay(end_id).state == "retrying"
        assert world.bell.collected == [IndebtedWallet(ALICE, COST)]
        assert not world.bell.settled

    def test_anything_else_is_settled_again(self, world: World) -> None:
        end_id = world.owe(state="dead", last_error=FailureReason.QUOTE_DISAGREES)
        assert world.service.replay(end_id).state == "accepted"
        assert (world.bell.settled, world.bell.collected) == ([end_id], [])

    def test_one_that_is_not_there(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.service.replay(UUID(int=9))


class TestWriteOff:
    def test_leaves_the_balance_and_ends_the_debt(self, world: World) -> None:
        end_id = world.owe()
        written = world.service.write_off(end_id, "left", Caller("ops"))
        assert (written.entry.kind, written.entry.actor, written.replayed) == ("write_off", "ops", False)
        assert [(entry.kind, entry.amount_micros) for entry in world.books.ledger] == [
            ("write_off", COST),
            ("usage", -COST),
        ]
        assert world.books.ledger[-1].balance_after_micros == 5 * TOKEN
        assert (world.books.wallets[ALICE].posted_micros, world.books.wallets[ALICE].debt_micros) == (5 * TOKEN, 0)
        assert not world.books.failed
        # The cached copy forgets its mark.
        assert [change.told for change in world.changes.applied] == [[end_id]]

    def test_answers_as_it_did(self, world: World) -> None:
        end_id = world.owe()
        first = world.service.write_off(end_id, "left", Caller("ops"))
        again = world.service.write_off(end_id, "left", Caller("ops"))
        assert (again.entry, again.replayed) == (first.entry, True)
        assert len(world.books.ledger) == 2
        # One that isn't there any more needs no turn.
        assert world.books.turns == [ALICE]

    def test_what_no_debt_tells_of_takes_nothing_from_it(self, world: World) -> None:
        world.owe()
        end_id = world.books.fail(is_debt=False)
        world.service.write_off(end_id, "left", Caller("ops"))
        assert world.books.wallets[ALICE].debt_micros == COST

    def test_what_stood_behind_it_may_be_payable(self, world: World) -> None:
        end_id = world.owe()
        world.books.update(ALICE, {"debt_micros": COST + 4 * TOKEN})
        world.service.write_off(end_id, "left", Caller("ops"))
        assert world.bell.collected == [IndebtedWallet(ALICE, 4 * TOKEN)]

    def test_one_that_is_billed_can_not_be(self, world: World) -> None:
        end_id = world.owe()
        wallet = world.books.wallets[ALICE]
        entry = billed(world.books.failed[end_id])
        world.books.enter(wallet, [entry])
        with pytest.raises(AlreadyExists):
            world.service.write_off(end_id, "left", Caller("ops"))
        assert end_id in world.books.failed

    def test_without_end_or_wallet(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.service.write_off(UUID(int=9), "left", Caller("ops"))
        with pytest.raises(WalletNotFound):
            world.service.write_off(world.books.fail("carol"), "left", Caller("ops"))


def test_looking_at_them(world: World) -> None:
    ends = [world.owe() for _ in range(3)]
    page = world.service.list(Filter(), 2)
    assert ([end.id for end in page.items], page.next_key) == (ends[:2], str(ends[1]))
    assert [end.id for end in world.service.list(Filter(), 2, str(ends[1])).items] == ends[2:]
    assert world.service.count(Filter(state="dead")) == 0
    assert world.service.get(ends[0]).cost_micros == COST
    with pytest.raises(NotFound):
        world.service.get(UUID(int=9))
