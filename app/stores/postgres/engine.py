"""Connections to Postgres, with a limit on every wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import psycopg
import sqlalchemy as sa

from app.config import Config
from app.stores.failures import Failure
from app.stores.postgres.connect import connect
from app.stores.postgres.failures import NoAnswer, failure_of

# Our own limit on a statement ends this much after Postgres's: by then the server hangs or can't be reached.
GRACE_SECONDS = 0.5
LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
# A statement that waits longer than this for a row fails as busy: somebody may keep the row locked for any time.
LOCK_WAIT_SECONDS_MAX = 1.0
# A migration that waits for a table's lock blocks everybody who comes after it. It waits this long, then retries ...
MIGRATION_LOCK_SECONDS = 3.0
# ... except for building an index, which blocks nobody: it waits for running exports, longer than one may take.
INDEX_LOCK_SECONDS = 4_000.0

# Connections of a process for requests, tasks and settlement ...
POOL_SIZE = 8
POOL_OVERFLOW = 7
# ... the watcher's own connection, so that it can look when all others are in use ...
WATCH_POOL_SIZE = 1
# ... and those of exports, each of which keeps one connection for as long as it runs.
EXPORTS_MAX = 2


class LimitedConnection(psycopg.Connection[Any]):
    """A connection with a time limit of our own on every wait.

    Neither Postgres's limits nor TCP's work when a server is stopped, a disk or machine is frozen, or the network is
    lost.
    """

    time_limit_seconds: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.time_limit_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            # An answer that came later would be taken for that of the next statement, so the connection is closed.
            self.close()
            raise NoAnswer("no answer in time") from error


def create_engine(config: Config, *, pool_size: int = POOL_SIZE, max_overflow: int = POOL_OVERFLOW) -> sa.Engine:
    """An engine whose statements, connects and waits for a pooled connection all end within the configured time.

    A pooled connection isn't tested before use: the caller has to handle one that was lost meanwhile. When a connection
    turns out to be unable to write, all older ones are discarded with it, so that new ones find the server that can.
    """
    limits = _limits(config.database_timeout_seconds)
    return _create_engine(
        config,
        session_limits=limits,
        transaction_limits=limits,
        answer_seconds=config.database_timeout_seconds + GRACE_SECONDS,
        pool_size=pool_size,
        max_overflow=max_overflow,
    )


def create_migration_engine(config: Config) -> sa.Engine:
    """An engine without a limit on statements: a migration may rewrite or index a whole table."""
    unlimited = dict.fromkeys(LIMITS, 0)
    return _create_engine(
        config,
        session_limits={**unlimited, "lock_timeout": _milliseconds(INDEX_LOCK_SECONDS)},
        transaction_limits={**unlimited, "lock_timeout": _milliseconds(MIGRATION_LOCK_SECONDS)},
        answer_seconds=None,
        pool_size=2,
        max_overflow=0,
    )


def _create_engine(
    config: Config,
    *,
    session_limits: Mapping[str, int],
    transaction_limits: Mapping[str, int],
    answer_seconds: float | None,
    pool_size: int,
    max_overflow: int,
) -> sa.Engine:
    timeout_seconds = config.database_timeout_seconds
    engine = sa.create_engine(
        config.database_url,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=max(1.0, timeout_seconds),
        connect_args={
            # libpq counts in whole seconds and turns 1 into 2.
            "connect_timeout": max(2, int(timeout_seconds)),
            "application_name": "tokentill",
            "options": _as_options({**session_limits, "timezone": "UTC"}),
            # Notice a peer that vanished without closing the connection, instead of waiting for it.
            "tcp_user_timeout": _milliseconds(timeout_seconds),
            "keepalives": 1,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        },
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: list[Any], settings: dict[str, Any]) -> Any:
        def open_one(**settings: Any) -> LimitedConnection:
            connection = LimitedConnection.connect(*arguments, **settings)
            connection.time_limit_seconds = answer_seconds
            return connection

        return connect(open_one, settings)

    @sa.event.listens_for(engine, "begin")
    def _limit_transaction(connection: sa.Connection) -> None:
        # Behind a pooler that gives each transaction another session, only settings local to the transaction apply.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            _set_locally(connection, transaction_limits)

    @sa.event.listens_for(engine, "checkin")
    def _forget_longer_limit(connection: LimitedConnection | None, _record: Any) -> None:
        if connection is not None:
            connection.time_limit_seconds = answer_seconds

    @sa.event.listens_for(engine, "handle_error")
    def _give_up_what_cannot_write(context: sa.engine.ExceptionContext) -> None:
        if failure_of(context.original_exception) is Failure.CANNOT_WRITE:
            # SQLAlchemy then closes this connection at once, and all older pooled ones when they are next taken.
            context.is_disconnect = True

    return engine


def _limits(timeout_seconds: float) -> dict[str, int]:
    """Postgres's own limits for our sessions, in milliseconds."""
    lock_seconds = min(LOCK_WAIT_SECONDS_MAX, timeout_seconds / 2)
    # The last limit makes Postgres end the transaction of a process that has stopped in the middle of it, and release
    # its locks.
    limits_seconds = (timeout_seconds, lock_seconds, 2 * timeout_seconds)
    return dict(zip(LIMITS, map(_milliseconds, limits_seconds), strict=True))


def _milliseconds(seconds: float) -> int:
    """Postgres and the kernel count in milliseconds."""
    return round(seconds * 1_000)


def _as_options(settings: Mapping[str, object]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _set_locally(connection: sa.Connection, settings: Mapping[str, int]) -> None:
    connection.execute(sa.select(*(sa.func.set_config(name, str(value), True) for name, value in settings.items())))


def allow_seconds(connection: sa.Connection, seconds: float | None) -> None:
    """Let each statement of this transaction take, and wait for locks, this long; None: without a limit."""
    _set_locally(connection, dict.fromkeys(LIMITS, 0 if seconds is None else _milliseconds(seconds)))
    driver_connection = cast("LimitedConnection", connection.connection.driver_connection)
    driver_connection.time_limit_seconds = None if seconds is None else seconds + GRACE_SECONDS
