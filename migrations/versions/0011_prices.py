"""Rate cards, and of each run its usage by kind and the price it was billed by."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE prices (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            feature_endpoint_id text REFERENCES feature_endpoints,
            model text,
            effective_from timestamptz NOT NULL,
            input_micros_per_million bigint NOT NULL,
            output_micros_per_million bigint NOT NULL,
            cached_input_micros_per_million bigint,
            cache_write_micros_per_million bigint,
            reasoning_micros_per_million bigint,
            request_micros bigint,
            tiers jsonb NOT NULL DEFAULT '[]',
            created_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE UNIQUE INDEX prices_scope_once
            ON prices (coalesce(feature_endpoint_id, ''), coalesce(model, ''), effective_from);

        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP;
        END
        $$;
        CREATE TRIGGER prices_append_only
            BEFORE UPDATE OR DELETE OR TRUNCATE ON prices
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

        ALTER TABLE feature_endpoints ADD COLUMN unpriced text NOT NULL DEFAULT 'default'
            CONSTRAINT feature_endpoints_unpriced_known CHECK (unpriced IN ('default', 'refuse'));

        ALTER TABLE end_inbox
            ADD COLUMN price_id bigint,
            ADD COLUMN cached_input_tokens bigint NOT NULL DEFAULT 0,
            ADD COLUMN cache_write_tokens bigint NOT NULL DEFAULT 0,
            ADD COLUMN reasoning_tokens bigint NOT NULL DEFAULT 0,
            ADD COLUMN requests bigint NOT NULL DEFAULT 1;
        ALTER TABLE token_transactions
            ADD COLUMN price_id bigint,
            ADD COLUMN cached_input_tokens bigint,
            ADD COLUMN cache_write_tokens bigint,
            ADD COLUMN reasoning_tokens bigint,
            ADD COLUMN requests bigint;
    """)
