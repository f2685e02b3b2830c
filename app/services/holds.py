"""Giving holds back: on cancel, and when a run ends without having used anything."""

from __future__ import annotations

from redis import RedisError

from app.domain.errors import Unavailable, WalletNotFound
from app.domain.wallets import Balance
from app.services.catalog_snapshot import CatalogSnapshot
from app.services.gate import Gate
from app.services.postgres_access import PostgresAccess
from app.services.wallet_loader import WalletLoader
from app.stores.postgres import balances
from app.stores.redis.wallet_cache import WalletCache

LOOK_ATTEMPTS = 3


class HoldService:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        catalog: CatalogSnapshot,
        cache: WalletCache,
        loader: WalletLoader,
        redis: Gate,
    ) -> None:
        self._postgres = postgres
        self._catalog = catalog
        self._cache = cache
        self._loader = loader
        self._redis = redis

    def release(self, user_id: str, process_id: str | None) -> int:
        """Give a run's hold back, if it has one; the wallet's spendable micro-tokens after it.

        Raises WalletNotFound or Unavailable. With Redis away there are no holds, and Postgres tells the balance.
        """
        if self._redis.is_open:
            try:
                for _ in range(LOOK_ATTEMPTS):
                    spendable_micros = self._cache.release(user_id, process_id, self._catalog.epoch)
                    if spendable_micros is not None:
                        return spendable_micros
                    if self._loader.load([user_id], self._catalog.epoch):
                        raise WalletNotFound
                raise Unavailable
            except RedisError as error:
                self._redis.close(error)
        wallet = self._postgres.run(lambda connection: balances.balances(connection, [user_id]).get(user_id))
        if wallet is None:
            raise WalletNotFound
        return Balance(wallet.posted_micros, wallet.pending_micros, wallet.debt_micros).spendable_micros
