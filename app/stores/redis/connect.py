"""Clients for what REDIS_URL names: one Redis, or the current master of a service that Sentinels watch."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from app.store_urls import RedisUrl


def connect(url: RedisUrl, *, timeout_seconds: float, **settings: Any) -> Redis:
    """A client whose connects and calls end within `timeout_seconds`, and which never retries a call by itself.

    With Sentinels each new connection goes to the current master, so after a fail-over the client finds the new master
    by itself. Creating the client connects to nothing.
    """
    arguments = {
        "db": url.database,
        "username": url.username,
        "password": url.password,
        **tls_arguments(url),
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        # A call that timed out may have arrived. Only the caller knows whether it can be repeated.
        "retry": Retry(NoBackoff(), 0),
        **settings,
    }
    if url.service is None:
        [(host, port)] = url.hosts
        return Redis(host=host, port=port, **arguments)
    client: Redis = sentinels(url, timeout_seconds).master_for(url.service, **arguments)  # type: ignore[no-untyped-call]
    return client


def sentinels(url: RedisUrl, timeout_seconds: float) -> Sentinel:
    """The Sentinels of a URL, asked in turn, each for at most `timeout_seconds`."""
    return Sentinel(  # type: ignore[no-untyped-call]
        list(url.hosts),
        sentinel_kwargs={
            "username": url.sentinel_username,
            "password": url.sentinel_password,
            **tls_arguments(url),
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "retry": Retry(NoBackoff(), 0),
        },
    )


def tls_arguments(url: RedisUrl) -> dict[str, Any]:
    """redis-py's TLS arguments. A certificate must be the host's and signed by a known authority."""
    return {"ssl": True, "ssl_cert_reqs": "required", **url.tls} if url.is_tls else {}
