"""What operators need: reconciliations, a list of failed ends that stays fast, and one write-off per end."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE reconciliations (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            state text NOT NULL
                CONSTRAINT reconciliations_state_known CHECK (state IN ('running', 'done', 'failed')),
            started_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz,
            checked bigint NOT NULL DEFAULT 0,
            cache_checked boolean NOT NULL DEFAULT false,
            drifted_count bigint NOT NULL DEFAULT 0,
            repaired bigint NOT NULL DEFAULT 0,
            drifted jsonb NOT NULL DEFAULT '[]'
        );

        CREATE INDEX end_inbox_failed ON end_inbox (id) WHERE state <> 'accepted';
        CREATE UNIQUE INDEX token_transactions_write_off_once ON token_transactions (end_id)
            WHERE kind = 'write_off';
    """)
