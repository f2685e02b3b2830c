"""What open holds reserve, as Redis tells, where they live. Without it nobody can say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from redis import Redis, RedisError

from app.access.gate import Gate
from app.domain.errors import Unavailable
from app.domain.wallets import WalletId
from app.stores.redis import holders
from app.stores.redis.slices import slices
from app.stores.redis.wallet_holds import WalletHolds

T = TypeVar("T")


class OpenHolds:
    """Each call raises Unavailable without Redis."""

    def __init__(self, client: Redis, holds: WalletHolds, redis: Gate) -> None:
        self._client = client
        self._holds = holds
        self._redis = redis

    def held_micros(self, wallet_ids: Sequence[WalletId]) -> Sequence[int]:
        """Of each of these wallets, in their order."""
        return self._ask(lambda: self._holds.held(wallet_ids))

    def holders(self) -> Collection[WalletId]:
        """Wallets that may have open holds: no other has."""
        return self._ask(lambda: holders.names(self._client))

    def total_micros(self) -> int:
        """Of all wallets: one look at each that was given a hold which may still be open."""
        return self._ask(lambda: sum(sum(self._holds.held(part)) for part in slices(holders.names(self._client))))

    def _ask(self, question: Callable[[], T]) -> T:
        if self._redis.is_open:
            try:
                return question()
            except RedisError as error:
                self._redis.close(error)
        raise Unavailable
