"""Archives: old months of the ledger leave for files, each wallet's balance there and all postings stay."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE ledger_archives (
            month date PRIMARY KEY,
            last_entry_id bigint NOT NULL,
            entries bigint NOT NULL,
            file_name text NOT NULL,
            sha256 text NOT NULL,
            sealed_at timestamptz NOT NULL DEFAULT now(),
            removed_at timestamptz
        );
        CREATE TABLE archived_balances (
            wallet_id text PRIMARY KEY,
            entry_id bigint NOT NULL,
            balance_micros bigint NOT NULL
        );
        -- What isn't usage stays: a reference that was used once is found for ever. As JSON it needs no other form
        -- when the ledger gets another column.
        CREATE TABLE archived_postings (
            id bigint PRIMARY KEY,
            wallet_id text NOT NULL,
            kind text NOT NULL,
            reference text,
            end_id uuid,
            entry jsonb NOT NULL
        );
        CREATE INDEX archived_postings_reference ON archived_postings (wallet_id, reference);
        CREATE INDEX archived_postings_end_id ON archived_postings (end_id);

        -- Before it lie ends without a key of which the ledger may tell no more: none comes in again.
        ALTER TABLE system_state
            ADD COLUMN archived_end_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';

        DROP TRIGGER token_transactions_append_only ON token_transactions;
        CREATE TRIGGER token_transactions_append_only
            BEFORE UPDATE OR TRUNCATE ON token_transactions
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();
        CREATE FUNCTION refuse_removal_of_unarchived() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT 1 FROM removed WHERE id > coalesce((SELECT max(last_entry_id) FROM ledger_archives), 0)
            ) THEN
                RAISE EXCEPTION 'token_transactions is append-only: % refused', TG_OP;
            END IF;
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER token_transactions_leave_archived
            AFTER DELETE ON token_transactions REFERENCING OLD TABLE AS removed
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal_of_unarchived();
    """)
