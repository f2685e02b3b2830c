"""Connections to Postgres, with a limit on every wait."""

from __future__ import annotations

import sqlalchemy as sa
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled, SerializationFailure

from app.config import Config


def create_engine(config: Config, *, pool_size: int = 8) -> sa.Engine:
    """An engine whose statements, connects and waits for a pooled connection all end within the configured time.

    A connection is tried before it is used, so a restarted Postgres is used again without an error.
    """
    seconds = max(1, config.database_timeout_ms // 1000)
    return sa.create_engine(
        config.database_url,
        pool_size=pool_size,
        max_overflow=8,
        pool_timeout=seconds,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": max(2, seconds),
            "application_name": "tokentill",
            "options": f"-c statement_timeout={config.database_timeout_ms} -c timezone=UTC",
            # A peer that vanished without a word is noticed, not waited for.
            "tcp_user_timeout": config.database_timeout_ms,
            "keepalives_idle": 5,
        },
    )


def is_away(error: BaseException) -> bool:
    """Did Postgres fail to answer (gone, refusing, too slow), as opposed to refusing what we sent?"""
    if isinstance(error, sa.exc.TimeoutError):
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    return error.connection_invalidated or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))


def is_too_slow(error: BaseException) -> bool:
    """Did a statement run into its time limit, on a server that answers?"""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, QueryCanceled)


def is_passing(error: BaseException) -> bool:
    """May the same statement succeed if it is sent again at once?"""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(
        error.orig, (DeadlockDetected, LockNotAvailable, SerializationFailure)
    )
