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

# How much later than Postgres itself we end a statement: by then it hangs, or nobody is there any more.
GRACE_SECONDS = 0.5
LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
# Who waits longer for a row is answered that it is busy: the row may be locked for as long as somebody likes.
LOCK_WAIT_SECONDS_MAX = 1.0
# A migration that waits to change a table holds up all who come after it, so it waits no longer and begins anew ...
MIGRATION_LOCK_SECONDS = 3.0
# ... but for building an index, which holds up nobody: longer than an export may take, for which it waits.
INDEX_LOCK_SECONDS = 4_000.0

# A process's connections for requests, tasks and settlement ...
POOL_SIZE = 8
POOL_OVERFLOW = 7
# ... and the one by which its watcher looks, whatever becomes of the others.
WATCH_POOL_SIZE = 1
# ... and those of exports, each of which keeps one for as long as it runs.
EXPORTS_MAX = 2


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


def create_engine(config: Config, *, pool_size: int = POOL_SIZE, max_overflow: int = POOL_OVERFLOW) -> sa.Engine:
    """An engine whose statements, connects and waits for a pooled connection all end within the configured time.

    A pooled connection isn't tried before it is used: who uses it has to be ready for one that was lost meanwhile. One
    that can't write is given up with all that were made before it, so that the next ones find the server that can.
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
    """An engine whose statements take as long as they take: a migration may rewrite a table, or index it."""
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
            # libpq counts it in whole seconds, and takes 1 for 2.
            "connect_timeout": max(2, int(timeout_seconds)),
            "application_name": "tokentill",
            "options": _as_options({**session_limits, "timezone": "UTC"}),
            # A peer that vanished without a word is noticed, not waited for.
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
        # Where a pooler gives each transaction another session, only what a transaction sets itself holds.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            _set_locally(connection, transaction_limits)

    @sa.event.listens_for(engine, "checkin")
    def _forget_longer_limit(connection: LimitedConnection | None, _record: Any) -> None:
        if connection is not None:
            connection.time_limit_seconds = answer_seconds

    @sa.event.listens_for(engine, "handle_error")
    def _give_up_what_cannot_write(context: sa.engine.ExceptionContext) -> None:
        if failure_of(context.original_exception) is Failure.CANNOT_WRITE:
            # As after a lost connection, SQLAlchemy closes this one and, when they are next taken, all older ones.
            context.is_disconnect = True

    return engine


def _limits(timeout_seconds: float) -> dict[str, int]:
    """Postgres's own limits on a session of ours, in its unit."""
    lock_seconds = min(LOCK_WAIT_SECONDS_MAX, timeout_seconds / 2)
    # A process that stands still in the middle of a transaction lets go of the rows it has locked.
    limits_seconds = (timeout_seconds, lock_seconds, 2 * timeout_seconds)
    return dict(zip(LIMITS, map(_milliseconds, limits_seconds), strict=True))


def _milliseconds(seconds: float) -> int:
    """As Postgres and the kernel count."""
    return round(seconds * 1_000)


def _as_options(settings: Mapping[str, object]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _set_locally(connection: sa.Connection, settings: Mapping[str, int]) -> None:
    connection.execute(sa.select(*(sa.func.set_config(name, str(value), True) for name, value in settings.items())))


def allow_seconds(connection: sa.Connection, seconds: float | None) -> None:
    """Let the statements of this transaction take that long, None: as long as they take, and wait as long for locks."""
    _set_locally(connection, dict.fromkeys(LIMITS, 0 if seconds is None else _milliseconds(seconds)))
    driver_connection = cast("LimitedConnection", connection.connection.driver_connection)
    driver_connection.time_limit_seconds = None if seconds is None else seconds + GRACE_SECONDS
