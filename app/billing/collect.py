"""Collects debts: a wallet's oldest first, as far as its balance covers them, a bounded number in each transaction.

If the wallet can't pay, a failed attempt is counted and the next one is scheduled with a longer backoff, until the
debts are dead letters. If the transaction fails, it is repeated with half as many debts until the failing one is alone:
one that the database refuses becomes a dead letter, one that is too slow is retried a bounded number of times.
"""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.billing.settlements import Changes, SettleReport, announce, refusal_reason
from app.domain.errors import TooSlow, Unavailable
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.stores.postgres import debts, settlement
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.settlement import ClaimedEnd, MoneyDoesNotAddUp, RetryPolicy, SettledWallet

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of a call. `unfinished` is the wallet, if time ran out while it may be able to pay more."""

    report: SettleReport
    unfinished: IndebtedWallet | None = None
    debt_micros: int | None = 0
    """What the wallet still owes. None if another transaction has locked it."""


@dataclass(frozen=True, slots=True)
class Try:
    """What one committed transaction collected."""

    wallets: Sequence[SettledWallet] = ()
    request_ids: Set[str] = frozenset()
    failed: int = 0
    has_more: bool = False
    debt_micros: int | None = 0
    """What the wallet owes after the transaction. None if another transaction has locked it."""


class Transactions(Protocol):
    """Each method is one transaction, committed when it returns. Raises WalletBusy, TooSlow or Unavailable, and
    SQLAlchemyError or MoneyDoesNotAddUp for what the database refuses.
    """

    def due_wallets(self, limit: int) -> Sequence[IndebtedWallet]: ...

    def collect(self, wallet_id: WalletId, limit: int) -> Try: ...

    def put_off_oldest(self, wallet_id: WalletId) -> SettleReport: ...

    def bury_oldest(self, wallet_id: WalletId, reason: FailureReason) -> bool: ...


class CollectService:
    def __init__(self, *, transactions: Transactions, changes: Changes, batch_size: int) -> None:
        self._transactions = transactions
        self._changes = changes
        self._batch_size = batch_size

    def collect(self, wallet_id: WalletId, seconds: float) -> Collected:
        """Collect as many of a wallet's debts as it can pay, for about `seconds`.

        A wallet that another transaction has locked is left alone and stays due. Raises Unavailable.
        """
        give_up_at = time.monotonic() + seconds
        limit = self._batch_size
        report = SettleReport()
        while True:
            try:
                done = self._transactions.collect(wallet_id, limit)
            except (sa.exc.SQLAlchemyError, MoneyDoesNotAddUp, TooSlow) as error:
                log.warning("collecting_failed", wallet_id=wallet_id, debts=limit, error=str(error)[:200])
                if limit > 1:
                    limit //= 2
                    continue
                if isinstance(error, TooSlow):
                    # The cause may be this debt or a busy database: retry it later, a bounded number of times.
                    return Collected(report + self._transactions.put_off_oldest(wallet_id))
                report += self._bury_oldest(wallet_id, error)
                limit = self._batch_size
                continue
            report += announce(self._changes, done.wallets, done.request_ids) + SettleReport(indebted=done.failed)
            if not done.has_more:
                return Collected(report, debt_micros=done.debt_micros)
            if time.monotonic() >= give_up_at:
                return Collected(report, IndebtedWallet(wallet_id, done.wallets[0].wallet.debt_micros))

    def due_wallets(self, limit: int) -> Sequence[IndebtedWallet]:
        """Wallets whose debts are due for another attempt. Raises Unavailable."""
        return self._transactions.due_wallets(limit)

    def _bury_oldest(self, wallet_id: WalletId, error: Exception) -> SettleReport:
        log.error("debt_refused", wallet_id=wallet_id, error=str(error)[:500])
        if not self._transactions.bury_oldest(wallet_id, refusal_reason(error)):
            raise Unavailable from error
        return SettleReport(dead=1)


class CollectTransactions:
    """The transactions in Postgres. Each leaves a wallet alone that another transaction has locked."""

    def __init__(self, postgres: PostgresAccess, policy: RetryPolicy) -> None:
        self._postgres = postgres
        self._policy = policy

    def due_wallets(self, limit: int) -> Sequence[IndebtedWallet]:
        return self._postgres.run(lambda connection: debts.due_wallets(connection, limit))

    def collect(self, wallet_id: WalletId, limit: int) -> Try:
        """Settle as many of the oldest debts as the balance covers. If it covers none, count a failed attempt of those
        that are due.
        """
        return self._postgres.transaction(partial(self._try, wallet_id=wallet_id, limit=limit))

    def _try(self, connection: sa.Connection, wallet_id: WalletId, limit: int) -> Try:
        wallet = debts.lock(connection, wallet_id)
        if wallet is None:
            return Try(debt_micros=None)
        oldest = debts.claim_oldest(connection, wallet_id, limit)
        payable = _payable(oldest, wallet.room_micros)
        if payable:
            settled = settlement.settle(connection, [end.id for end in payable], self._policy, collecting=True)
            has_more = len(payable) == limit
            debts.schedule(connection, wallet_id, self._policy, at_once=has_more)
            request_ids = {end.request_id for end in payable if end.request_id is not None}
            left_micros = settled[0].wallet.debt_micros if settled else wallet.debt_micros
            return Try(settled, request_ids, has_more=has_more, debt_micros=left_micros)
        tried = debts.claim_oldest_retrying(connection, wallet_id, limit) if wallet.is_due else []
        if tried:
            debts.count_failure(connection, tried, self._policy, FailureReason.INSUFFICIENT_TOKENS)
        if wallet.is_due:
            debts.schedule(connection, wallet_id, self._policy)
        return Try(failed=len(tried), debt_micros=wallet.debt_micros)

    def put_off_oldest(self, wallet_id: WalletId) -> SettleReport:
        """Count a failed attempt of a wallet's oldest debt. After its last attempt it becomes a dead letter, so that it
        doesn't hold up the debts behind it.
        """

        def work(connection: sa.Connection) -> SettleReport:
            if debts.lock(connection, wallet_id) is None:
                return SettleReport()
            oldest = debts.claim_oldest(connection, wallet_id, 1)
            spent = debts.count_failure(connection, oldest, self._policy, FailureReason.TOO_SLOW)
            if spent:
                settlement.bury(connection, spent, FailureReason.TOO_SLOW, is_counted=True)
            debts.schedule(connection, wallet_id, self._policy, at_once=bool(spent))
            return SettleReport(indebted=len(oldest) - len(spent), dead=len(spent))

        return self._postgres.transaction(work)

    def bury_oldest(self, wallet_id: WalletId, reason: FailureReason) -> bool:
        """Turn a wallet's oldest debt into a dead letter. False if the wallet is locked, or no debt could be locked."""

        def work(connection: sa.Connection) -> bool:
            if debts.lock(connection, wallet_id) is None:
                return False
            oldest = [end.id for end in debts.claim_oldest(connection, wallet_id, 1)]
            return bool(oldest) and settlement.bury(connection, oldest, reason)

        return self._postgres.transaction(work)


def _payable(oldest: Sequence[ClaimedEnd], room_micros: int) -> Sequence[ClaimedEnd]:
    """The debts that `room_micros` covers, up to the first that it doesn't: no debt overtakes an older one."""
    for i, end in enumerate(oldest):
        room_micros -= end.cost_micros
        if room_micros < 0 and end.cost_micros > 0:
            return oldest[:i]
    return oldest
