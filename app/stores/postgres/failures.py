"""Classifies errors of Postgres: whether they concern Postgres as a whole, or one call. Only this module
decides that.
"""

from __future__ import annotations

import psycopg
import sqlalchemy as sa
from psycopg.errors import ConnectionTimeout, DeadlockDetected, LockNotAvailable, SerializationFailure

from app.stores.failures import Failure


class NoAnswer(psycopg.OperationalError):
    """Postgres took a statement and didn't answer within our time limit; the connection is closed."""


# By SQLSTATE, or by its class (its first two characters).
_AWAY = {
    "08",  # the connection broke
    "28",  # it refuses our credentials
    "3D",  # the database is gone
    "57P01",  # shut down by an administrator
    "57P02",  # shut down because another process crashed
    "57P03",  # starting, or stopping
}
_CANNOT_WRITE = {
    "25006",  # read-only: a standby, or `default_transaction_read_only`
    "53",  # disk full, out of memory, out of connections
    "58",  # a failure of the system it runs on
}

# A refused connect has no SQLSTATE, only the text of the server or of a pooler in between.
_OUT_OF_CONNECTIONS = ("too many clients", "too many connections", "remaining connection slots", "no more connections")


def failure_of(error: BaseException) -> Failure:
    """The class of an error of SQLAlchemy or psycopg, or of an OSError on the way to Postgres."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        if {state, state[:2]} & _CANNOT_WRITE:
            return Failure.CANNOT_WRITE
        return Failure.AWAY if {state, state[:2]} & _AWAY else Failure.REFUSED
    if isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError, OSError)):
        # Without a SQLSTATE the error isn't the server's: a connect failed, or a connection broke.
        is_out = any(words in str(cause) for words in _OUT_OF_CONNECTIONS)
        return Failure.CANNOT_WRITE if is_out else Failure.AWAY
    if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
        return Failure.AWAY
    # Our pool ran out (sa.exc.TimeoutError), a value didn't fit, or our own code raised.
    return Failure.REFUSED


def is_silent(error: BaseException) -> bool:
    """Whether Postgres gave no answer at all, to a connect or a statement. A retry would only wait as long again."""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, (NoAnswer, ConnectionTimeout))


def is_passing(error: BaseException) -> bool:
    """Whether the same statements may succeed if they are sent again at once."""
    return isinstance(error, sa.exc.DBAPIError) and (
        isinstance(error.orig, (DeadlockDetected, SerializationFailure))
        # The session was ended for being idle, which says nothing about the statements.
        or getattr(error.orig, "sqlstate", None) in ("25P03", "25P04", "57P05")
    )


def is_lock_timeout(error: BaseException) -> bool:
    """Whether another session kept a row locked for longer than a statement may wait."""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, LockNotAvailable)


def is_too_slow(error: BaseException) -> bool:
    """Whether a statement exceeded its time limit on a server that answers."""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, psycopg.errors.QueryCanceled)
