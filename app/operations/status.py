"""What waits where: the numbers an operator watches. Nothing in them is about a user."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from redis import Redis, RedisError

from app.access.gate import Gate, StoreState
from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable
from app.stores.postgres import watch
from app.stores.postgres.watch import Watched
from app.stores.queue import QUEUES, message_counts
from app.stores.redis.spool import Spool


@dataclass(frozen=True, slots=True)
class Status:
    """None stands for what couldn't be asked, as its store is away."""

    stores: Mapping[str, StoreState]
    postgres: Watched | None
    spooled_ends: int | None
    messages_by_queue: Mapping[str, int] | None


class StatusService:
    def __init__(self, *, postgres: PostgresAccess, client: Redis, spool: Spool, redis: Gate) -> None:
        self._postgres = postgres
        self._client = client
        self._spool = spool
        self._redis = redis

    @property
    def stores(self) -> dict[str, StoreState]:
        """What each store does for this process now, as its watcher and its calls have found."""
        return {gate.store: gate.state for gate in (self._postgres.gate, self._redis)}

    def look(self) -> Status:
        """Never raises because a store is away."""
        postgres, spooled, messages = None, None, None
        with suppress(Unavailable):
            postgres = self._postgres.run(watch.look)
        if self._redis.is_open:
            try:
                spooled = self._spool.size()
                messages = message_counts(self._client, QUEUES)
            except RedisError as error:
                self._redis.close(error)
        return Status(self.stores, postgres, spooled, messages)
