"""Failed tries of ends, and bulk actions on failed ends."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata

# Failed tries, each written in the transaction that counts it. An end has a fixed number of slots: a new try replaces
# the oldest. Rows outlive their end, which may be settled by now.
end_attempts = sa.Table(
    "end_attempts",
    metadata,
    sa.Column("end_id", pg.UUID, primary_key=True),
    sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False),
    # Counts from 1 over all replays.
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("attempted_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
)

# A replay or a write-off of many failed ends; the selected ends are frozen in `bulk_action_ends`.
bulk_actions = sa.Table(
    "bulk_actions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="draft"),
    # What was asked for, in the words of the API: a filter, or ids.
    sa.Column("selection", pg.JSONB, nullable=False),
    sa.Column("ends", sa.BigInteger, nullable=False),
    sa.Column("cost_micros", sa.Numeric, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text),
    created_at(),
    sa.Column("confirmed_by", sa.Text),
    sa.Column("confirmed_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
    sa.CheckConstraint("action IN ('replay', 'write_off')", name="bulk_actions_action_known"),
    sa.CheckConstraint(
        "state IN ('draft', 'running', 'cancelling', 'done', 'cancelled')", name="bulk_actions_state_known"
    ),
    sa.Index("bulk_actions_reference_once", "reference", unique=True),
    sa.Index("bulk_actions_at_work", "id", postgresql_where=sa.text("state IN ('running', 'cancelling')")),
)

# Each end as it was when it was selected; `outcome` is null until its outcome is known.
bulk_action_ends = sa.Table(
    "bulk_action_ends",
    metadata,
    sa.Column("action_id", sa.BigInteger, sa.ForeignKey("bulk_actions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("end_id", pg.UUID, primary_key=True),
    sa.Column("wallet_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("cost_micros", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("last_error", sa.Text),
    # When it was sent to be retried. The outcome is recorded later.
    sa.Column("replayed_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("outcome", sa.Text),
    # For an end that failed again, the reason; for a refusal, its error code.
    sa.Column("detail", sa.Text),
    sa.Column("done_at", sa.TIMESTAMP(timezone=True)),
    sa.Index("bulk_action_ends_open", "action_id", "wallet_id", "end_id", postgresql_where=sa.text("outcome IS NULL")),
    sa.Index("bulk_action_ends_end_id", "end_id"),
)
