"""A place in Postgres for spooled ends that can't be recorded as they are."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE spool_aside (
            field bytea PRIMARY KEY,
            entry bytea NOT NULL,
            reason text NOT NULL,
            attempts integer NOT NULL DEFAULT 1,
            put_aside_at timestamptz NOT NULL DEFAULT now(),
            tried_at timestamptz NOT NULL DEFAULT now()
        );
    """)
