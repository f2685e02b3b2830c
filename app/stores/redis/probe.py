"""Looks at Redis as the watcher does: which server is it, and does it take a write?"""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from app.stores.redis.keys import KEY_PREFIX

# What Postgres had told of its counters, kept for processes that start after everybody who knew has gone.
SEEN_KEY = f"{KEY_PREFIX}:postgres-seen"


@dataclass(frozen=True, slots=True)
class Seen:
    cache_epoch: int
    heartbeat: int


@dataclass(frozen=True, slots=True)
class RedisState:
    run_id: str | None
    """Another one after each start of the server."""
    seen: Seen


class Probe:
    def __init__(self, client: Redis, others: Redis) -> None:
        """`client` is the probe's own: what the others are waiting for is not waited for here."""
        self._client = client
        self._others = others

    def reconnect(self) -> None:
        """Have everybody use new connections: another server may stand behind the address."""
        for client in (self._client, self._others):
            client.connection_pool.disconnect(inuse_connections=False)

    def look(self, seen: Seen) -> RedisState:
        """Tell what Postgres has told us, and learn what it has told others. Raises RedisError."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.info("server")
        pipeline.hmget(SEEN_KEY, "cache_epoch", "heartbeat")
        # A write that needs memory, as an end does: a full server refuses it too.
        pipeline.hset(SEEN_KEY, mapping={"cache_epoch": seen.cache_epoch, "heartbeat": seen.heartbeat})
        server, (epoch, heartbeat), _ = pipeline.execute()
        return RedisState(server.get("run_id"), Seen(int(epoch or 0), int(heartbeat or 0)))
