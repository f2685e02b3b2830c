"""Fewer writes for each end: one note a transaction of what is cached, keys indexed once, one look for wallets."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE stale_notes (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            wallet_ids text[] NOT NULL,
            wallet_id text,
            version bigint,
            noted_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX stale_notes_change ON stale_notes (wallet_id, version);
        INSERT INTO stale_notes (wallet_ids) SELECT ARRAY[wallet_id] FROM stale_wallets;
        DROP TABLE stale_wallets;

        -- An end is found by its keys only, and most have one of the two.
        ALTER TABLE end_keys DROP CONSTRAINT end_keys_pkey;
        DROP INDEX end_keys_idempotency_key, end_keys_process_id;
        CREATE UNIQUE INDEX end_keys_idempotency_key ON end_keys (idempotency_key) WHERE idempotency_key IS NOT NULL;
        CREATE UNIQUE INDEX end_keys_process_id ON end_keys (process_id) WHERE process_id IS NOT NULL;

        -- What the foreign key promised, asked once for each statement instead of once for each entry.
        ALTER TABLE token_transactions DROP CONSTRAINT token_transactions_wallet_id_fkey;
        CREATE FUNCTION refuse_entries_without_wallet() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT FROM (SELECT DISTINCT wallet_id FROM entries) AS theirs
                WHERE NOT EXISTS (SELECT FROM wallets AS w WHERE w.wallet_id = theirs.wallet_id)
            ) THEN
                RAISE foreign_key_violation USING MESSAGE = 'an entry of token_transactions is of no wallet';
            END IF;
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER token_transactions_of_wallets
            AFTER INSERT ON token_transactions REFERENCING NEW TABLE AS entries
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_entries_without_wallet();

        CREATE FUNCTION refuse_wallet_removal() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (SELECT FROM token_transactions AS t WHERE t.wallet_id = OLD.wallet_id) THEN
                RAISE foreign_key_violation USING MESSAGE = 'a wallet with entries in token_transactions stays';
            END IF;
            RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
        END
        $$;
        CREATE TRIGGER wallets_with_entries_stay
            BEFORE DELETE OR UPDATE OF wallet_id ON wallets
            FOR EACH ROW EXECUTE FUNCTION refuse_wallet_removal();
    """)
