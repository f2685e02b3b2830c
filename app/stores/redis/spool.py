"""The spool: ends that Redis keeps while Postgres is away, until they are in the inbox.

Redis's append-only file makes them durable. An entry is removed only after the transaction that recorded it has
committed. Recording an entry twice does no harm, because its end id stays the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from redis import Redis
from redis.client import NEVER_DECODE

from app.domain.ends import AcceptedEnd
from app.stores.redis.keys import KEY_PREFIX
from app.stores.redis.slices import slices
from app.stores.spool_entry import SpoolEntry

SPOOL_KEY = f"{KEY_PREFIX}:spool"


class Spool:
    def __init__(self, client: Redis) -> None:
        self._client = client

    def put(self, ends: Iterable[AcceptedEnd]) -> int:
        """Keep ends; returns how many weren't kept yet. They are durable when this returns. Raises RedisError."""
        entries = map(SpoolEntry.of, ends)
        return int(self._client.hset(SPOOL_KEY, mapping={entry.field: entry.text for entry in entries}))

    def take(self, limit: int) -> list[SpoolEntry]:
        """Some of the kept ends, in the order they were accepted. They stay in the spool. Raises RedisError."""
        found: dict[bytes, bytes] = {}
        cursor = 0
        while True:
            cursor, page = self._as_bytes("HSCAN", SPOOL_KEY, cursor, "COUNT", limit)
            found.update(page)
            if cursor == 0 or len(found) >= limit:
                return [SpoolEntry(field, text) for field, text in sorted(found.items())]

    def remove(self, entries: Collection[SpoolEntry]) -> None:
        """Forget ends that are recorded. Raises RedisError."""
        if entries:
            self._as_bytes("HDEL", SPOOL_KEY, *(entry.field for entry in entries))

    def holding(self, end_ids: Sequence[UUID]) -> set[UUID]:
        """Which of these ends are kept here. Raises RedisError."""
        found: set[UUID] = set()
        for part in slices(end_ids):
            texts = self._as_bytes("HMGET", SPOOL_KEY, *map(str, part))
            found |= {end_id for end_id, text in zip(part, texts, strict=True) if text is not None}
        return found

    def size(self) -> int:
        """How many ends are kept. Raises RedisError."""
        return int(self._client.hlen(SPOOL_KEY))

    def _as_bytes(self, *command: Any) -> Any:
        # Replies stay bytes: one entry that isn't UTF-8 would fail the decoding of the whole reply.
        return self._client.execute_command(*command, **{NEVER_DECODE: True})  # type: ignore[no-untyped-call]
