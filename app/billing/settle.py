"""Settlement: accepted ends become ledger entries and balances, many at once and each exactly once.

Safe under repeated, reordered and concurrent calls: an end is claimed under a row lock, its ledger entry is unique
by end id, and it leaves the inbox in the same transaction. When it dies half-way nothing has happened.

Nothing here waits for a lock. The ends of a wallet that somebody else has are tried again in a moment, then left to the
sweep: a row that is locked by hand delays its own wallet and no other.
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

# Another worker has a wallet for as long as a batch takes.
BUSY_PAUSES_SECONDS = (0.02, 0.05, 0.1)
# A wallet that was busy for longer is somebody's who won't be back in a moment: for so long nobody here waits for it.
STUCK_SECONDS = 2.0
STUCK_WALLETS_MAX = 10_000
BEFORE_ALL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one committed transaction settled, what it had to leave because its wallet was busy, and how many ends it
    moved to the dead letters for want of a wallet.
    """

    wallets: Sequence[SettledWallet]
    request_ids: Set[str]
    busy: Sequence[ClaimedWallet]
    lags_seconds: Sequence[float] = ()
    """How long ago its ends had been accepted when it began."""
    dead: int = 0


@dataclass
class _Run:
    """What a call has done so far."""

    report: SettleReport = field(default_factory=SettleReport)
    busy: list[ClaimedWallet] = field(default_factory=list)


class Transactions(Protocol):
    """Each is committed when it returns. They raise WalletBusy, TooSlow or Unavailable, and for what the database
    refuses SQLAlchemyError or MoneyDoesNotAddUp.
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
        """Settle ends; ids of which nothing is to be settled (any more) are passed over. Raises Unavailable."""
        run = _Run()
        self._settle_all(end_ids, run)
        self._wait_for_busy(run)
        return run.report

    def sweep(self, older_than_seconds: float) -> SettleReport:
        """Settle what no message reached, all that is that old. Raises Unavailable."""
        run = _Run()
        after_id = BEFORE_ALL
        while True:
            # However many ends a busy wallet has, those behind them get their turn.
            busy = {wallet.wallet_id for wallet in run.busy}
            ids = self._transactions.to_settle(older_than_seconds, after_id, self._batch_size, busy)
            self._settle_all(ids, run)
            if len(ids) < self._batch_size:
                return run.report
            after_id = ids[-1]

    def _wait_for_busy(self, run: _Run) -> None:
        """Try the ends of busy wallets again in a moment, but for those that have just been waited for in vain."""
        now = time.monotonic()
        self._stuck = {wallet_id: until for wallet_id, until in self._stuck.items() if until > now}
        for pause_seconds in BUSY_PAUSES_SECONDS:
            again = [end_id for wallet in run.busy if wallet.wallet_id not in self._stuck for end_id in wallet.ids]
            if not again:
                return
            time.sleep(pause_seconds)
            run.busy = []
            self._settle_all(again, run)
        stuck = {wallet.wallet_id for wallet in run.busy}
        if stuck and len(self._stuck) < STUCK_WALLETS_MAX:
            self._stuck |= dict.fromkeys(stuck, time.monotonic() + STUCK_SECONDS)
            log.info("wallets_busy", ends=sum(len(wallet.ids) for wallet in run.busy), wallets=len(stuck))

    def _settle_all(self, ids: Sequence[UUID], run: _Run) -> None:
        for start in range(0, len(ids), self._batch_size):
            self._settle(ids[start : start + self._batch_size], run)

    def _settle(self, ids: Sequence[UUID], run: _Run) -> None:
        """One batch in one transaction. What the database refuses is found by halving; the rest settles."""
        try:
            batch = self._transactions.settle(ids)
        except (sa.exc.SQLAlchemyError, MoneyDoesNotAddUp, TooSlow) as error:
            if len(ids) > 1:
                middle = len(ids) // 2
                self._settle(ids[:middle], run)
                self._settle(ids[middle:], run)
            elif isinstance(error, TooSlow):
                # One end alone isn't to blame for that.
                raise
            else:
                run.report += self._bury(ids, error)
            return
        run.report += announce(self._changes, batch.wallets, batch.request_ids) + SettleReport(dead=batch.dead)
        run.busy += batch.busy

    def _bury(self, ids: Sequence[UUID], error: Exception) -> SettleReport:
        log.error("end_refused", end_ids=[str(end_id) for end_id in ids], error=str(error)[:500])
        # Where its wallet is busy, the sweep comes back to it.
        return SettleReport(dead=len(ids) if self._transactions.bury(ids, refusal_reason(error)) else 0)


class SettleTransactions:
    """The transactions that settle, in Postgres."""

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
        """Settle what nobody else is settling, of wallets that nobody else has."""
        try:
            return self._postgres.transaction(self._work(ids))
        except WalletBusy:
            # Somebody keeps a roll-up or a watch of one of them: which, is looked for only now, as it takes statements
            # more.
            return self._postgres.transaction(self._work(ids, is_wary=True))

    def bury(self, ids: Sequence[UUID], reason: FailureReason) -> bool:
        """Put ends aside as dead letters. False where their wallet is busy."""

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
