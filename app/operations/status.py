"""The numbers that operators watch: how much waits, and where. They say nothing about single users."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from redis import RedisError

from app.access.gate import Gate, StoreState
from app.domain.errors import Unavailable
from app.stores.postgres.watch import Watched


@dataclass(frozen=True, slots=True)
class Status:
    """A field is None if its store is away."""

    stores: Mapping[str, StoreState]
    postgres: Watched | None
    spooled_ends: int | None
    messages_by_queue: Mapping[str, int] | None


class StatusService:
    def __init__(
        self,
        *,
        watch: Callable[[], Watched],
        spooled: Callable[[], int],
        messages: Callable[[], Mapping[str, int]],
        postgres: Gate,
        redis: Gate,
    ) -> None:
        """`watch` reads Postgres and raises Unavailable. `spooled` counts ends and `messages` counts messages by queue,
        both in Redis; they raise RedisError.
        """
        self._watch = watch
        self._spooled = spooled
        self._messages = messages
        self._postgres = postgres
        self._redis = redis

    @property
    def stores(self) -> dict[str, StoreState]:
        """The state of each store for this process, as its watcher and its calls have found it."""
        return {gate.store: gate.state for gate in (self._postgres, self._redis)}

    def look(self) -> Status:
        """Never raises because a store is away."""
        postgres, spooled, messages = None, None, None
        with suppress(Unavailable):
            postgres = self._watch()
        if self._redis.is_open:
            try:
                spooled = self._spooled()
                messages = self._messages()
            except RedisError as error:
                self._redis.close(error)
        return Status(self.stores, postgres, spooled, messages)
