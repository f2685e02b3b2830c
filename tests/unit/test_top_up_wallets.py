"""Topping up one wallet of many, over fake books: once, with an outcome, and nobody else's trouble."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.billing.top_up_wallets import WalletTopUp
from app.domain.top_ups import Target, TopUpAmount, TopUpMode, TopUpState
from app.domain.wallets import WalletStatus, wallet_of
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.top_ups import BatchWallet, Plan, TopUpBatch
from tests.unit.fake_top_ups import FakeTopUpBooks
from tests.unit.fakes import ALICE, NOW, PACKAGE, TOKEN, FakeChanges, FakeDoorbell, row

BATCH = TopUpBatch(
    id=7,
    reference="spring",
    state=TopUpState.APPLYING,
    schedule_id=None,
    due_on=None,
    target=Target(package_id=PACKAGE, status=WalletStatus.ACTIVE),
    amount=TopUpAmount(TopUpMode.ADD, 100 * TOKEN),
    reason="Gift",
    actor="maria",
    request_id="request-1",
    created_at=NOW,
    applied_by="maria",
    applied_at=NOW,
    finished_at=None,
    planned=Plan(1, 100 * TOKEN),
    results=None,
)
FILLING = replace(BATCH, amount=TopUpAmount(TopUpMode.FILL, 150 * TOKEN))
MEMBER = BatchWallet(ALICE, "alice", 100 * TOKEN, None, 0, None)


class World:
    def __init__(self) -> None:
        self.books = FakeTopUpBooks(row(ALICE, tokens=100))
        self.books.outcomes[ALICE] = None
        self.changes = FakeChanges()
        self.bell = FakeDoorbell()
        self.service = WalletTopUp(books=self.books, changes=self.changes, doorbell=self.bell)

    def top_up(self, batch: TopUpBatch = BATCH) -> str | None:
        self.service.top_up(batch, [MEMBER])
        return self.books.outcomes[ALICE]

    def again(self) -> None:
        """As if nobody had noted the outcome."""
        self.books.outcomes[ALICE] = None

    @property
    def tokens(self) -> int:
        return self.books.wallets[ALICE].posted_micros // TOKEN


@pytest.fixture
def world() -> World:
    return World()


def test_it_is_posted_noted_and_announced(world: World) -> None:
    assert (world.top_up(), world.tokens) == ("topped_up", 200)
    [entry] = world.books.ledger
    assert (entry.kind, entry.reference, entry.reason, entry.actor, entry.request_id) == (
        "top_up",
        "spring",
        "Gift",
        "maria",
        "request-1",
    )
    assert [change.wallet.posted_micros for change in world.changes.applied] == [200 * TOKEN]


def test_whoever_comes_second_does_nothing(world: World) -> None:
    world.top_up()
    assert (world.top_up(), world.tokens) == ("topped_up", 200)
    world.again()
    # Its ledger tells as well.
    assert (world.top_up(), world.tokens) == ("posted_before", 200)
    assert len(world.changes.applied) == 1


def test_filling_up(world: World) -> None:
    assert (world.top_up(FILLING), world.tokens) == ("topped_up", 150)
    world.again()
    assert (world.top_up(FILLING), world.tokens) == ("posted_before", 150)
    world.again()
    assert (world.top_up(replace(FILLING, reference="next")), world.tokens) == ("full", 150)


@pytest.mark.parametrize(
    ("other", "outcome"),
    [
        (replace(BATCH, reason="Another"), "idempotency_conflict"),
        (replace(BATCH, amount=TopUpAmount(TopUpMode.ADD, TOKEN)), "idempotency_conflict"),
        (replace(BATCH, target=Target(package_id="another")), "posted_before"),
    ],
    ids=["reason", "amount", "who has it already isn't asked for a package"],
)
def test_the_reference_is_taken(world: World, other: TopUpBatch, outcome: str) -> None:
    world.top_up()
    world.again()
    assert (world.top_up(other), world.tokens) == (outcome, 200)


@pytest.mark.parametrize("change", [{"status": WalletStatus.CLOSED}, {"package_id": "another"}, {"package_id": None}])
def test_a_wallet_that_has_left_gets_nothing(world: World, change: dict[str, str]) -> None:
    world.books.wallets[ALICE] = replace(world.books.wallets[ALICE], **change)  # type: ignore[arg-type]
    assert (world.top_up(), world.tokens) == ("left", 100)
    assert not world.changes.applied


def test_the_reference_of_a_chargeback_is_taken(world: World) -> None:
    world.books.chargebacks.add("spring")
    assert (world.top_up(), world.tokens) == ("idempotency_conflict", 100)


def test_no_balance_leaves_its_bounds(world: World) -> None:
    world.books.wallets[ALICE] = row(ALICE, tokens=4 * 10**9)
    assert world.top_up() == "balance_out_of_range"


def test_a_wallet_that_is_gone(world: World) -> None:
    del world.books.wallets[ALICE]
    assert world.top_up() == "wallet_not_found"


def test_a_busy_wallet_waits(world: World) -> None:
    world.books.busy.add(ALICE)
    assert (world.top_up(), world.tokens) == (None, 100)
    world.books.busy.clear()
    assert (world.top_up(), world.tokens) == ("topped_up", 200)


def test_what_the_database_refuses_is_noted_and_leaves_nothing(world: World) -> None:
    world.books.refuses.add(ALICE)
    assert (world.top_up(), world.tokens) == ("database_refused", 100)
    assert not world.books.ledger
    assert not world.changes.applied


def test_debt_that_it_pays_is_collected(world: World) -> None:
    world.books.wallets[ALICE] = replace(row(ALICE, tokens=0), debt_micros=90 * TOKEN)
    world.top_up()
    assert world.bell.collected == [IndebtedWallet(ALICE, 90 * TOKEN)]


def test_many_at_once_and_one_of_them_in_trouble(world: World) -> None:
    names = [wallet_of(name) for name in ("a", "b", "c", "d")]
    members = [replace(MEMBER, wallet_id=name, user_id=name) for name in names]
    for name in names[:3]:
        world.books.wallets[name] = row(name)
    world.books.outcomes |= dict.fromkeys(names)
    world.books.busy.add(names[0])
    world.books.refuses.add(names[1])
    world.service.top_up(BATCH, members)
    assert [world.books.outcomes[name] for name in names] == [None, "database_refused", "topped_up", "wallet_not_found"]
    assert [entry.wallet_id for entry in world.books.ledger] == ["c"]

    world.books.busy.clear()
    world.service.top_up(BATCH, members)
    assert [entry.wallet_id for entry in world.books.ledger] == ["c", "a"]
