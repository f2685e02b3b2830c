"""Opening connections to Postgres, also through a pooler that gives each transaction another session.

PgBouncer in transaction mode keeps no session state: it refuses options at connect, and a statement prepared in one
session is missing in the next. Whether such a pooler is in between is detected, not configured: it reports a backend
pid of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg

from app.config import ConfigError

C = TypeVar("C", bound=psycopg.Connection[Any])


def connect(open_one: Callable[..., C], settings: Mapping[str, Any]) -> C:
    """A new connection. Raises psycopg.Error, or ConfigError for a database that can't be used."""
    connection, lacks_options = _opened(open_one, settings)
    try:
        _check_encoding(connection)
        if lacks_options:
            # The time zone is the only one of these options that PgBouncer tracks for each of its clients.
            with connection.transaction():
                connection.execute("SET timezone = 'UTC'")
        if _is_pooled(connection):
            connection.prepare_threshold = None
    except BaseException:
        # The caller never gets the connection, so nobody else would close it.
        connection.close()
        raise
    return connection


def _opened(open_one: Callable[..., C], settings: Mapping[str, Any]) -> tuple[C, bool]:
    """A connection, and whether it was opened without the options."""
    try:
        return open_one(**settings), False
    except psycopg.OperationalError as error:
        # libpq identifies a refused startup parameter only by the error's text.
        if "options" not in settings or "unsupported startup parameter" not in str(error):
            raise
    return open_one(**{name: value for name, value in settings.items() if name != "options"}), True


def _check_encoding(connection: psycopg.Connection[Any]) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in {"UTF8", None}:
        raise ConfigError(f"DATABASE_URL names a database with the encoding {encoding}; it must be UTF8.")


def _is_pooled(connection: psycopg.Connection[Any]) -> bool:
    with connection.transaction():
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != connection.info.backend_pid
