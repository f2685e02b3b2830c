"""A counter that is raised to see whether Postgres takes writes, and tells when it has lost some."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE system_state ADD COLUMN heartbeat bigint NOT NULL DEFAULT 0;")
