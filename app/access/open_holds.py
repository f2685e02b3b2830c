"""What open holds reserve. Only Redis knows; without Redis nobody can say."""

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
    """Each call raises Unavailable when Redis is away."""

    def __init__(self, client: Redis, holds: WalletHolds, redis: Gate) -> None:
        self._client = client
        self._holds = holds
        self._redis = redis

    def held_micros(self, wallet_ids: Sequence[WalletId]) -> Sequence[int]:
        """What each of these wallets holds, in the order given."""
        return self._ask(lambda: self._holds.held(wallet_ids))

    def holders(self) -> Collection[WalletId]:
        """The wallets that may have open holds; no other wallet has any."""
        return self._ask(lambda: holders.names(self._client))

    def total_micros(self) -> int:
        """The sum of all open holds: reads each wallet that may have one."""
        return self._ask(lambda: sum(sum(self._holds.held(part)) for part in slices(holders.names(self._client))))

    def _ask(self, question: Callable[[], T]) -> T:
        if self._redis.is_open:
            try:
                return question()
            except RedisError as error:
                self._redis.close(error)
        raise Unavailable
