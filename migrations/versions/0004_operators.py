"""Ledger entries say when their run was accepted, by which request and on whose behalf; checkpoints of the ledger."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE end_inbox ADD COLUMN actor text;
        ALTER TABLE token_transactions ADD COLUMN request_id text, ADD COLUMN accepted_at timestamptz;

        CREATE TABLE ledger_checkpoints (
            user_id text PRIMARY KEY,
            entry_id bigint NOT NULL,
            balance_micros bigint NOT NULL
        );

        ALTER TABLE reconciliations
            ALTER COLUMN started_at DROP NOT NULL,
            ALTER COLUMN started_at DROP DEFAULT,
            ADD COLUMN is_full boolean NOT NULL DEFAULT false,
            ADD COLUMN requested_at timestamptz NOT NULL DEFAULT now(),
            ADD COLUMN alive_at timestamptz,
            DROP CONSTRAINT reconciliations_state_known,
            ADD CONSTRAINT reconciliations_state_known CHECK (state IN ('requested', 'running', 'done', 'failed'));

        CREATE INDEX end_inbox_dead ON end_inbox (id) WHERE state = 'dead';
    """)
