"""Repricings: which runs they are about, frozen, and how far they are applied."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE repricings (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            state text NOT NULL DEFAULT 'selecting'
                CONSTRAINT repricings_state_known CHECK (state IN ('selecting', 'ready', 'applying', 'done')),
            price_id bigint NOT NULL REFERENCES prices,
            feature_endpoint_id text,
            model text,
            user_id text,
            accepted_from timestamptz,
            accepted_to timestamptz,
            reason text NOT NULL,
            actor text,
            request_id text,
            -- Ends up to this one were looked at.
            selected_up_to uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
            created_at timestamptz NOT NULL DEFAULT now()
        );

        CREATE TABLE repriced_ends (
            repricing_id bigint NOT NULL REFERENCES repricings,
            end_id uuid NOT NULL,
            wallet_id text NOT NULL,
            user_id text NOT NULL,
            model text,
            old_cost_micros bigint NOT NULL,
            new_cost_micros bigint NOT NULL,
            outcome text,
            PRIMARY KEY (repricing_id, end_id)
        );
        CREATE INDEX repriced_ends_open ON repriced_ends (repricing_id, end_id) WHERE outcome IS NULL;
    """)
