"""Ends that Redis keeps while Postgres is away, until they stand in the inbox.

Redis's append-only file makes them durable. An entry is removed only after the transaction that recorded it has
committed; recording one twice does no harm, as its id stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from uuid import UUID

from redis import Redis

from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.wallets import Deduction
from app.stores.redis.wallet_cache import KEY_PREFIX

SPOOL_KEY = f"{KEY_PREFIX}:spool"


class Spool:
    def __init__(self, client: Redis) -> None:
        self._client = client

    def put(self, ends: Iterable[AcceptedEnd]) -> None:
        """Keep ends. When it returns they are durable. Raises RedisError."""
        self._client.hset(SPOOL_KEY, mapping={str(end.id): _encode(end) for end in ends})

    def take(self, limit: int) -> list[AcceptedEnd]:
        """Some of the kept ends, which stay kept. Raises RedisError."""
        found: dict[str, str] = {}
        for field, text in self._client.hscan_iter(SPOOL_KEY, count=limit):
            found[field] = text
            if len(found) >= limit:
                break
        return [_decode(end_id, text) for end_id, text in sorted(found.items())]

    def remove(self, end_ids: Collection[UUID]) -> None:
        """Forget ends that are recorded. Raises RedisError."""
        if end_ids:
            self._client.hdel(SPOOL_KEY, *map(str, end_ids))

    def holding(self, end_ids: Sequence[UUID]) -> set[UUID]:
        """Which of these ends are kept here. Raises RedisError."""
        if not end_ids:
            return set()
        found = self._client.hmget(SPOOL_KEY, list(map(str, end_ids)))
        return {end_id for end_id, text in zip(end_ids, found, strict=True) if text is not None}

    def size(self) -> int:
        """How many ends are kept. Raises RedisError."""
        return int(self._client.hlen(SPOOL_KEY))


def _encode(end: AcceptedEnd) -> str:
    fields = asdict(end)
    del fields["id"]
    return json.dumps(fields)


def _decode(end_id: str, text: str) -> AcceptedEnd:
    fields = json.loads(text)
    return AcceptedEnd(
        id=UUID(end_id),
        request=EndRequest(**fields.pop("request")),
        deduction=Deduction(fields.pop("deduction")),
        **fields,
    )
