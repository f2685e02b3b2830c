"""Top-ups of many wallets, once and by schedule; when a wallet last changed.

The new column is filled from the ledger: each wallet's last entry, found by an index. Its rows are locked meanwhile (a
second for 50,000 wallets); ends are taken all the while.
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE top_up_schedules (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            reference text NOT NULL,
            state text NOT NULL DEFAULT 'active',
            package_id text REFERENCES packages,
            user_id text,
            wallet_status text,
            mode text NOT NULL,
            amount_micros bigint NOT NULL,
            period text NOT NULL,
            day smallint,
            starts_on date NOT NULL,
            ends_on date,
            catch_up text NOT NULL,
            -- When it falls due next; null once it never does again.
            next_on date,
            reason text NOT NULL,
            actor text,
            request_id text,
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT top_up_schedules_state_known CHECK (state IN ('active', 'paused', 'ended')),
            CONSTRAINT top_up_schedules_one_target CHECK ((package_id IS NULL) <> (user_id IS NULL)),
            CONSTRAINT top_up_schedules_mode_known CHECK (mode IN ('add', 'fill')),
            CONSTRAINT top_up_schedules_amount_positive CHECK (amount_micros > 0),
            CONSTRAINT top_up_schedules_period_known CHECK (period IN ('daily', 'weekly', 'monthly')),
            CONSTRAINT top_up_schedules_catch_up_known CHECK (catch_up IN ('each', 'latest'))
        );
        CREATE UNIQUE INDEX top_up_schedules_reference_once ON top_up_schedules (reference);
        CREATE INDEX top_up_schedules_due ON top_up_schedules (next_on) WHERE state = 'active';

        CREATE TABLE top_up_batches (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            reference text NOT NULL,
            state text NOT NULL DEFAULT 'ready',
            schedule_id bigint REFERENCES top_up_schedules,
            due_on date,
            package_id text REFERENCES packages,
            user_id text,
            wallet_status text,
            mode text NOT NULL,
            amount_micros bigint NOT NULL,
            reason text NOT NULL,
            actor text,
            request_id text,
            created_at timestamptz NOT NULL DEFAULT now(),
            applied_by text,
            applied_at timestamptz,
            finished_at timestamptz,
            -- As frozen.
            planned_wallets bigint NOT NULL DEFAULT 0,
            planned_micros numeric NOT NULL DEFAULT 0,
            -- Once it is done; until then its wallets tell.
            topped_up bigint,
            skipped bigint,
            refused bigint,
            posted_micros numeric,
            CONSTRAINT top_up_batches_state_known CHECK (state IN ('ready', 'applying', 'done')),
            CONSTRAINT top_up_batches_one_target CHECK ((package_id IS NULL) <> (user_id IS NULL)),
            CONSTRAINT top_up_batches_mode_known CHECK (mode IN ('add', 'fill')),
            CONSTRAINT top_up_batches_amount_positive CHECK (amount_micros > 0),
            CONSTRAINT top_up_batches_of_a_period CHECK ((schedule_id IS NULL) = (due_on IS NULL))
        );
        CREATE UNIQUE INDEX top_up_batches_reference_once ON top_up_batches (reference) WHERE schedule_id IS NULL;
        CREATE UNIQUE INDEX top_up_batches_period_once ON top_up_batches (schedule_id, due_on)
            WHERE schedule_id IS NOT NULL;
        CREATE INDEX top_up_batches_applying ON top_up_batches (id) WHERE state = 'applying';

        CREATE TABLE top_up_batch_wallets (
            batch_id bigint NOT NULL REFERENCES top_up_batches,
            wallet_id text NOT NULL,
            user_id text NOT NULL,
            planned_micros bigint NOT NULL,
            outcome text,
            posted_micros bigint NOT NULL DEFAULT 0,
            transaction_id bigint,
            PRIMARY KEY (batch_id, wallet_id)
        );
        CREATE INDEX top_up_batch_wallets_open ON top_up_batch_wallets (batch_id, wallet_id) WHERE outcome IS NULL;
    """)
    op.execute("""
        ALTER TABLE wallets ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
        UPDATE wallets AS w SET changed_at = coalesce((
            SELECT created_at FROM token_transactions AS t WHERE t.wallet_id = w.wallet_id ORDER BY id DESC LIMIT 1
        ), w.created_at);
    """)
