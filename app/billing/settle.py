"""Settlement: accepted ends become ledger entries and balances, many at once and each exactly once.

Safe under repeated, reordered and concurrent calls: an end is claimed under a row lock, its ledger entry is unique
by end id, and it leaves the inbox in the same transaction. A worker that dies half-way leaves nothing behind.

Nothing here waits for a lock. If another transaction has locked a wallet's row, the wallet's ends are retried for a
moment and then left to the sweep, so that a row locked for long delays only its own wallet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.billing.settlements import Changes, SettleReport, announce, refusal_reason
from app.domain.errors import TooSlow, WalletBusy
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.stores.postgres import balance_rules, inbox, rollups, settlement
from app.stores.postgres.settlement import Claim, ClaimedWallet, MoneyDoesNotAddUp, RetryPolicy, SettledWallet

log = structlog.get_logger(__name__)

# Pauses between attempts at busy wallets: another worker keeps a wallet locked for as long as its batch takes.
BUSY_PAUSES_SECONDS = (0.02, 0.05, 0.1)
# A wallet that is still busy after these pauses is probably locked for long. The process doesn't pause for it again for
# this time.
STUCK_SECONDS = 2.0
STUCK_WALLETS_MAX = 10_000
BEFORE_ALL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of one committed transaction: the wallets that it settled, those that it left alone because they were
    busy, and how many ends became dead letters because their wallet doesn't exist.
    """

    wallets: Sequence[SettledWallet]
    request_ids: Set[str]
    busy: Sequence[ClaimedWallet]
    lags_seconds: Sequence[float] = ()
    """For each end of the settled wallets, the time from its acceptance to the beginning of the transaction."""
    dead: int = 0


@dataclass
class _Run:
    """The progress of one call."""

    report: SettleReport = field(default_factory=SettleReport)
    busy: list[ClaimedWallet] = field(default_factory=list)


class Transactions(Protocol):
    """Each method is one transaction, committed when it returns. Raises WalletBusy, TooSlow or Unavailable, and
    SQLAlchemyError or MoneyDoesNotAddUp for what the database refuses.
    """

    def to_settle(
        self, older_than_seconds: float, after_id: UUID, limit: int, but_not: Collection[WalletId]
    ) -> Sequence[UUID]: ...

    def settle(self, ids: Sequence[UUID]) -> Batch: ...

    def bury(self, ids: Sequence[UUID], reason: FailureReason) -> bool: ...


class SettleService:
    def __init__(self, *, transactions: Transactions, changes: Changes, batch_size: int) -> None:
        self._transactions = transactions
        self._changes = changes
        self._batch_size = batch_size
        self._stuck: dict[WalletId, float] = {}

    def settle(self, end_ids: Sequence[UUID]) -> SettleReport:
        """Settle ends. Ids without an unsettled end, such as those of settled ones, are skipped. Raises Unavailable."""
        run = _Run()
        self._settle_all(end_ids, run)
        self._wait_for_busy(run)
        return run.report

    def sweep(self, older_than_seconds: float) -> SettleReport:
        """Settle all unsettled ends that are at least so old, as their messages may be lost. Raises Unavailable."""
        run = _Run()
        after_id = BEFORE_ALL
        while True:
            # Leave out wallets found busy, so that their many ends don't fill the next batches.
            busy = {wallet.wallet_id for wallet in run.busy}
            ids = self._transactions.to_settle(older_than_seconds, after_id, self._batch_size, busy)
            self._settle_all(ids, run)
            if len(ids) < self._batch_size:
                return run.report
            after_id = ids[-1]

    def _wait_for_busy(self, run: _Run) -> None:
        """Retry the ends of busy wallets after short pauses, except for wallets recently waited for in vain."""
        now = time.monotonic()
        self._stuck = {wallet_id: until for wallet_id, until in self._stuck.items() if until > now}
        for pause_seconds in BUSY_PAUSES_SECONDS:
            end_ids = [end_id for wallet in run.busy if wallet.wallet_id not in self._stuck for end_id in wallet.ids]
            if not end_ids:
                return
            time.sleep(pause_seconds)
            run.busy = []
            self._settle_all(end_ids, run)
        stuck = {wallet.wallet_id for wallet in run.busy}
        if stuck and len(self._stuck) < STUCK_WALLETS_MAX:
            self._stuck |= dict.fromkeys(stuck, time.monotonic() + STUCK_SECONDS)
            log.info("wallets_busy", ends=sum(len(wallet.ids) for wallet in run.busy), wallets=len(stuck))

    def _settle_all(self, ids: Sequence[UUID], run: _Run) -> None:
        for start in range(0, len(ids), self._batch_size):
            self._settle(ids[start : start + self._batch_size], run)

    def _settle(self, ids: Sequence[UUID], run: _Run) -> None:
        """Settle one batch in one transaction. If the database refuses it, halve it until the refused end is alone; the
        others are settled.
        """
        try:
            batch = self._transactions.settle(ids)
        except (sa.exc.SQLAlchemyError, MoneyDoesNotAddUp, TooSlow) as error:
            if len(ids) > 1:
                middle = len(ids) // 2
                self._settle(ids[:middle], run)
                self._settle(ids[middle:], run)
            elif isinstance(error, TooSlow):
                # A single end isn't slow by itself, so it must not become a dead letter for it.
                raise
            else:
                run.report += self._bury(ids, error)
            return
        run.report += announce(self._changes, batch.wallets, batch.request_ids) + SettleReport(dead=batch.dead)
        run.busy += batch.busy

    def _bury(self, ids: Sequence[UUID], error: Exception) -> SettleReport:
        log.error("end_refused", end_ids=[str(end_id) for end_id in ids], error=str(error)[:500])
        # If its wallet is busy, the end stays in the inbox and the sweep tries it again.
        return SettleReport(dead=len(ids) if self._transactions.bury(ids, refusal_reason(error)) else 0)


