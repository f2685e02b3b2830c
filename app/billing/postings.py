"""Top-ups, refunds and adjustments: each exactly once, however often it is sent.

The wallet's row is locked first, so that two calls with one reference come one after the other, and the
second finds what the first has done. A credit that pays for the wallet's oldest debt also has its debts collected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.access.changes import WalletChanges
from app.access.doorbell import Doorbell
from app.access.postgres import PostgresAccess
from app.domain.amounts import BALANCE_MICROS_MAX
from app.domain.errors import BalanceOutOfRange, IdempotencyConflict, WalletNotFound
from app.domain.postings import Posting
from app.domain.wallets import Wallet, WalletId, wallet_of
from app.stores.postgres import corrections, debts, ledger, wallets
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.ledger import LedgerEntry, NewEntry

ANOTHER_BODY = "This reference was used with another body"


@dataclass(frozen=True, slots=True)
class Posted:
    entry: LedgerEntry
    replayed: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    entry: LedgerEntry
    wallet: Wallet | None = None
    woken: Sequence[IndebtedWallet] = ()


class PostingService:
    def __init__(self, *, postgres: PostgresAccess, changes: WalletChanges, doorbell: Doorbell) -> None:
        self._postgres = postgres
        self._changes = changes
        self._doorbell = doorbell

    def post(self, posting: Posting) -> Posted:
        """Raises WalletNotFound, IdempotencyConflict, BalanceOutOfRange, WalletBusy or Unavailable."""
        wallet_id = wallet_of(posting.user_id)
        outcome = self._postgres.wallet_transaction(wallet_id, lambda connection: _post(connection, wallet_id, posting))
        if outcome.wallet is None:
            return Posted(outcome.entry, replayed=True)
        self._changes.announce(outcome.wallet)
        self._doorbell.collect(outcome.woken)
        return Posted(outcome.entry, replayed=False)


def _post(connection: sa.Connection, wallet_id: WalletId, posting: Posting) -> _Outcome:
    wallet = wallets.lock(connection, wallet_id)
    if wallet is None:
        raise WalletNotFound
    known = ledger.find_posting(connection, wallet_id, posting.reference)
    if known is not None:
        if (known.kind, known.amount_micros, known.reason) != (
            posting.kind,
            posting.amount_micros,
            posting.reason,
        ):
            raise IdempotencyConflict(ANOTHER_BODY)
        return _Outcome(known)
    if corrections.find_chargeback(connection, wallet_id, posting.reference) is not None:
        raise IdempotencyConflict(ANOTHER_BODY)
    balance_after_micros = wallet.posted_micros + posting.amount_micros
    if not -wallet.overdraft_limit_micros <= balance_after_micros <= BALANCE_MICROS_MAX:
        raise BalanceOutOfRange
    [entry] = ledger.enter(connection, wallet, [_entry(posting)])
    changed = wallets.update(connection, wallet_id, {"posted_micros": balance_after_micros})
    is_credit = posting.amount_micros > 0
    return _Outcome(entry, changed, debts.wake(connection, wallet_id) if is_credit else ())


def _entry(posting: Posting) -> NewEntry:
    return NewEntry(
        user_id=posting.user_id,
        kind=posting.kind,
        amount_micros=posting.amount_micros,
        reference=posting.reference,
        reason=posting.reason,
        actor=posting.actor,
        request_id=posting.request_id,
    )
