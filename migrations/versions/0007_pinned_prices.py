"""Prices pinned whole at acceptance: what waits is billed as promised, whatever a later version makes of prices."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE end_inbox ADD COLUMN base_cost_micros bigint, ADD COLUMN profit_micros bigint;
        UPDATE end_inbox AS i SET
            base_cost_micros = i.output_tokens * 250000,
            profit_micros = i.output_tokens * 25 * coalesce(
                (SELECT r.basis_points FROM profit_rules AS r WHERE r.id = i.profit_rule_id), 0
            );
        ALTER TABLE end_inbox ALTER COLUMN base_cost_micros SET NOT NULL, ALTER COLUMN profit_micros SET NOT NULL;
    """)
