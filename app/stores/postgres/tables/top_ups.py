"""Top-ups of many wallets: single ones, and those of schedules."""

from __future__ import annotations

import sqlalchemy as sa

from app.stores.postgres.tables.base import created_at, metadata

# Each period that falls due becomes a row of `top_up_batches`.
top_up_schedules = sa.Table(
    "top_up_schedules",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="active"),
    sa.Column("package_id", sa.Text, sa.ForeignKey("packages.id")),
    sa.Column("user_id", sa.Text),
    sa.Column("wallet_status", sa.Text),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("day", sa.SmallInteger),
    sa.Column("starts_on", sa.Date, nullable=False),
    sa.Column("ends_on", sa.Date),
    sa.Column("catch_up", sa.Text, nullable=False),
    # When it falls due next; null once it never does again.
    sa.Column("next_on", sa.Date),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.Text),
    sa.Column("request_id", sa.Text),
    created_at(),
    sa.CheckConstraint("state IN ('active', 'paused', 'ended')", name="top_up_schedules_state_known"),
    sa.CheckConstraint("(package_id IS NULL) <> (user_id IS NULL)", name="top_up_schedules_one_target"),
    sa.CheckConstraint("mode IN ('add', 'fill')", name="top_up_schedules_mode_known"),
    sa.CheckConstraint("amount_micros > 0", name="top_up_schedules_amount_positive"),
    sa.CheckConstraint("period IN ('daily', 'weekly', 'monthly')", name="top_up_schedules_period_known"),
    sa.CheckConstraint("catch_up IN ('each', 'latest')", name="top_up_schedules_catch_up_known"),
    sa.Index("top_up_schedules_reference_once", "reference", unique=True),
    sa.Index("top_up_schedules_due", "next_on", postgresql_where=sa.text("state = 'active'")),
)

top_up_batches = sa.Table(
    "top_up_batches",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="ready"),
    sa.Column("schedule_id", sa.BigInteger, sa.ForeignKey("top_up_schedules.id")),
    sa.Column("due_on", sa.Date),
    sa.Column("package_id", sa.Text, sa.ForeignKey("packages.id")),
    sa.Column("user_id", sa.Text),
    sa.Column("wallet_status", sa.Text),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.Text),
    sa.Column("request_id", sa.Text),
    created_at(),
    sa.Column("applied_by", sa.Text),
    sa.Column("applied_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
    # The selected wallets, as frozen.
    sa.Column("planned_wallets", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("planned_micros", sa.Numeric, nullable=False, server_default="0"),
    # Set once the batch is done; until then the results are summed up from its wallets.
    sa.Column("topped_up", sa.BigInteger),
    sa.Column("skipped", sa.BigInteger),
    sa.Column("refused", sa.BigInteger),
    sa.Column("posted_micros", sa.Numeric),
    sa.CheckConstraint("state IN ('ready', 'applying', 'done')", name="top_up_batches_state_known"),
    sa.CheckConstraint("(package_id IS NULL) <> (user_id IS NULL)", name="top_up_batches_one_target"),
    sa.CheckConstraint("mode IN ('add', 'fill')", name="top_up_batches_mode_known"),
    sa.CheckConstraint("amount_micros > 0", name="top_up_batches_amount_positive"),
    sa.CheckConstraint("(schedule_id IS NULL) = (due_on IS NULL)", name="top_up_batches_of_a_period"),
    sa.Index(
        "top_up_batches_reference_once",
        "reference",
        unique=True,
        postgresql_where=sa.text("schedule_id IS NULL"),
    ),
    sa.Index(
        "top_up_batches_period_once",
        "schedule_id",
        "due_on",
        unique=True,
        postgresql_where=sa.text("schedule_id IS NOT NULL"),
    ),
    sa.Index("top_up_batches_applying", "id", postgresql_where=sa.text("state = 'applying'")),
)

# The wallets of a batch, frozen. `outcome` is null until the wallet is handled.
top_up_batch_wallets = sa.Table(
    "top_up_batch_wallets",
    metadata,
    sa.Column("batch_id", sa.BigInteger, sa.ForeignKey("top_up_batches.id"), primary_key=True),
    sa.Column("wallet_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("planned_micros", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("posted_micros", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("transaction_id", sa.BigInteger),
    sa.Index("top_up_batch_wallets_open", "batch_id", "wallet_id", postgresql_where=sa.text("outcome IS NULL")),
)
