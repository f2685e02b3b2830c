"""Settlement: accepted ends become ledger entries and balances, many at once and each exactly once.

Safe under repeated, reordered and concurrent calls: an end is claimed under a row lock, its ledger entry is unique
by end id, and it leaves the inbox in the same transaction. When it dies half-way nothing has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.domain.errors import Unavailable
from app.services.postgres_access import PostgresAccess
from app.services.wallet_changes import WalletChanges
from app.services.wallet_loader import WalletLoader
from app.stores.postgres import inbox, settlement, stale
from app.stores.postgres.engine import is_away
from app.stores.postgres.inbox import FailedEnd
from app.stores.postgres.settlement import ClaimedEnd, MoneyDoesNotAddUp, RetryPolicy, SettledWallet
from app.stores.redis.wallet_cache import CachedFields, WalletChange

log = structlog.get_logger(__name__)

WALLETS_PER_REFRESH = 200
# A retry whose message got lost is given out again after this long; one too many does no harm.
RETRY_AGAIN_SECONDS = 10


@dataclass(frozen=True, slots=True)
class SettleReport:
    """How many ends a call settled, found settled already, left as debt, or moved to the dead letters."""

    settled: int = 0
    repeated: int = 0
    indebted: int = 0
    dead: int = 0

    def __add__(self, other: SettleReport) -> SettleReport:
        return SettleReport(
            self.settled + other.settled,
            self.repeated + other.repeated,
            self.indebted + other.indebted,
            self.dead + other.dead,
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one committed transaction settled."""

    ends: Sequence[ClaimedEnd] = ()
    wallets: Sequence[SettledWallet] = ()


class SettleService:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        changes: WalletChanges,
        loader: WalletLoader,
        policy: RetryPolicy,
        batch_size: int,
    ) -> None:
        self._postgres = postgres
        self._changes = changes
        self._loader = loader
        self._policy = policy
        self._batch_size = batch_size

    def settle(self, end_ids: Sequence[UUID]) -> SettleReport:
        """Settle accepted ends; ids that aren't accepted (any more) are passed over. Raises Unavailable."""
        report = SettleReport()
        for start in range(0, len(end_ids), self._batch_size):
            report += self._settle(end_ids[start : start + self._batch_size])
        return report

    def retry(self, end_id: UUID, user_id: str) -> SettleReport:
        """Try a failed end again, with the user's others, oldest first, as far as the wallet reaches.

        Nothing to do when it isn't failed any more: whoever paid it tried the others too. Raises Unavailable.
        """

        def work(connection: sa.Connection) -> _Batch:
            if not settlement.lock_wallets(connection, {user_id}):
                return _Batch()
            debts = settlement.claim_debts(connection, user_id)
            is_failed = any(debt.id == end_id for debt in debts)
            return self._settled(connection, debts, tried=[end_id]) if is_failed else _Batch()

        return self._applied(self._postgres.transaction(work))

    def due_retries(self, limit: int) -> list[FailedEnd]:
        """Failed ends due for another try; each is given out once in a while only. Raises Unavailable."""
        return self._postgres.run(lambda connection: inbox.claim_due_retries(connection, limit, RETRY_AGAIN_SECONDS))

    def sweep(self, older_than_seconds: float) -> SettleReport:
        """Settle what no message reached, until nothing that old is left. Raises Unavailable."""
        report = SettleReport()
        while True:
            ids = self._postgres.run(
                lambda connection: inbox.accepted_before(connection, older_than_seconds, self._batch_size)
            )
            swept = self.settle(ids) if ids else SettleReport()
            report += swept
            # Nothing moved: the rest is in the hands of other workers.
            if len(ids) < self._batch_size or swept == SettleReport():
                return report

    def refresh_stale(self, older_than_seconds: float) -> int:
        """Correct the cached copies of wallets whose last change didn't reach Redis; how many there were."""
        found = self._postgres.run(
            lambda connection: stale.older_than(connection, older_than_seconds, WALLETS_PER_REFRESH)
        )
        if found:
            self._loader.refresh([wallet.user_id for wallet in found])
            self._postgres.run(lambda connection: stale.clear_refreshed(connection, found))
        return len(found)

    def _settle(self, ids: Sequence[UUID]) -> SettleReport:
        """One batch in one transaction. What the database refuses is found by halving; the rest settles."""
        try:
            return self._applied(self._postgres.transaction(self._work(ids)))
        except (sa.exc.SQLAlchemyError, MoneyDoesNotAddUp) as error:
            if isinstance(error, sa.exc.SQLAlchemyError) and is_away(error):
                raise Unavailable from error
            if len(ids) > 1:
                middle = len(ids) // 2
                return self._settle(ids[:middle]) + self._settle(ids[middle:])
            return self._bury(ids, error)

    def _work(self, ids: Sequence[UUID]) -> Callable[[sa.Connection], _Batch]:
        def work(connection: sa.Connection) -> _Batch:
            claimed = settlement.claim(connection, ids)
            users = settlement.lock_wallets(connection, {end.user_id for end in claimed})
            orphans = [end.id for end in claimed if end.user_id not in users]
            if orphans:
                settlement.bury(connection, orphans, "wallet_missing")
            return self._settled(connection, [end for end in claimed if end.user_id in users])

        return work

    def _settled(
        self, connection: sa.Connection, ends: Sequence[ClaimedEnd], tried: Sequence[UUID] | None = None
    ) -> _Batch:
        if not ends:
            return _Batch()
        return _Batch(ends, settlement.settle(connection, [end.id for end in ends], self._policy, tried))

    def _bury(self, ids: Sequence[UUID], error: Exception) -> SettleReport:
        log.error("end_refused", end_ids=[str(end_id) for end_id in ids], error=str(error)[:500])
        self._postgres.transaction(lambda connection: settlement.bury(connection, ids, type(error).__name__))
        return SettleReport(dead=len(ids))

    def _applied(self, batch: _Batch) -> SettleReport:
        """Log a committed settlement and bring the cache up to it."""
        wallets = batch.wallets
        if not wallets:
            return SettleReport()
        report = SettleReport(
            settled=sum(len(wallet.settled) - wallet.repeated for wallet in wallets),
            repeated=sum(wallet.repeated for wallet in wallets),
            indebted=sum(len(wallet.indebted) for wallet in wallets),
        )
        log.info(
            "ends_settled",
            settled=report.settled,
            repeated=report.repeated,
            indebted=report.indebted,
            wallets=len(wallets),
            # What follows one call from the API's log to here.
            request_ids=sorted({end.request_id for end in batch.ends if end.request_id is not None}),
        )
        self._changes.apply([_change(wallet) for wallet in wallets])
        return report


def _change(wallet: SettledWallet) -> WalletChange:
    return WalletChange(
        user_id=wallet.user_id,
        fields=CachedFields(
            wallet.version,
            wallet.posted_micros,
            wallet.overdraft_limit_micros,
            wallet.status,
            wallet.package_id,
        ),
        settled=wallet.settled,
        indebted=wallet.indebted,
    )
