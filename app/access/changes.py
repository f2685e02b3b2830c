"""Brings Redis up to a committed change of a wallet.

The transaction has left a note that the cached copy is stale. The note is deleted here once Redis has the change. With
Redis away it stays, and the sweep corrects the copy later.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog
from redis import RedisError

from app.access.gate import Gate
from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable
from app.domain.wallets import Wallet
from app.stores.postgres import stale
from app.stores.redis.wallet_cache import WalletCache
from app.stores.redis.wallet_calls import WalletChange

log = structlog.get_logger(__name__)


class WalletChanges:
    def __init__(self, *, postgres: PostgresAccess, cache: WalletCache, redis: Gate) -> None:
        self._postgres = postgres
        self._cache = cache
        self._redis = redis

    def announce(self, wallet: Wallet, told: Sequence[UUID] = ()) -> None:
        """Apply a wallet's change, best effort: a store that is away raises nothing. `told` are ends that the change
        removed from the inbox.
        """
        self.apply([WalletChange(wallet, told)])

    def apply(self, changes: Sequence[WalletChange]) -> None:
        """Apply all changes of one transaction, best effort: a store that is away raises nothing."""
        if not self._redis.is_open:
            self._redis.bypass()
            return
        try:
            self._cache.apply(changes)
        except RedisError as error:
            self._redis.close(error)
            if not self._redis.is_open:
                self._redis.bypass()
            log.warning("cache_update_postponed", wallets=len(changes), error=type(error).__name__)
            return
        try:
            self._postgres.run(lambda connection: stale.clear(connection, [change.wallet for change in changes]))
        except Unavailable as error:
            log.warning("stale_note_kept", wallets=len(changes), error=type(error).__name__)
