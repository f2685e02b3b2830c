"""Price lists as imported: a difference first, prices once somebody has approved it."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE price_imports (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            state text NOT NULL DEFAULT 'draft'
                CONSTRAINT price_imports_state_known CHECK (state IN ('draft', 'approved')),
            format text NOT NULL,
            micros_per_dollar bigint NOT NULL,
            feature_endpoint_id text REFERENCES feature_endpoints,
            effective_from timestamptz,
            counts jsonb NOT NULL,
            proposed jsonb NOT NULL,
            report jsonb NOT NULL,
            actor text,
            created_at timestamptz NOT NULL DEFAULT now(),
            approved_by text,
            approved_at timestamptz,
            price_ids jsonb
        );
    """)
