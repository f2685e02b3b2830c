"""Cached copies whose last change didn't reach Redis: corrected from Postgres."""

from __future__ import annotations

from app.access.loader import WalletLoader
from app.access.postgres import PostgresAccess
from app.stores.postgres import stale

WALLETS_PER_REFRESH = 200


class StaleCopies:
    def __init__(self, *, postgres: PostgresAccess, loader: WalletLoader) -> None:
        self._postgres = postgres
        self._loader = loader

    def refresh(self, older_than_seconds: float) -> int:
        """Correct the cached copies of wallets whose last change didn't reach Redis; how many there were."""
        found = self._postgres.run(
            lambda connection: stale.older_than(connection, older_than_seconds, WALLETS_PER_REFRESH)
        )
        if found:
            self._loader.refresh([wallet.wallet_id for wallet in found])
            self._postgres.run(lambda connection: stale.clear_refreshed(connection, found))
        return len(found)
