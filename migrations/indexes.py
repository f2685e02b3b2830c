"""Building and dropping indexes of tables that are in use, so that nobody who writes to them waits.

    from migrations.indexes import create_index, drop_index

    def upgrade() -> None:
        create_index("token_transactions_model", on="token_transactions (model, id)", where="model IS NOT NULL")

A plain `CREATE INDEX` locks a table against writing for as long as it takes: minutes in which no end is settled. These
two commit what the migration has done before, and work outside of a transaction. So they come last in a migration, or
have one of their own; one that breaks off is run again from its start, and has to bear that.

A build waits for the transactions that were open when it began, an export among them, and holds up nobody meanwhile;
after an hour (`INDEX_LOCK_SECONDS`) it gives up. What breaks off leaves an invalid index, which is of no use and costs
with every write; the next try drops it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy as sa
from alembic import op

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")

# One that neither sees older rows nor has written any is waited for by nobody.
_OPEN_TRANSACTIONS = sa.text("""
    SELECT string_agg(format('%s (%s, since %s)', pid, application_name, xact_start), ', ' ORDER BY xact_start)
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND coalesce(backend_xmin, backend_xid) IS NOT NULL
""")


class OthersInTheWay(RuntimeError):
    """A build or a drop waited for transactions that don't end; the message names their sessions."""


def create_index(name: str, *, on: str, where: str | None = None, unique: bool = False) -> None:
    """Build an index while its table is written to, unless it is there; `on` is a table with columns in parentheses.

    Raises OthersInTheWay where it waited for too long, and SQLAlchemy's IntegrityError where a unique one finds
    duplicates. Either way the migration can be run again.
    """
    _check(name)
    with _outside_of_transactions() as connection:
        if _is_valid(connection, name) is False:
            _drop(connection, name)
        kind = "UNIQUE INDEX" if unique else "INDEX"
        condition = f" WHERE {where}" if where else ""
        connection.exec_driver_sql(f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {name} ON {on}{condition}")


def drop_index(name: str) -> None:
    """Drop an index while its table is written to, if it is there. Raises OthersInTheWay."""
    _check(name)
    with _outside_of_transactions() as connection:
        _drop(connection, name)


def _check(name: str) -> None:
    # It goes into the statement as it is, and Postgres would look for a longer one under its first 63 letters.
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no plain name of an index")


@contextmanager
def _outside_of_transactions() -> Iterator[sa.Connection]:
    context = op.get_context()
    with context.autocommit_block():
        assert context.connection is not None, "indexes are built in a database, not in a script"  # noqa: S101
        try:
            yield context.connection
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            sessions = context.connection.execute(_OPEN_TRANSACTIONS).scalar_one_or_none()
            raise OthersInTheWay(f"waited in vain for transactions to end; open are those of: {sessions}") from error


def _drop(connection: sa.Connection, name: str) -> None:
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def _is_valid(connection: sa.Connection, name: str) -> bool | None:
    """Whether an index can be used; None where there is none."""
    found = connection.execute(
        sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"), {"name": name}
    )
    return found.scalar_one_or_none()
