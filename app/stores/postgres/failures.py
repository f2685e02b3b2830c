"""The one place that tells what an error of Postgres says about Postgres."""

from __future__ import annotations

import psycopg
import sqlalchemy as sa
from psycopg.errors import ConnectionTimeout, DeadlockDetected, LockNotAvailable, SerializationFailure

from app.stores.failures import Failure


class NoAnswer(psycopg.OperationalError):
    """Postgres took a statement and was silent for longer than it is allowed; the connection is given up."""


# By SQLSTATE, or its class, the first two characters.
_AWAY = {
    "08",  # the connection broke
    "28",  # it lets us in no more
    "3D",  # the database is gone
    "57P01",  # shut down by an administrator
    "57P02",  # a crash of another process took everybody along
    "57P03",  # starting, or stopping
}
_CANNOT_WRITE = {
    "25006",  # read-only: a standby, or `default_transaction_read_only`
    "53",  # disk full, out of memory, out of connections
    "58",  # the machine below it fails
}

# A connect that is refused carries no SQLSTATE, only what the server, or a pooler before it, said.
_OUT_OF_CONNECTIONS = ("too many clients", "too many connections", "remaining connection slots", "no more connections")


def failure_of(error: BaseException) -> Failure:
    """What an error of SQLAlchemy or psycopg, or an OSError on the way to Postgres, says about it."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        if {state, state[:2]} & _CANNOT_WRITE:
            return Failure.CANNOT_WRITE
        return Failure.AWAY if {state, state[:2]} & _AWAY else Failure.REFUSED
    if isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError, OSError)):
        # Not from the server, so it is about the way there: a connect that failed, a connection that broke.
        is_out = any(words in str(cause) for words in _OUT_OF_CONNECTIONS)
        return Failure.CANNOT_WRITE if is_out else Failure.AWAY
    if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
        return Failure.AWAY
    # Our pool ran out (sa.exc.TimeoutError), a value didn't fit, or our own code raised.
    return Failure.REFUSED


def is_silent(error: BaseException) -> bool:
    """Did Postgres not answer at all, neither a connect nor a statement? It would only be waited for again."""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, (NoAnswer, ConnectionTimeout))


def is_passing(error: BaseException) -> bool:
    """May the same statements succeed if they are sent again at once?"""
    return isinstance(error, sa.exc.DBAPIError) and (
        isinstance(error.orig, (DeadlockDetected, SerializationFailure))
        # The session was ended for being idle, which is about us and not about what we sent.
        or getattr(error.orig, "sqlstate", None) in ("25P03", "25P04", "57P05")
    )


def is_lock_timeout(error: BaseException) -> bool:
    """Did somebody else keep a row for longer than a statement may wait for it?"""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, LockNotAvailable)


def is_too_slow(error: BaseException) -> bool:
    """Did a statement run into its time limit, on a server that answers?"""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, psycopg.errors.QueryCanceled)
