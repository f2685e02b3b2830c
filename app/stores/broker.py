"""kombu's Redis transport, changed so that a worker that loses its broker reconnects within seconds instead of exiting.

When a broken socket shows that Redis died, kombu 5.7 closes the channel and then still uses it: to put back what the
worker held, and to acknowledge tasks that finish later. That asks a closed connection for its address and fails with an
AttributeError, which Celery takes for unrecoverable: 7 workers exited in 12 kills of Redis, and none in 84 with this
module.

kombu reads broadcasts (flower's requests to workers) without a timeout. Woken for a socket with nothing to read, or
with half a message of a server that died, a worker would block for ever and take no task.

A Redis that answers but takes no writes (full, read-only, without its replicas) refuses the worker's commands again and
again. Celery sees an error of the channel and, with `broker_channel_error_retry` (set in `queue.py`), reconnects
instead of exiting. Connecting then has to fail as long as writes are refused, or the worker would reconnect in a busy
loop.
"""

from __future__ import annotations

import ssl
from functools import cached_property, partial
from typing import Any

import kombu
from celery.app.amqp import AMQP
from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from app.store_urls import RedisUrl
from app.stores.redis.connect import sentinels

# Without the transport's own prefix, which is put before it.
PROBE_KEY = "probe"
# How long a worker waits for the rest of a broadcast that has begun to arrive. Meanwhile it does nothing else.
BROADCAST_SECONDS = 1.0


class QoS(redis.QoS):  # type: ignore[misc]
    # Messages that a worker held when its channel closed are left to the sweep, as after kill -9.
    restore_at_shutdown = False


class Channel(redis.Channel):  # type: ignore[misc]
    QoS = QoS

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the channel is closed")
        return super()._connparams(asynchronous=asynchronous)

    @cached_property
    def subclient(self) -> Any:
        """Reads broadcasts. One that doesn't arrive whole in time counts as a broken connection."""
        subclient = self._create_client(asynchronous=True).pubsub()
        subclient.parse_response = partial(subclient.parse_response, block=False, timeout=BROADCAST_SECONDS)
        return subclient


# This process's Sentinel clients, by the service that they watch. They can't be transport options: a worker sends its
# options to whoever asks for its statistics, as flower does, and a client can't be written as JSON, which stopped the
# worker.
_SENTINELS: dict[str, Sentinel] = {}


class SentinelChannel(Channel):
    """A channel to the current master of a service that Sentinels watch.

    kombu's own channel takes each Sentinel for a broker, and goes round them when the master is away.
    """

    from_transport_options = (*Channel.from_transport_options, "service")
    connection_class = SentinelManagedConnection
    connection_class_ssl = SentinelManagedSSLConnection

    def _get_pool(self, asynchronous: bool = False) -> Any:
        arguments = self._connparams(asynchronous=asynchronous)
        self.keyprefix_fanout: str = str(self.keyprefix_fanout).format(db=arguments["db"])
        for name in ("host", "port"):
            del arguments[name]
        return SentinelConnectionPool(  # type: ignore[no-untyped-call]
            self.service, _SENTINELS[str(self.service)], **arguments
        )


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel

    def establish_connection(self) -> Any:
        """Connect to a Redis that takes writes. Raises ConnectionError where it takes none, as where none is
        reachable.
        """
        connection = super().establish_connection()
        try:
            # A write that needs memory, as a worker's and a publisher's do.
            self._avail_channels[-1].client.set(PROBE_KEY, "", px=60_000)
        except ResponseError as error:
            self.close_connection(connection)
            raise RedisConnectionError(f"Redis takes no writes: {error}") from error
        return connection


class SentinelTransport(Transport):
    Channel = SentinelChannel


class Connection(kombu.Connection):  # type: ignore[misc]
    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect, however long it takes.

        Retries at most two seconds apart, where kombu's waits grow to 30: ends that were accepted meanwhile wait for
        this.
        """
        pauses = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2}
        return super().ensure_connection(*args, **{**pauses, **kwargs})


class Amqp(AMQP):  # type: ignore[misc]
    """Makes Celery's connections; passed as `Celery(amqp=...)`."""

    Connection = Connection


def use_lasting_transport() -> None:
    """Have every Celery app of this process reach `redis://`, `rediss://` and `sentinel://` by the transports above."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:SentinelTransport"


def broker_settings(url: RedisUrl, timeout_seconds: float) -> dict[str, Any]:
    """Celery's broker settings and transport options for this URL."""
    options: dict[str, Any] = {}
    if url.service is not None:
        _SENTINELS[url.service] = sentinels(url, timeout_seconds)
        options = {"service": url.service}
    # kombu's default accepts any certificate.
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, **url.tls} if url.is_tls else None
    return {"broker_url": url.broker_url, "broker_use_ssl": tls, "broker_transport_options": options}
