"""Collecting over fake transactions: for how long, in which portions, and what becomes of a debt that is to blame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy.exc import DataError

from app.billing import collect
from app.billing.collect import CollectService, Try, _payable
from app.billing.settlements import SettleReport
from app.domain.errors import TooSlow, Unavailable, WalletBusy
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.settlement import ClaimedEnd, SettledWallet
from tests.unit.fakes import ALICE, FakeChanges, row

BATCH_SIZE = 8


class FakeTransactions:
    """One wallet's line of debts that it can pay. Each transaction takes a second."""

    def __init__(self, debts: int, passing: Callable[[float], None]) -> None:
        self.line: list[Exception | None] = [None] * debts
        self.limits: list[int] = []
        self.buried: list[FailureReason] = []
        self.put_off = 0
        self.can_bury = True
        self._passing = passing

    def due_wallets(self, limit: int) -> Sequence[IndebtedWallet]:
        return [IndebtedWallet(ALICE, len(self.line))][:limit]

    def collect(self, wallet_id: WalletId, limit: int) -> Try:
        self._passing(1)
        self.limits.append(limit)
        for error in self.line[:limit]:
            if error is not None:
                raise error
        ids = tuple(uuid4() for _ in self.line[:limit])
        del self.line[:limit]
        wallet = SettledWallet(replace(row(wallet_id), debt_micros=len(self.line)), ids, (), (), 0)
        return Try([wallet] if ids else [], has_more=len(ids) == limit)

    def put_off_oldest(self, wallet_id: WalletId) -> SettleReport:
        self.put_off += 1
        return SettleReport(indebted=1)

    def bury_oldest(self, wallet_id: WalletId, reason: FailureReason) -> bool:
        if self.can_bury:
            self.buried.append(reason)
            del self.line[0]
        return self.can_bury


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1_000.0]
    monkeypatch.setattr(collect.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def service(transactions: FakeTransactions) -> CollectService:
    return CollectService(transactions=transactions, changes=FakeChanges(), batch_size=BATCH_SIZE)


def test_all_that_can_be_paid_is_collected(passing: Callable[[float], None]) -> None:
    transactions = FakeTransactions(20, passing)
    assert service(transactions).collect(ALICE, seconds=60).report == SettleReport(settled=20)
    assert transactions.limits == [8, 8, 8]


def test_after_its_time_it_says_what_is_left(passing: Callable[[float], None]) -> None:
    collected = service(FakeTransactions(20, passing)).collect(ALICE, seconds=1.5)
    assert collected.report == SettleReport(settled=16)
    assert collected.unfinished == IndebtedWallet(ALICE, 4)


def test_a_debt_that_is_refused_is_found_by_halving_and_put_aside_for_those_behind_it(
    passing: Callable[[float], None],
) -> None:
    transactions = FakeTransactions(10, passing)
    transactions.line[2] = DataError("", {}, Exception("no"))
    report = service(transactions).collect(ALICE, seconds=60).report
    assert report == SettleReport(settled=9, dead=1)
    assert transactions.limits == [8, 4, 2, 2, 1, 8]
    assert transactions.buried == [FailureReason.DATABASE_REFUSED]


def test_one_that_takes_too_long_alone_may_try_again_later(passing: Callable[[float], None]) -> None:
    transactions = FakeTransactions(10, passing)
    transactions.line[0] = TooSlow()
    assert service(transactions).collect(ALICE, seconds=60).report == SettleReport(indebted=1)
    assert (transactions.put_off, len(transactions.line)) == (1, 10)


def test_one_that_cannot_even_be_put_aside_is_left(passing: Callable[[float], None]) -> None:
    transactions = FakeTransactions(1, passing)
    transactions.line[0] = DataError("", {}, Exception("no"))
    transactions.can_bury = False
    with pytest.raises(Unavailable):
        service(transactions).collect(ALICE, seconds=60)


def test_a_locked_wallet_is_not_halved(passing: Callable[[float], None]) -> None:
    transactions = FakeTransactions(10, passing)
    transactions.line[0] = WalletBusy()
    with pytest.raises(WalletBusy):
        service(transactions).collect(ALICE, seconds=60)
    assert transactions.limits == [8]


@pytest.mark.parametrize(
    ("room", "costs", "paid"),
    [(10, [4, 6, 1], 2), (10, [11, 1], 0), (0, [0, 0, 1, 0], 2), (-5, [0, 1], 1), (10, [], 0)],
)
def test_debts_are_paid_in_their_order_and_none_overtakes(room: int, costs: list[int], paid: int) -> None:
    line = [ClaimedEnd(uuid4(), ALICE, cost, None) for cost in costs]
    assert _payable(line, room) == line[:paid]
