"""Runs migrations on DATABASE_URL, each in a transaction of its own. Two releases at once wait for each other.

A table that is in use may be changed, so nothing here waits for long with others behind it: a migration that doesn't
get its lock in a few seconds is rolled back and tried again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import psycopg
import sqlalchemy as sa
from alembic import context

from app.config import Config, ConfigError
from app.startup import wait_for_database
from app.stores.postgres.engine import LimitedConnection, create_migration_engine
from app.stores.postgres.tables import metadata

# Any constant of our own: it only has to differ from other programs' advisory locks on this database.
MIGRATION_LOCK = 7_236_501_118
PAUSE_SECONDS = 0.5
# So long a table that others keep is tried again.
TRIES_SECONDS = 600.0


@contextmanager
def alone(engine: sa.Engine) -> Iterator[None]:
    """Be the only one who migrates this database, once whoever does so now has finished.

    Asked for again and again, and by a simple query: a session that waits inside of Postgres has a snapshot, as has one
    whose last statement was prepared, and an index that is built would wait for either.
    """
    ask = f"SELECT pg_try_advisory_xact_lock({MIGRATION_LOCK})"
    with engine.connect() as connection:
        while True:
            connection.begin()
            driver = cast("LimitedConnection", connection.connection.driver_connection)
            if driver.execute(ask, prepare=False).fetchone() == (True,):
                break
            connection.rollback()
            time.sleep(PAUSE_SECONDS)
        yield


def upgrade(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    give_up_at = time.monotonic() + TRIES_SECONDS
    while True:
        try:
            with context.begin_transaction():
                context.run_migrations()
        except sa.exc.OperationalError as error:
            connection.rollback()
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable) or time.monotonic() > give_up_at:
                raise
            sys.stderr.write("tokentill: somebody uses a table that a migration changes; trying again\n")
            time.sleep(PAUSE_SECONDS)
        else:
            return


try:
    config = Config.from_environment()
    wait_for_database(config)
except ConfigError as error:
    sys.exit(f"tokentill: {error}")
engine = create_migration_engine(config)
try:
    with alone(engine), engine.connect() as connection:
        upgrade(connection)
finally:
    engine.dispose()
