"""Settlement over fake transactions: what is halved, what is waited for and for how long, what is put aside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import DataError

from app.billing import settle
from app.billing.settle import Batch, SettleService
from app.billing.settlements import SettleReport
from app.domain.errors import TooSlow, Unavailable
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId, wallet_of
from app.stores.postgres.settlement import Claim, ClaimedWallet, MoneyDoesNotAddUp, SettledWallet
from tests.unit.fakes import FakeChanges, row

BATCH_SIZE = 4


class FakeTransactions:
    """An inbox whose ends settle, but for those of busy wallets and those that something is wrong with."""

    def __init__(self, wallets: dict[UUID, WalletId]) -> None:
        self.inbox = dict(sorted(wallets.items()))
        self.busy: set[WalletId] = set()
        self.broken: dict[UUID, Exception] = {}
        self.batches: list[Sequence[UUID]] = []
        self.buried: dict[UUID, FailureReason] = {}

    def to_settle(
        self, older_than_seconds: float, after_id: UUID, limit: int, but_not: Collection[WalletId]
    ) -> Sequence[UUID]:
        return [id for id, wallet in self.inbox.items() if id > after_id and wallet not in but_not][:limit]

    def settle(self, ids: Sequence[UUID]) -> Batch:
        self.batches.append(ids)
        for end_id in ids:
            if end_id in self.broken:
                raise self.broken[end_id]
        claimed: dict[WalletId, list[UUID]] = defaultdict(list)
        for end_id in ids:
            if end_id in self.inbox:
                claimed[self.inbox[end_id]].append(end_id)
        free = {wallet_id: found for wallet_id, found in claimed.items() if wallet_id not in self.busy}
        for end_id in [end_id for found in free.values() for end_id in found]:
            del self.inbox[end_id]
        busy = [
            ClaimedWallet(wallet_id, found, frozenset(), Claim.BUSY)
            for wallet_id, found in claimed.items()
            if wallet_id in self.busy
        ]
        settled = [SettledWallet(row(wallet_id), tuple(found), (), (), 0) for wallet_id, found in free.items()]
        return Batch(settled, frozenset(), busy)

    def bury(self, ids: Sequence[UUID], reason: FailureReason) -> bool:
        if any(self.inbox[end_id] in self.busy for end_id in ids):
            return False
        self.buried |= dict.fromkeys(ids, reason)
        return True


class World:
    def __init__(self, *users: str) -> None:
        self.ids = sorted(uuid4() for _ in users)
        self.transactions = FakeTransactions(
            {end_id: wallet_of(user) for end_id, user in zip(self.ids, users, strict=True)}
        )
        self.changes = FakeChanges()
        self.service = SettleService(transactions=self.transactions, changes=self.changes, batch_size=BATCH_SIZE)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it has waited, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(settle.time, "sleep", waited.append)
    return waited


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    now = [1_000.0]
    monkeypatch.setattr(settle.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_ends_settle_in_batches_and_the_cache_is_told(pauses: list[float]) -> None:
    world = World(*["alice"] * 9)
    assert world.service.settle(world.ids) == SettleReport(settled=9)
    assert [len(ids) for ids in world.transactions.batches] == [4, 4, 1]
    assert {change.wallet.id for change in world.changes.applied} == {"alice"}
    assert sorted(id for change in world.changes.applied for id in change.told) == world.ids
    assert not pauses


def test_ids_of_which_nothing_is_left_are_passed_over(pauses: list[float]) -> None:
    world = World()
    assert world.service.settle([uuid4()]) == SettleReport()
    assert not world.changes.applied


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("", {}, Exception("no")), FailureReason.DATABASE_REFUSED),
        (MoneyDoesNotAddUp("no"), FailureReason.MONEY_DOES_NOT_ADD_UP),
    ],
)
def test_what_is_refused_is_found_by_halving_and_buried_alone(error: Exception, reason: FailureReason) -> None:
    world = World(*["alice"] * 4)
    bad = world.ids[2]
    world.transactions.broken[bad] = error
    assert world.service.settle(world.ids) == SettleReport(settled=3, dead=1)
    assert world.transactions.buried == {bad: reason}
    assert [len(ids) for ids in world.transactions.batches] == [4, 2, 2, 1, 1]


def test_what_takes_too_long_is_halved_but_not_blamed_on_one_end() -> None:
    world = World(*["alice"] * 4)
    world.transactions.broken[world.ids[3]] = TooSlow()
    with pytest.raises(TooSlow):
        world.service.settle(world.ids)
    assert list(world.transactions.inbox) == world.ids[3:]
    assert not world.transactions.buried


def test_what_is_refused_of_a_busy_wallet_is_left_for_the_sweep() -> None:
    world = World("alice")
    world.transactions.broken[world.ids[0]] = DataError("", {}, Exception("no"))
    world.transactions.busy.add(wallet_of("alice"))
    assert world.service.settle(world.ids) == SettleReport()


def test_an_unavailable_postgres_is_not_halved() -> None:
    world = World(*["alice"] * 4)
    world.transactions.broken[world.ids[0]] = Unavailable()
    with pytest.raises(Unavailable):
        world.service.settle(world.ids)
    assert len(world.transactions.batches) == 1


def test_busy_wallets_are_waited_for_a_moment_and_others_settle_at_once(
    pauses: list[float], passing: Callable[[float], None]
) -> None:
    world = World("alice", "bob", "alice", "bob")
    world.transactions.busy.add(wallet_of("bob"))
    assert world.service.settle(world.ids) == SettleReport(settled=2)
    assert pauses == list(settle.BUSY_PAUSES_SECONDS)
    assert [len(ids) for ids in world.transactions.batches] == [4, 2, 2, 2]


def test_nobody_waits_again_for_a_wallet_that_stays_busy(pauses: list[float], passing: Callable[[float], None]) -> None:
    world = World("bob")
    world.transactions.busy.add(wallet_of("bob"))
    world.service.settle(world.ids)
    pauses.clear()
    passing(settle.STUCK_SECONDS - 0.1)
    world.service.settle(world.ids)
    assert not pauses
    passing(0.2)
    world.service.settle(world.ids)
    assert pauses == list(settle.BUSY_PAUSES_SECONDS)


def test_a_wallet_that_comes_free_while_it_is_waited_for_settles(
    monkeypatch: pytest.MonkeyPatch, passing: Callable[[float], None]
) -> None:
    world = World("bob")
    world.transactions.busy.add(wallet_of("bob"))
    monkeypatch.setattr(settle.time, "sleep", lambda _: world.transactions.busy.clear())
    assert world.service.settle(world.ids) == SettleReport(settled=1)


def test_the_sweep_goes_past_a_busy_wallet(pauses: list[float]) -> None:
    world = World(*["bob"] * 6, *["alice"] * 6)
    world.transactions.busy.add(wallet_of("bob"))
    assert world.service.sweep(older_than_seconds=0) == SettleReport(settled=6)
    assert set(world.transactions.inbox.values()) == {"bob"}
    # Nor does it wait for it: it comes again.
    assert not pauses
