"""Ledger entries say when their run was accepted, by which request, and on whose behalf."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE end_inbox ADD COLUMN actor text;
        ALTER TABLE token_transactions ADD COLUMN request_id text, ADD COLUMN accepted_at timestamptz;
    """)
