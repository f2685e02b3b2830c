"""Open holds: given back on cancel and when a run ends without having used anything, and extended while it runs.

Holds live in Redis. Without it there are none, and none can be extended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from redis import RedisError

from app.domain.errors import HoldNotFound, Unavailable, WalletNotFound
from app.domain.wallets import Access, Balance
from app.services.catalog_snapshot import CatalogSnapshot
from app.services.gate import Gate
from app.services.postgres_access import PostgresAccess
from app.services.wallet_loader import WalletLoader
from app.stores.postgres import balances
from app.stores.redis.wallet_cache import WalletCache
from app.stores.redis.wallet_holds import NoOpenHold, WalletHolds

LOOK_ATTEMPTS = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ExtendRequest:
    """More tokens, more seconds, or both; 0 is none."""

    user_id: str
    process_id: str
    more_micros: int
    more_seconds: int


@dataclass(frozen=True, slots=True)
class ExtendAnswer:
    """The hold after the call. Denied leaves it as it was."""

    access: Access
    spendable_micros: int
    hold_micros: int
    expires_at: datetime


class HoldService:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        catalog: CatalogSnapshot,
        cache: WalletCache,
        holds: WalletHolds,
        loader: WalletLoader,
        redis: Gate,
    ) -> None:
        self._postgres = postgres
        self._catalog = catalog
        self._cache = cache
        self._holds = holds
        self._loader = loader
        self._redis = redis

    def release(self, user_id: str, process_id: str | None) -> int:
        """Give a run's hold back, if it has one; the wallet's spendable micro-tokens after it.

        Raises WalletNotFound or Unavailable. With Redis away there are no holds, and Postgres tells the balance.
        """
        spendable_micros = self._ask_redis(user_id, lambda epoch: self._cache.release(user_id, process_id, epoch))
        if spendable_micros is not None:
            return spendable_micros
        wallet = self._postgres.run(lambda connection: balances.balances(connection, [user_id]).get(user_id))
        if wallet is None:
            raise WalletNotFound
        return Balance(wallet.posted_micros, wallet.pending_micros, wallet.debt_micros).spendable_micros

    def extend(self, request: ExtendRequest) -> ExtendAnswer:
        """Add to an open hold. Raises HoldNotFound, WalletNotFound, or Unavailable when Redis is away.

        After Unavailable it may have been added all the same: the answer was lost, not the call.
        """
        try:
            reply = self._ask_redis(
                request.user_id,
                lambda epoch: self._holds.extend(
                    request.user_id,
                    request.process_id,
                    more_micros=request.more_micros,
                    more_ms=request.more_seconds * 1000,
                    epoch=epoch,
                ),
            )
        except NoOpenHold:
            raise HoldNotFound from None
        if reply is None:
            raise Unavailable
        return ExtendAnswer(
            Access.GRANTED if reply.is_granted else Access.DENIED,
            reply.spendable_micros,
            reply.hold_micros,
            datetime.fromtimestamp(reply.hold_ends_at_ms / 1000, UTC),
        )

    def _ask_redis(self, user_id: str, ask: Callable[[int], T | None]) -> T | None:
        """What `ask` finds in an epoch's cache, loading the wallet where it says None. None with Redis away.

        Raises WalletNotFound, or Unavailable when the wallet can't be loaded.
        """
        if not self._redis.is_open:
            return None
        try:
            for _ in range(LOOK_ATTEMPTS):
                found = ask(self._catalog.epoch)
                if found is not None:
                    return found
                if self._loader.load([user_id], self._catalog.epoch):
                    raise WalletNotFound
            raise Unavailable
        except RedisError as error:
            self._redis.close(error)
            return None
