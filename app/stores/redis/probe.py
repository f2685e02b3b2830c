"""What the watcher asks Redis: which server is it, and does it take a write?"""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from app.stores.redis.keys import KEY_PREFIX

# The highest Postgres counters that any process has seen, for processes that start after all others have stopped.
SEEN_KEY = f"{KEY_PREFIX}:postgres-seen"


@dataclass(frozen=True, slots=True)
class Seen:
    cache_epoch: int
    heartbeat: int


@dataclass(frozen=True, slots=True)
class RedisState:
    run_id: str | None
    """Changes with each start of the server."""
    seen: Seen


class Probe:
    def __init__(self, client: Redis, others: Redis) -> None:
        """`client` is the probe's own, so that the probe never waits for a connection that other calls are
        waiting on.
        """
        self._client = client
        self._others = others

    def reconnect(self) -> None:
        """Close idle connections, so that everybody reconnects: another server may be behind the address now."""
        for client in (self._client, self._others):
            client.connection_pool.disconnect(inuse_connections=False)

    def look(self, seen: Seen) -> RedisState:
        """Store the Postgres counters that this process has seen, and return those that were stored before. Raises
        RedisError.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.info("server")
        pipeline.hmget(SEEN_KEY, "cache_epoch", "heartbeat")
        # A write that needs memory, as an end's does: a full server refuses this one too.
        pipeline.hset(SEEN_KEY, mapping={"cache_epoch": seen.cache_epoch, "heartbeat": seen.heartbeat})
        server, (epoch, heartbeat), _ = pipeline.execute()
        return RedisState(server.get("run_id"), Seen(int(epoch or 0), int(heartbeat or 0)))
