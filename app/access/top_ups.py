"""A wallet's books together with its part of a top-up of many wallets, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import sqlalchemy as sa

from app.access.books import Books
from app.access.postgres import PostgresAccess
from app.domain.wallets import WalletId
from app.stores.postgres import top_ups, wallets

T = TypeVar("T")


class TopUpBooks(Books):
    def __init__(self, connection: sa.Connection, batch_id: int) -> None:
        super().__init__(connection)
        self._batch_id = batch_id

    def claim(self, wallet_id: WalletId) -> bool:
        """Whether this wallet is not handled yet. The caller has locked its row, if it has one."""
        return top_ups.claim(self._connection, self._batch_id, wallet_id)

    def set_outcome(
        self, wallet_id: WalletId, outcome: str, *, posted_micros: int = 0, transaction_id: int | None = None
    ) -> None:
        top_ups.set_outcome(
            self._connection,
            self._batch_id,
            wallet_id,
            outcome,
            posted_micros=posted_micros,
            transaction_id=transaction_id,
        )

    def lock_free(self, wallet_ids: Sequence[WalletId]) -> Collection[WalletId]:
        """Lock those of these wallets that no other transaction has locked. Returns them."""
        return wallets.lock_free(self._connection, wallet_ids)


class TopUpBookKeeping:
    """Runs work with its books. Its errors are those of `PostgresAccess`."""

    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def in_turn(self, batch_id: int, wallet_id: WalletId, work: Callable[[TopUpBooks], T]) -> T:
        """A transaction that locks this one wallet."""
        return self._postgres.wallet_transaction(wallet_id, lambda connection: work(TopUpBooks(connection, batch_id)))

    def together(self, batch_id: int, work: Callable[[TopUpBooks], T]) -> T:
        """A transaction that locks several wallets and waits for none of them."""
        return self._postgres.transaction(lambda connection: work(TopUpBooks(connection, batch_id)))
