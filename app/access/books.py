"""Books for wallets: their rows, ledgers, debts and failed ends, read and changed within one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa

from app.access.postgres import PostgresAccess
from app.domain.audit import Change
from app.domain.failed_ends import Filter
from app.domain.keys import Caller
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres import audit, corrections, debts, failed_ends, ledger, wallets
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.failed_ends import FailedEndRow
from app.stores.postgres.ledger import LedgerEntry, NewEntry

B = TypeVar("B")
T = TypeVar("T")


class Books:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def lock(self, wallet_id: WalletId) -> Wallet | None:
        """Lock the wallet's row until this transaction ends. None where there is no such wallet."""
        return wallets.lock(self._connection, wallet_id)

    def update(self, wallet_id: WalletId, changes: Mapping[str, Any]) -> Wallet:
        return wallets.update(self._connection, wallet_id, changes)

    def enter(self, wallet: Wallet, entries: Sequence[NewEntry]) -> Sequence[LedgerEntry]:
        return ledger.enter(self._connection, wallet, entries)

    def find_posting(self, wallet_id: WalletId, reference: str) -> LedgerEntry | None:
        return ledger.find_posting(self._connection, wallet_id, reference)

    def is_chargeback(self, wallet_id: WalletId, reference: str) -> bool:
        return corrections.find_chargeback(self._connection, wallet_id, reference) is not None

    def find_write_off(self, end_id: UUID) -> LedgerEntry | None:
        return ledger.find_write_off(self._connection, end_id)

    def billed_of(self, end_ids: Collection[UUID]) -> Set[UUID]:
        """Those of these ends that are already in the ledger."""
        return ledger.billed_of(self._connection, end_ids)

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        """Write this transaction's changes to the audit log."""
        audit.write_all(self._connection, caller, changes)

    def wake(self, wallet_id: WalletId) -> Sequence[IndebtedWallet]:
        """Make the wallet's debts due if it can pay the oldest one now. Returns the wallet if the workers have to be
        told.
        """
        return debts.wake(self._connection, wallet_id)

    def payer_of(self, end_id: UUID) -> WalletId | None:
        return failed_ends.payer_of(self._connection, end_id)

    def claim_failed(self, end_ids: Collection[UUID]) -> Sequence[Any]:
        """Lock and return the whole inbox rows of those of these ends that have failed. The caller has locked their
        wallet.
        """
        return failed_ends.claim(self._connection, end_ids)

    def delete_failed(self, end_ids: Collection[UUID]) -> None:
        failed_ends.delete(self._connection, end_ids)

    def replay(self, end_ids: Collection[UUID]) -> Sequence[FailedEndRow]:
        return failed_ends.replay(self._connection, end_ids)

    def find_failed(self, end_id: UUID) -> FailedEndRow | None:
        return failed_ends.find(self._connection, end_id)

    def list_failed(self, matching: Filter, after_id: UUID, limit: int) -> Sequence[FailedEndRow]:
        return failed_ends.list_ends(self._connection, matching, after_id, limit)

    def count_failed(self, matching: Filter) -> int:
        return failed_ends.count(self._connection, matching)


class BookKeeping(Generic[B]):
    """Runs work with its books. Its errors are those of `PostgresAccess`."""

    def __init__(self, postgres: PostgresAccess, books: Callable[[sa.Connection], B]) -> None:
        """`books` makes the books for a transaction on a connection."""
        self._postgres = postgres
        self._books = books

    def read(self, work: Callable[[B], T]) -> T:
        return self._postgres.run(lambda connection: work(self._books(connection)))

    def transaction(self, work: Callable[[B], T]) -> T:
        return self._postgres.transaction(lambda connection: work(self._books(connection)))

    def in_turn(self, wallet_id: WalletId, work: Callable[[B], T]) -> T:
        """A transaction that locks this one wallet."""
        return self._postgres.wallet_transaction(wallet_id, lambda connection: work(self._books(connection)))
