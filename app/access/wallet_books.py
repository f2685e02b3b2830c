"""A wallet's books, and opening, listing and reading wallets, within one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from app.access.books import Books
from app.domain.reports import WalletOrder, Wallets
from app.domain.wallets import Wallet, WalletBalance, WalletId
from app.stores.postgres import balances, catalog, wallet_lists, wallets


class WalletBooks(Books):
    def has_package(self, package_id: str) -> bool:
        return catalog.find_package(self._connection, package_id) is not None

    def open(
        self, wallet_id: WalletId, user_id: str, package_id: str | None, status: str, overdraft_limit_micros: int
    ) -> Wallet | None:
        """A new, empty wallet. None where the user has one."""
        return wallets.insert(
            self._connection,
            wallet_id=wallet_id,
            user_id=user_id,
            package_id=package_id,
            status=status,
            overdraft_limit_micros=overdraft_limit_micros,
        )

    def balances(self, wallet_ids: Collection[WalletId]) -> Mapping[WalletId, WalletBalance]:
        """Balances of those of these wallets that exist."""
        return balances.balances(self._connection, wallet_ids)

    def list_wallets(
        self, wanted: Wallets, order: WalletOrder, after: str, limit: int, among: Collection[WalletId] | None
    ) -> Sequence[WalletBalance]:
        """The next wallets after a position; only those `among` these ids, if given."""
        return wallet_lists.list_wallets(self._connection, wanted, order, after, limit=limit, among=among)
