"""What was tried with ends whose deduction has failed, and what operators do about many of them at once."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata

# Each try that has failed, written in the transaction that counts it. An end has so many slots and no more: a new try
# takes the place of the oldest. It outlives its end, which may be settled by now.
end_attempts = sa.Table(
    "end_attempts",
    metadata,
    sa.Column("end_id", pg.UUID, primary_key=True),
    sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False),
    # From 1 on, over all replays.
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("attempted_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
)

# A replay or a write-off of many failed ends; which they are is frozen in `bulk_action_ends`.
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

# What each end was when it was selected; `outcome` is null until it is known what became of it.
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
    # When it was sent to be tried again. What comes of that is seen later.
    sa.Column("replayed_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("outcome", sa.Text),
    # Of a try that has failed again: why. Of a refusal: its code.
    sa.Column("detail", sa.Text),
    sa.Column("done_at", sa.TIMESTAMP(timezone=True)),
    sa.Index("bulk_action_ends_open", "action_id", "wallet_id", "end_id", postgresql_where=sa.text("outcome IS NULL")),
    sa.Index("bulk_action_ends_end_id", "end_id"),
)
