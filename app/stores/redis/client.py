"""The connection to Redis: every wait is bounded and nothing is sent twice on its own."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.config import Config


def create_client(config: Config) -> Redis:
    """A client whose connects and calls end within the configured time."""
    timeout_seconds = config.redis_timeout_ms / 1000
    return Redis.from_url(
        config.redis_url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        # An idle connection whose peer has vanished is noticed before it is used.
        socket_keepalive=True,
        # A call that may have arrived isn't repeated by the client: whoever made it knows what that would mean.
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
        decode_responses=True,
    )
