"""Wrappers around the use cases' transactions that count what was committed. Calls and results pass unchanged."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from typing import Protocol
from uuid import UUID

from app import tracing
from app.billing import collect, end_record, settle
from app.billing.collect import Try
from app.billing.settle import Batch
from app.billing.settlements import SettleReport
from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.meters.instruments import Meters
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.inbox import KnownEnd
from app.stores.postgres.settlement import SettledWallet


class Spool(Protocol):
    def put(self, ends: Iterable[AcceptedEnd]) -> int: ...


class CountedIntake:
    """Counts ends that are new in the inbox."""

    def __init__(self, intake: end_record.Intake, meters: Meters) -> None:
        self._intake = intake
        self._meters = meters

    def record(self, ends: Sequence[AcceptedEnd], outdated: Callable[[set[UUID]], Set[WalletId]]) -> set[UUID]:
        recorded = self._intake.record(ends, outdated)
        if recorded:
            self._meters.accepted.add(len(recorded), "inbox")
        return recorded

    def known(self, requests: Sequence[EndRequest]) -> Sequence[KnownEnd]:
        return self._intake.known(requests)


class CountedSpool:
    """Counts ends that are new in the spool. Draining it counts none of them again."""

    def __init__(self, spool: Spool, meters: Meters) -> None:
        self._spool = spool
        self._meters = meters

    def put(self, ends: Iterable[AcceptedEnd]) -> int:
        added = self._spool.put(ends)
        self._meters.accepted.add(added, "spool")
        return added


class CountedSettlement:
    def __init__(self, transactions: settle.Transactions, meters: Meters) -> None:
        self._transactions = transactions
        self._meters = meters

    def to_settle(
        self, older_than_seconds: float, after_id: UUID, limit: int, but_not: Collection[WalletId]
    ) -> Sequence[UUID]:
        return self._transactions.to_settle(older_than_seconds, after_id, limit, but_not)

    def settle(self, ids: Sequence[UUID]) -> Batch:
        started = time.monotonic()
        with tracing.span("postgres settle ends", len(ids)):
            batch = self._transactions.settle(ids)
        seconds = time.monotonic() - started
        _count(self._meters, batch.wallets, "inbox")
        # The transaction gives each end's lag as of its own beginning; its duration is added here.
        self._meters.lag.observe_all([max(0.0, lag) + seconds for lag in batch.lags_seconds])
        return batch

    def bury(self, ids: Sequence[UUID], reason: FailureReason) -> bool:
        is_buried = self._transactions.bury(ids, reason)
        self._meters.buried.add(len(ids) if is_buried else 0)
        return is_buried


class CountedCollection:
    def __init__(self, transactions: collect.Transactions, meters: Meters) -> None:
        self._transactions = transactions
        self._meters = meters

    def due_wallets(self, limit: int) -> Sequence[IndebtedWallet]:
        return self._transactions.due_wallets(limit)

    def collect(self, wallet_id: WalletId, limit: int) -> Try:
        done = self._transactions.collect(wallet_id, limit)
        _count(self._meters, done.wallets, "debt")
        self._meters.retried.add(done.failed)
        return done

    def put_off_oldest(self, wallet_id: WalletId) -> SettleReport:
        report = self._transactions.put_off_oldest(wallet_id)
        self._meters.retried.add(report.indebted)
        self._meters.buried.add(report.dead)
        return report

    def bury_oldest(self, wallet_id: WalletId, reason: FailureReason) -> bool:
        is_buried = self._transactions.bury_oldest(wallet_id, reason)
        self._meters.buried.add(int(is_buried))
        return is_buried


def _count(meters: Meters, wallets: Sequence[SettledWallet], origin: str) -> None:
    meters.settled.add(sum(len(wallet.settled) - wallet.repeated for wallet in wallets), origin)
    meters.indebted.add(sum(len(wallet.kept) for wallet in wallets))
