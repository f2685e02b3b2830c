"""The console: who is signed in, which forms were sent there, and usage of whole days, of which its charts are made."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE console_sessions (
            token_hash bytea PRIMARY KEY,
            key_id text,
            key_fingerprint text NOT NULL,
            person text,
            address text,
            created_at timestamptz NOT NULL DEFAULT now(),
            seen_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz NOT NULL
        );
        CREATE TABLE console_forms (
            session_hash bytea NOT NULL REFERENCES console_sessions (token_hash) ON DELETE CASCADE,
            id uuid NOT NULL,
            location text,
            message text,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (session_hash, id)
        );
        CREATE TABLE usage_summaries (
            day date NOT NULL,
            feature_endpoint_id text NOT NULL,
            model text NOT NULL,
            price_id bigint NOT NULL,
            runs bigint NOT NULL,
            input_tokens bigint NOT NULL,
            output_tokens bigint NOT NULL,
            cached_input_tokens bigint NOT NULL,
            cache_write_tokens bigint NOT NULL,
            reasoning_tokens bigint NOT NULL,
            requests bigint NOT NULL,
            base_cost_micros numeric NOT NULL,
            profit_micros numeric NOT NULL,
            cost_micros numeric NOT NULL,
            reversed_micros numeric NOT NULL,
            amended_micros numeric NOT NULL,
            written_off_micros numeric NOT NULL,
            PRIMARY KEY (day, feature_endpoint_id, model, price_id)
        );
        CREATE TABLE usage_summary_state (
            id smallint PRIMARY KEY,
            made_before date NOT NULL,
            CONSTRAINT usage_summary_state_single_row CHECK (id = 1)
        );
    """)
