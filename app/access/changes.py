"""Brings Redis up to a committed change of a wallet.

The transaction has left a mark that the cached copy is old. It is struck off here once Redis has the
change; with Redis away it stays, and the sweep corrects the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog
from redis import RedisError

from app.access.gate import Gate
from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable
from app.stores.postgres import stale
from app.stores.postgres.wallets import WalletRow
from app.stores.redis.wallet_cache import WalletCache
from app.stores.redis.wallet_calls import CachedFields, WalletChange

log = structlog.get_logger(__name__)


class WalletChanges:
    def __init__(self, *, postgres: PostgresAccess, cache: WalletCache, redis: Gate) -> None:
        self._postgres = postgres
        self._cache = cache
        self._redis = redis

    def announce(self, wallet: WalletRow, told: Sequence[UUID] = ()) -> None:
        """Best effort; never raises because a store is away. `told` are ends that left the inbox with it."""
        fields = CachedFields(
            wallet.version,
            wallet.posted_micros,
            wallet.debt_micros,
            wallet.overdraft_limit_micros,
            wallet.status,
            wallet.package_id,
        )
        self.apply([WalletChange(wallet.wallet_id, fields, told)])

    def apply(self, changes: Sequence[WalletChange]) -> None:
        """Best effort; never raises because a store is away."""
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
        versions = {change.wallet_id: change.fields.version for change in changes}
        try:
            self._postgres.run(lambda connection: stale.clear(connection, versions))
        except Unavailable as error:
            log.warning("stale_marks_kept", wallets=len(changes), error=type(error).__name__)
