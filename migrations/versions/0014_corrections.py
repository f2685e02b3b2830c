"""Corrections of ends, and chargebacks: what they are, what of them isn't paid yet, and their entries in the ledger."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE feature_endpoints ADD COLUMN reversal_seconds integer NOT NULL DEFAULT 0
            CONSTRAINT feature_endpoints_reversal_seconds_in_range CHECK (reversal_seconds BETWEEN 0 AND 31536000);

        ALTER TABLE end_inbox
            ADD COLUMN kind text NOT NULL DEFAULT 'usage'
                CONSTRAINT end_inbox_kind_known CHECK (kind IN ('usage', 'amendment', 'chargeback')),
            ADD COLUMN corrects uuid,
            ADD COLUMN reference text,
            ADD COLUMN reason text,
            ALTER COLUMN feature_endpoint_id DROP NOT NULL;
        CREATE INDEX end_inbox_corrects ON end_inbox (corrects) WHERE corrects IS NOT NULL;

        ALTER TABLE token_transactions
            ADD COLUMN corrects uuid,
            DROP CONSTRAINT token_transactions_kind_known,
            ADD CONSTRAINT token_transactions_kind_known CHECK (kind IN (
                'usage', 'top_up', 'refund', 'adjustment', 'write_off', 'reversal', 'amendment', 'chargeback'
            )),
            DROP CONSTRAINT token_transactions_usage_adds_up,
            ADD CONSTRAINT token_transactions_usage_adds_up CHECK (
                kind NOT IN ('usage', 'reversal', 'amendment')
                OR (amount_micros = -cost_micros AND cost_micros = base_cost_micros + profit_micros)
            ),
            ADD CONSTRAINT token_transactions_correction_of_an_end CHECK (
                kind NOT IN ('reversal', 'amendment') OR corrects IS NOT NULL
            );
        CREATE INDEX token_transactions_corrects ON token_transactions (corrects) WHERE corrects IS NOT NULL;
        CREATE UNIQUE INDEX token_transactions_charge_once ON token_transactions (end_id)
            WHERE kind IN ('amendment', 'chargeback');

        CREATE TABLE corrections (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            kind text NOT NULL
                CONSTRAINT corrections_kind_known CHECK (kind IN ('reversal', 'amendment', 'chargeback')),
            wallet_id text NOT NULL REFERENCES wallets,
            user_id text NOT NULL,
            end_id uuid CONSTRAINT corrections_of_an_end CHECK ((end_id IS NULL) = (kind = 'chargeback')),
            reference text NOT NULL,
            reason text,
            input_tokens bigint,
            output_tokens bigint,
            cached_input_tokens bigint,
            cache_write_tokens bigint,
            reasoning_tokens bigint,
            requests bigint,
            price_id bigint,
            profit_rule_id bigint,
            cost_before_micros bigint,
            cost_after_micros bigint,
            amount_micros bigint NOT NULL,
            posted_change_micros bigint NOT NULL,
            debt_change_micros bigint NOT NULL,
            charge_id uuid,
            transaction_ids bigint[] NOT NULL,
            actor text,
            request_id text,
            created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            CONSTRAINT corrections_add_up CHECK (amount_micros = posted_change_micros - debt_change_micros)
        );
        CREATE UNIQUE INDEX corrections_reference_once ON corrections (end_id, reference) WHERE end_id IS NOT NULL;
        CREATE UNIQUE INDEX corrections_chargeback_once ON corrections (wallet_id, reference) WHERE kind = 'chargeback';
        CREATE UNIQUE INDEX corrections_charge_id ON corrections (charge_id) WHERE charge_id IS NOT NULL;
        CREATE INDEX corrections_of_wallet ON corrections (wallet_id, id);
    """)
