"""The first schema: catalog, wallets, end inbox, ledger."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE system_state (
            id smallint PRIMARY KEY CONSTRAINT system_state_single_row CHECK (id = 1),
            catalog_version bigint NOT NULL DEFAULT 1,
            cache_epoch bigint NOT NULL DEFAULT 1
        );
        INSERT INTO system_state (id) VALUES (1);

        CREATE TABLE feature_endpoints (
            id text PRIMARY KEY,
            name text NOT NULL,
            min_micros bigint NOT NULL CONSTRAINT feature_endpoints_min_not_negative CHECK (min_micros >= 0),
            created_at timestamptz NOT NULL DEFAULT now()
        );

        CREATE TABLE packages (
            id text PRIMARY KEY,
            name text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        );

        CREATE TABLE package_features (
            package_id text NOT NULL REFERENCES packages,
            feature_endpoint_id text NOT NULL REFERENCES feature_endpoints,
            PRIMARY KEY (package_id, feature_endpoint_id)
        );

        CREATE TABLE profit_rules (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            basis_points integer NOT NULL
                CONSTRAINT profit_rules_basis_points_in_range CHECK (basis_points BETWEEN 0 AND 1000000),
            feature_endpoint_id text REFERENCES feature_endpoints,
            model text,
            effective_from timestamptz NOT NULL DEFAULT now(),
            created_at timestamptz NOT NULL DEFAULT now()
        );

        CREATE TABLE wallets (
            user_id text PRIMARY KEY,
            package_id text REFERENCES packages,
            status text NOT NULL DEFAULT 'active'
                CONSTRAINT wallets_status_known CHECK (status IN ('active', 'suspended', 'closed')),
            posted_micros bigint NOT NULL DEFAULT 0
                CONSTRAINT wallets_posted_in_range CHECK (posted_micros <= 4000000000000000),
            overdraft_limit_micros bigint NOT NULL DEFAULT 0
                CONSTRAINT wallets_overdraft_limit_not_negative CHECK (overdraft_limit_micros >= 0),
            version bigint NOT NULL DEFAULT 1,
            created_at timestamptz NOT NULL DEFAULT now()
        -- Room on each page for the next versions of its rows, so that settling stays off the indexes.
        ) WITH (fillfactor = 70);

        CREATE TABLE end_keys (
            end_id uuid PRIMARY KEY,
            user_id text NOT NULL,
            idempotency_key text,
            process_id text,
            payload_hash text NOT NULL,
            cost_micros bigint NOT NULL,
            spendable_micros bigint NOT NULL,
            deduction text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE UNIQUE INDEX end_keys_idempotency_key ON end_keys (idempotency_key);
        CREATE UNIQUE INDEX end_keys_process_id ON end_keys (process_id);

        CREATE TABLE end_inbox (
            id uuid PRIMARY KEY,
            user_id text NOT NULL,
            feature_endpoint_id text NOT NULL,
            model text,
            input_tokens bigint NOT NULL,
            output_tokens bigint NOT NULL,
            process_id text,
            idempotency_key text,
            request_id text,
            profit_rule_id bigint,
            cost_micros bigint NOT NULL CONSTRAINT end_inbox_cost_not_negative CHECK (cost_micros >= 0),
            state text NOT NULL
                CONSTRAINT end_inbox_state_known CHECK (state IN ('accepted', 'retrying', 'dead')),
            attempts integer NOT NULL DEFAULT 0,
            next_attempt_at timestamptz,
            last_error text,
            accepted_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX end_inbox_user_id ON end_inbox (user_id, id);
        CREATE INDEX end_inbox_accepted ON end_inbox (id) WHERE state = 'accepted';
        CREATE INDEX end_inbox_due ON end_inbox (next_attempt_at) WHERE state = 'retrying';

        CREATE TABLE token_transactions (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            user_id text NOT NULL REFERENCES wallets,
            kind text NOT NULL CONSTRAINT token_transactions_kind_known
                CHECK (kind IN ('usage', 'top_up', 'refund', 'adjustment', 'write_off')),
            amount_micros bigint NOT NULL,
            balance_after_micros bigint NOT NULL,
            base_cost_micros bigint,
            profit_micros bigint,
            cost_micros bigint,
            input_tokens bigint,
            output_tokens bigint,
            model text,
            feature_endpoint_id text,
            profit_rule_id bigint,
            end_id uuid,
            process_id text,
            reference text,
            reason text,
            actor text,
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT token_transactions_usage_adds_up CHECK (
                kind <> 'usage' OR (amount_micros = -cost_micros AND cost_micros = base_cost_micros + profit_micros)
            )
        );
        CREATE INDEX token_transactions_user_id ON token_transactions (user_id, id);
        CREATE UNIQUE INDEX token_transactions_usage_once ON token_transactions (end_id) WHERE kind = 'usage';
        CREATE UNIQUE INDEX token_transactions_reference_once ON token_transactions (user_id, reference)
            WHERE kind IN ('top_up', 'refund', 'adjustment');

        CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'token_transactions is append-only: % refused', TG_OP;
        END
        $$;
        CREATE TRIGGER token_transactions_append_only
            BEFORE UPDATE OR DELETE OR TRUNCATE ON token_transactions
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();

        CREATE TABLE stale_wallets (
            user_id text PRIMARY KEY,
            version bigint NOT NULL,
            changed_at timestamptz NOT NULL DEFAULT now()
        );
    """)
