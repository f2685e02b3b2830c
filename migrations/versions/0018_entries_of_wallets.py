"""Wallets of new ledger entries are looked up one by one: as a join all wallets were read for a few entries."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION refuse_entries_without_wallet() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT FROM (SELECT DISTINCT wallet_id FROM entries) AS theirs
                -- A subquery that is a value can't become a join.
                WHERE (SELECT w.wallet_id FROM wallets AS w WHERE w.wallet_id = theirs.wallet_id) IS NULL
            ) THEN
                RAISE foreign_key_violation USING MESSAGE = 'an entry of token_transactions is of no wallet';
            END IF;
            RETURN NULL;
        END
        $$;
    """)
