"""What waits where: the numbers an operator watches. Nothing in them is about a user."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from redis import Redis, RedisError

from app.access.gate import Gate, StoreState
from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable
from app.stores.postgres import inbox, spool_aside
from app.stores.queue import QUEUES, message_counts
from app.stores.redis.spool import Spool


@dataclass(frozen=True, slots=True)
class Status:
    """None stands for what couldn't be asked, as its store is away."""

    stores: Mapping[str, StoreState]
    ends_by_state: Mapping[str, int] | None
    oldest_accepted_seconds: int | None
    spooled_ends: int | None
    ends_aside: int | None
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
        by_state, oldest_seconds, spooled, aside, messages = None, None, None, None, None
        with suppress(Unavailable):
            by_state, oldest_seconds = self._postgres.run(inbox.summary)
            aside = self._postgres.run(spool_aside.size)
        if self._redis.is_open:
            try:
                spooled = self._spool.size()
                messages = message_counts(self._client, QUEUES)
            except RedisError as error:
                self._redis.close(error)
        return Status(self.stores, by_state, oldest_seconds, spooled, aside, messages)
