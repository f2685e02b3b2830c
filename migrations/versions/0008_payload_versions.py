"""Hashes of bodies say in which form they were made: those from before are of the first."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("UPDATE end_keys SET payload_hash = '1:' || payload_hash WHERE payload_hash NOT LIKE '%:%';")
