"""Debts as a sum on the wallet, collected by wallet: nothing that a wallet costs grows with how many debts it has."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE wallets
            ADD COLUMN debt_micros bigint NOT NULL DEFAULT 0
                CONSTRAINT wallets_debt_in_range CHECK (debt_micros BETWEEN 0 AND 9007199254740992),
            ADD COLUMN collect_at timestamptz;
        ALTER TABLE end_inbox ADD COLUMN is_debt boolean NOT NULL DEFAULT false;

        -- A wallet whose debts add up to more than the bound keeps them outside the sum, where they count as well.
        WITH owed AS (
            SELECT i.user_id, sum(i.cost_micros) AS micros,
                min(i.next_attempt_at) FILTER (WHERE i.state = 'retrying') AS next_attempt_at
            FROM end_inbox AS i WHERE i.state <> 'accepted' GROUP BY i.user_id
            HAVING sum(i.cost_micros) <= 9007199254740992
        ), told AS (
            UPDATE wallets AS w SET debt_micros = owed.micros, collect_at = owed.next_attempt_at
            FROM owed WHERE w.user_id = owed.user_id
            RETURNING w.user_id
        )
        UPDATE end_inbox AS i SET is_debt = true FROM told WHERE i.user_id = told.user_id AND i.state <> 'accepted';
        -- What is cached of wallets is of the old form.
        UPDATE system_state SET cache_epoch = cache_epoch + 1;

        ALTER TABLE end_inbox DROP COLUMN next_attempt_at;
        DROP INDEX end_inbox_user_id, end_inbox_accepted;
        CREATE INDEX wallets_collect_at ON wallets (collect_at) WHERE collect_at IS NOT NULL;
        CREATE INDEX end_inbox_untold ON end_inbox (user_id, id) WHERE NOT is_debt;
        CREATE INDEX end_inbox_to_settle ON end_inbox (id)
            WHERE state = 'accepted' OR (state = 'retrying' AND NOT is_debt);
        CREATE INDEX end_inbox_failed_of_wallet ON end_inbox (user_id, id) WHERE state <> 'accepted';
        CREATE INDEX end_inbox_retrying_of_wallet ON end_inbox (user_id, id) WHERE state = 'retrying';
    """)