class SettleTransactions:
    """The transactions in Postgres."""

    def __init__(self, postgres: PostgresAccess, policy: RetryPolicy) -> None:
        self._postgres = postgres
        self._policy = policy

    def to_settle(
        self, older_than_seconds: float, after_id: UUID, limit: int, but_not: Collection[WalletId]
    ) -> Sequence[UUID]:
        return self._postgres.run(
            lambda connection: inbox.to_settle_before(connection, older_than_seconds, after_id, limit, but_not)
        )

    def settle(self, ids: Sequence[UUID]) -> Batch:
        """Settle those of the ends that no other transaction has locked, nor their wallets."""
        try:
            return self._postgres.transaction(self._work(ids))
        except WalletBusy:
            # Another transaction has locked a roll-up or a watch of one of these wallets. Finding out which wallet
            # takes further statements, so it is done only now.
            return self._postgres.transaction(self._work(ids, is_wary=True))

    def bury(self, ids: Sequence[UUID], reason: FailureReason) -> bool:
        """Turn ends into dead letters. False if their wallet is busy."""

        def work(connection: sa.Connection) -> bool:
            claimed = [end_id for wallet in settlement.claim(connection, ids) for end_id in wallet.ids]
            return bool(claimed) and settlement.bury(connection, claimed, reason)

        return self._postgres.transaction(work)

    def _work(self, ids: Sequence[UUID], *, is_wary: bool = False) -> Callable[[sa.Connection], Batch]:
        def work(connection: sa.Connection) -> Batch:
            claimed = settlement.claim(connection, ids)
            if is_wary:
                payers = [wallet.wallet_id for wallet in claimed]
                kept = rollups.kept_by_others(connection, payers) | balance_rules.kept_by_others(connection, payers)
                claimed = [replace(w, claim=Claim.BUSY) if w.wallet_id in kept else w for w in claimed]
            orphans = [end_id for wallet in claimed if wallet.claim is Claim.MISSING for end_id in wallet.ids]
            is_buried = bool(orphans) and settlement.bury(connection, orphans, FailureReason.WALLET_MISSING)
            ours = [wallet for wallet in claimed if wallet.claim is Claim.OURS]
            ends = [end_id for wallet in ours for end_id in wallet.ids]
            settled = settlement.settle(connection, ends, self._policy) if ends else []
            request_ids = frozenset[str]().union(*(wallet.request_ids for wallet in ours))
            lags_seconds = [lag for wallet in ours for lag in wallet.lags_seconds]
            busy = [wallet for wallet in claimed if wallet.claim is Claim.BUSY]
            return Batch(settled, request_ids, busy, lags_seconds, len(orphans) if is_buried else 0)

        return work
