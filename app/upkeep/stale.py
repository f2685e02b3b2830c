"""Corrects cached wallets from Postgres whose last change didn't reach Redis."""

from __future__ import annotations

from app.access.loader import WalletLoader
from app.access.postgres import PostgresAccess
from app.stores.postgres import stale

WALLETS_PER_REFRESH = 200
# Few, as one note may name a wallet for each end of a settled batch.
NOTES_PER_LOOK = 50


class StaleCopies:
    def __init__(self, *, postgres: PostgresAccess, loader: WalletLoader) -> None:
        self._postgres = postgres
        self._loader = loader

    def refresh(self, older_than_seconds: float) -> int:
        """Correct the cached wallets whose last change didn't reach Redis. Returns how many there were.

        Raises Unavailable or RedisError.
        """
        notes = self._postgres.run(lambda connection: stale.older_than(connection, older_than_seconds, NOTES_PER_LOOK))
        wallet_ids = sorted({wallet_id for note in notes for wallet_id in note.wallet_ids})
        for i in range(0, len(wallet_ids), WALLETS_PER_REFRESH):
            self._loader.refresh(wallet_ids[i : i + WALLETS_PER_REFRESH])
        if notes:
            self._postgres.run(lambda connection: stale.clear_refreshed(connection, notes))
        return len(wallet_ids)
