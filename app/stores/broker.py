"""kombu's Redis transport, made to outlive its Redis: a worker that loses its broker reconnects, soon, and doesn't end.

kombu 5.7, told by a broken socket that Redis died, closes the channel and then uses it: to put back what the worker
held, and to acknowledge what a task has done since. That asks a closed connection for its address and fails with an
AttributeError, which Celery takes for unrecoverable: it ended 7 workers in 12 kills of Redis, and none in 84 as here.

It reads broadcasts (what flower asks of workers) without a limit of time: woken for a socket on which there is nothing
to read, or half a message of a server that has died, a worker would stand still for ever and take no task.

A Redis that answers and takes no writes (full, read-only, without its replicas) refuses what a worker asks of it all
the time. To Celery that is an error of the channel: with `broker_channel_error_retry` (set in `queue.py`) it connects
anew instead of ending. Connecting has to fail as long as that lasts, or it would be done over and over again.
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

# Behind the transport's own prefix.
PROBE_KEY = "probe"
# How long a worker waits for the rest of a broadcast that has begun to come. It does nothing else meanwhile.
BROADCAST_SECONDS = 1.0


class QoS(redis.QoS):  # type: ignore[misc]
    # What a worker held when its channel closed is the sweep's to find, as after kill -9.
    restore_at_shutdown = False


class Channel(redis.Channel):  # type: ignore[misc]
    QoS = QoS

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the channel is closed")
        return super()._connparams(asynchronous=asynchronous)

    @cached_property
    def subclient(self) -> Any:
        """Reads broadcasts. One that doesn't come whole in time is a broken connection."""
        subclient = self._create_client(asynchronous=True).pubsub()
        subclient.parse_response = partial(subclient.parse_response, block=False, timeout=BROADCAST_SECONDS)
        return subclient


# The Sentinels of this process by the service that they watch. They are no option of the transport: a worker tells its
# options to whoever asks for its statistics, as flower does, and one that couldn't be written as JSON stopped it.
_SENTINELS: dict[str, Sentinel] = {}


class SentinelChannel(Channel):
    """A channel to the master that Sentinels tell of.

    kombu's own takes each Sentinel for a broker, and goes round them when the master is away.
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
        """Connect to a Redis that takes writes. Raises ConnectionError where it doesn't, as where there is none."""
        connection = super().establish_connection()
        try:
            # As what a worker and a publisher do, this needs memory.
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

        Every two seconds, where kombu's waits grow to 30: ends that were accepted meanwhile wait for this.
        """
        pauses = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2}
        return super().ensure_connection(*args, **{**pauses, **kwargs})


class Amqp(AMQP):  # type: ignore[misc]
    """Celery's way to make connections; goes to `Celery(amqp=...)`."""

    Connection = Connection


def use_lasting_transport() -> None:
    """Have every Celery of this process reach `redis://`, `rediss://` and `sentinel://` by the transports above."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:SentinelTransport"


def broker_settings(url: RedisUrl, timeout_seconds: float) -> dict[str, Any]:
    """Celery's settings and transport options of a broker at this URL."""
    options: dict[str, Any] = {}
    if url.service is not None:
        _SENTINELS[url.service] = sentinels(url, timeout_seconds)
        options = {"service": url.service}
    # kombu's default is to believe any certificate.
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, **url.tls} if url.is_tls else None
    return {"broker_url": url.broker_url, "broker_use_ssl": tls, "broker_transport_options": options}
