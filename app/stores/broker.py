"""kombu's Redis transport, made to outlive its Redis: a worker that loses its broker reconnects, soon, and doesn't end.

kombu 5.7, told by a broken socket that Redis died, closes the channel and then uses it: to put back what the worker
held, and to acknowledge what a task has done since. That asks a closed connection for its address and fails with an
AttributeError, which Celery takes for unrecoverable: it ended 7 workers in 12 kills of Redis, and none in 84 as here.

A Redis that answers and takes no writes (full, read-only, without its replicas) refuses what a worker asks of it all
the time. To Celery that is an error of the channel: with `broker_channel_error_retry` (set in `queue.py`) it connects
anew instead of ending. Connecting has to fail as long as that lasts, or it would be done over and over again.
"""

from __future__ import annotations

from typing import Any

import kombu
from celery.app.amqp import AMQP
from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

# Behind the transport's own prefix.
PROBE_KEY = "probe"


class QoS(redis.QoS):  # type: ignore[misc]
    # What a worker held when its channel closed is the sweep's to find, as after kill -9.
    restore_at_shutdown = False


class Channel(redis.Channel):  # type: ignore[misc]
    QoS = QoS

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the channel is closed")
        return super()._connparams(asynchronous=asynchronous)


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
    """Have every Celery of this process reach `redis://` and `rediss://` by the transport above."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
