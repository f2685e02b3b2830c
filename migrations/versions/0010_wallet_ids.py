"""Wallets have ids of their own: `wallet_id` says who pays, `user_id` says who ran it. Both are the same until now."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # The column that keys and indexes stand on goes by its new name, and the new column has the old one's: nothing is
    # built twice. A type's change fills it while it writes the table anew, past the trigger that keeps the ledger.
    for table in ("wallets", "end_inbox", "token_transactions"):
        op.execute(f"""
            ALTER TABLE {table} RENAME COLUMN user_id TO wallet_id;
            ALTER TABLE {table} ADD COLUMN user_id text;
            ALTER TABLE {table}
                ALTER COLUMN user_id TYPE text USING wallet_id,
                ALTER COLUMN user_id SET NOT NULL;
        """)
    op.execute("""
        CREATE UNIQUE INDEX wallets_user_id ON wallets (user_id);
        ALTER INDEX token_transactions_user_id RENAME TO token_transactions_wallet_id;
        ALTER TABLE token_transactions
            RENAME CONSTRAINT token_transactions_user_id_fkey TO token_transactions_wallet_id_fkey;
        ALTER TABLE stale_wallets RENAME COLUMN user_id TO wallet_id;
        ALTER TABLE ledger_checkpoints RENAME COLUMN user_id TO wallet_id;
        UPDATE reconciliations SET drifted = (
            SELECT jsonb_agg(drift - 'user_id' || jsonb_build_object('wallet_id', drift -> 'user_id') ORDER BY place)
            FROM jsonb_array_elements(drifted) WITH ORDINALITY AS drifts (drift, place)
        ) WHERE drifted <> '[]';
    """)
