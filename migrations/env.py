"""Runs migrations on DATABASE_URL. Two releases at once wait for each other."""

from __future__ import annotations

import sys

import sqlalchemy as sa
from alembic import context

from app.bootstrap import wait_for_postgres
from app.config import Config, ConfigError
from app.stores.postgres.engine import allow_seconds, create_engine
from app.stores.postgres.tables import metadata

# Any constant of our own: it only has to differ from other programs' advisory locks on this database.
MIGRATION_LOCK = 7_236_501_118

try:
    config = Config.from_environment()
    engine = create_engine(config)
    wait_for_postgres(engine)
except ConfigError as error:
    sys.exit(f"tokentill: {error}")
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
    with context.begin_transaction():
        # A migration may rewrite a table; only requests are held to the short limit.
        allow_seconds(connection, None)
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        context.run_migrations()
engine.dispose()
