"""Postings over fake books: once under each reference, within the bounds, and told to whom it concerns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.billing.postings import PostingService
from app.domain.amounts import BALANCE_MICROS_MAX
from app.domain.errors import BalanceOutOfRange, IdempotencyConflict, WalletBusy, WalletNotFound
from app.domain.postings import Posting, PostingKind
from app.stores.postgres.debts import IndebtedWallet
from tests.unit.fake_books import FakeBooks
from tests.unit.fakes import ALICE, TOKEN, FakeChanges, FakeDoorbell, row


class World:
    def __init__(self) -> None:
        self.books = FakeBooks(row(ALICE, tokens=100))
        self.changes = FakeChanges()
        self.bell = FakeDoorbell()
        self.service = PostingService(books=self.books, changes=self.changes, doorbell=self.bell)

    def set(self, **fields: int) -> None:
        self.books.wallets[ALICE] = replace(self.books.wallets[ALICE], **fields)


@pytest.fixture
def world() -> World:
    return World()


def posting(tokens: int, kind: PostingKind = PostingKind.TOP_UP, reference: str = "r", reason: str = "") -> Posting:
    return Posting("alice", kind, tokens * TOKEN, reference, reason or None)


def test_a_top_up_enters_the_ledger_and_is_announced(world: World) -> None:
    posted = world.service.post(posting(20))
    assert (posted.entry.balance_after_micros, posted.replayed) == (120 * TOKEN, False)
    [change] = world.changes.applied
    assert (change.wallet.posted_micros, change.wallet.version) == (120 * TOKEN, 3)
    # It takes the wallet's turn, so that others find connections.
    assert world.books.turns == [ALICE]
    assert not world.bell.collected


def test_the_same_reference_posts_once(world: World) -> None:
    first, again = world.service.post(posting(20)), world.service.post(posting(20))
    assert (again.entry, again.replayed) == (first.entry, True)
    assert len(world.books.ledger) == len(world.changes.applied) == 1


@pytest.mark.parametrize(
    "other",
    [posting(21), posting(20, PostingKind.REFUND), posting(20, reason="another")],
    ids=["amount", "kind", "reason"],
)
def test_the_same_reference_with_another_body_is_refused(world: World, other: Posting) -> None:
    world.service.post(posting(20))
    with pytest.raises(IdempotencyConflict):
        world.service.post(other)
    assert world.books.wallets[ALICE].posted_micros == 120 * TOKEN


def test_the_reference_of_a_chargeback_is_taken(world: World) -> None:
    world.books.chargebacks.add("r")
    with pytest.raises(IdempotencyConflict):
        world.service.post(posting(20))


@pytest.mark.parametrize(("tokens", "fits"), [(-150, True), (-151, False)])
def test_an_adjustment_reaches_down_to_the_overdraft_limit(world: World, tokens: int, fits: bool) -> None:
    world.set(overdraft_limit_micros=50 * TOKEN)
    if fits:
        assert world.service.post(posting(tokens, PostingKind.ADJUSTMENT)).entry.balance_after_micros == -50 * TOKEN
        return
    with pytest.raises(BalanceOutOfRange):
        world.service.post(posting(tokens, PostingKind.ADJUSTMENT))
    assert not world.books.ledger


def test_no_balance_grows_beyond_what_is_exact(world: World) -> None:
    world.set(posted_micros=BALANCE_MICROS_MAX - 1)
    with pytest.raises(BalanceOutOfRange):
        world.service.post(posting(1))


def test_a_credit_that_pays_the_oldest_debt_has_it_collected(world: World) -> None:
    world.set(debt_micros=110 * TOKEN)
    world.service.post(posting(5, reference="too little"))
    assert not world.bell.collected
    world.service.post(posting(5, reference="enough"))
    assert world.bell.collected == [IndebtedWallet(ALICE, 110 * TOKEN)]


def test_what_is_taken_out_wakes_nobody(world: World) -> None:
    world.set(debt_micros=TOKEN)
    world.service.post(posting(-5, PostingKind.ADJUSTMENT))
    assert not world.bell.collected


def test_nobody_else_has_a_wallet(world: World) -> None:
    with pytest.raises(WalletNotFound):
        world.service.post(replace(posting(5), user_id="bob"))


def test_a_locked_wallet_is_told_as_such_and_nothing_announced(world: World) -> None:
    world.books.busy.add(ALICE)
    with pytest.raises(WalletBusy):
        world.service.post(posting(5))
    assert not world.changes.applied
