"""Connections to Postgres, with a limit on every wait."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import sqlalchemy as sa
from psycopg.errors import ConnectionTimeout, DeadlockDetected, LockNotAvailable, QueryCanceled, SerializationFailure

from app.config import Config

# How much later than Postgres itself we end a statement: by then it hangs, or nobody is there any more.
GRACE_SECONDS = 0.5


class NoAnswer(psycopg.OperationalError):
    """Postgres took a statement and was silent for longer than it is allowed; the connection is given up."""


class LimitedConnection(psycopg.Connection[Any]):
    """A connection with a limit of our own on every wait.

    A stopped server, a frozen disk or machine and a lost network keep none of Postgres's own limits, nor TCP's.
    """

    time_limit_seconds: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.time_limit_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            # What comes back later answers a question that nobody has any more.
            self.close()
            raise NoAnswer("no answer in time") from error


def create_engine(config: Config, *, pool_size: int = 8) -> sa.Engine:
    """An engine whose statements, connects and waits for a pooled connection all end within the configured time.

    A pooled connection isn't tried before it is used: who uses it has to be ready for one that was lost meanwhile.
    """
    seconds = max(1, config.database_timeout_ms // 1000)
    limit_seconds = config.database_timeout_ms / 1000 + GRACE_SECONDS
    engine = sa.create_engine(
        config.database_url,
        pool_size=pool_size,
        max_overflow=8,
        pool_timeout=seconds,
        connect_args={
            "connect_timeout": max(2, seconds),
            "application_name": "tokentill",
            "options": f"-c statement_timeout={config.database_timeout_ms} -c timezone=UTC",
            # A peer that vanished without a word is noticed, not waited for.
            "tcp_user_timeout": config.database_timeout_ms,
            "keepalives_idle": 5,
        },
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: list[Any], settings: dict[str, Any]) -> Any:
        connection = LimitedConnection.connect(*arguments, **settings)
        connection.time_limit_seconds = limit_seconds
        return connection

    @sa.event.listens_for(engine, "checkin")
    def _forget_longer_limit(connection: LimitedConnection | None, _record: Any) -> None:
        if connection is not None:
            connection.time_limit_seconds = limit_seconds

    return engine


def allow_seconds(connection: sa.Connection, seconds: float | None) -> None:
    """Let the statements of this transaction take that long, None: as long as they take."""
    milliseconds = 0 if seconds is None else round(seconds * 1_000)
    connection.execute(sa.text(f"SET LOCAL statement_timeout = {milliseconds:d}"))
    driver_connection = cast("LimitedConnection", connection.connection.driver_connection)
    driver_connection.time_limit_seconds = None if seconds is None else seconds + GRACE_SECONDS


def is_away(error: BaseException) -> bool:
    """Did Postgres fail to answer (gone, refusing, too slow), as opposed to refusing what we sent?"""
    if isinstance(error, sa.exc.TimeoutError):
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    return error.connection_invalidated or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))


def is_silent(error: BaseException) -> bool:
    """Did Postgres not answer at all, neither a connect nor a statement? It would only be waited for again."""
    if isinstance(error, sa.exc.TimeoutError):
        return True
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, (NoAnswer, ConnectionTimeout))


def is_too_slow(error: BaseException) -> bool:
    """Did a statement run into its time limit, on a server that answers?"""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, QueryCanceled)


def is_passing(error: BaseException) -> bool:
    """May the same statement succeed if it is sent again at once?"""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(
        error.orig, (DeadlockDetected, LockNotAvailable, SerializationFailure)
    )
