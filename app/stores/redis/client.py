"""The connection to Redis: every wait is bounded, and the client never retries a call by itself."""

from __future__ import annotations

from redis import Redis

from app.config import Config
from app.stores.redis.connect import connect


def create_client(config: Config) -> Redis:
    """A client whose connects and calls end within the configured time."""
    return connect(
        config.redis,
        timeout_seconds=config.redis_timeout_seconds,
        # Notice an idle connection whose peer has vanished before it is used.
        socket_keepalive=True,
        health_check_interval=30,
        decode_responses=True,
    )
