"""Each failed try of an end, and replays and write-offs of many ends at once."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE end_inbox ADD COLUMN attempts_total integer NOT NULL DEFAULT 0;
        UPDATE end_inbox SET attempts_total = attempts WHERE attempts > 0;

        CREATE TABLE end_attempts (
            end_id uuid NOT NULL,
            slot smallint NOT NULL,
            -- From 1 on, over all replays.
            number integer NOT NULL,
            attempted_at timestamptz NOT NULL,
            error text NOT NULL,
            PRIMARY KEY (end_id, slot)
        );

        CREATE TABLE bulk_actions (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            action text NOT NULL CONSTRAINT bulk_actions_action_known CHECK (action IN ('replay', 'write_off')),
            state text NOT NULL DEFAULT 'draft'
                CONSTRAINT bulk_actions_state_known
                CHECK (state IN ('draft', 'running', 'cancelling', 'done', 'cancelled')),
            -- What was asked for, in the words of the API: a filter, or ids.
            selection jsonb NOT NULL,
            ends bigint NOT NULL,
            cost_micros numeric NOT NULL,
            reference text NOT NULL,
            reason text NOT NULL,
            actor text NOT NULL,
            request_id text,
            created_at timestamptz NOT NULL DEFAULT now(),
            confirmed_by text,
            confirmed_at timestamptz,
            finished_at timestamptz
        );
        CREATE UNIQUE INDEX bulk_actions_reference_once ON bulk_actions (reference);
        CREATE INDEX bulk_actions_at_work ON bulk_actions (id) WHERE state IN ('running', 'cancelling');

        CREATE TABLE bulk_action_ends (
            action_id bigint NOT NULL REFERENCES bulk_actions ON DELETE CASCADE,
            end_id uuid NOT NULL,
            wallet_id text NOT NULL,
            user_id text NOT NULL,
            cost_micros bigint NOT NULL,
            state text NOT NULL,
            last_error text,
            -- When it was sent to be tried again. What comes of that is seen later.
            replayed_at timestamptz,
            outcome text,
            -- Of a try that has failed again: why. Of a refusal: its code.
            detail text,
            done_at timestamptz,
            PRIMARY KEY (action_id, end_id)
        );
        CREATE INDEX bulk_action_ends_open ON bulk_action_ends (action_id, wallet_id, end_id) WHERE outcome IS NULL;
        CREATE INDEX bulk_action_ends_end_id ON bulk_action_ends (end_id);
    """)
