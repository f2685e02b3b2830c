"""Corrections, chargebacks and repricings."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata

# Each correction and chargeback with its answer, which a repeated call gets again. `charge_id` is the id of the inbox
# row that it made, and later the `end_id` of the ledger entry that settled that row.
corrections = sa.Table(
    "corrections",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("wallet_id", sa.Text, sa.ForeignKey("wallets.wallet_id"), nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("end_id", pg.UUID),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    # The run's usage as corrected.
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    sa.Column("cached_input_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("requests", sa.BigInteger),
    sa.Column("price_id", sa.BigInteger),
    sa.Column("profit_rule_id", sa.BigInteger),
    sa.Column("cost_before_micros", sa.BigInteger),
    sa.Column("cost_after_micros", sa.BigInteger),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sa.Column("posted_change_micros", sa.BigInteger, nullable=False),
    sa.Column("debt_change_micros", sa.BigInteger, nullable=False),
    sa.Column("charge_id", pg.UUID),
    sa.Column("transaction_ids", pg.ARRAY(sa.BigInteger), nullable=False),
    sa.Column("actor", sa.Text),
    sa.Column("request_id", sa.Text),
    # Not the start of the transaction, which may have waited for the wallet.
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.CheckConstraint("kind IN ('reversal', 'amendment', 'chargeback')", name="corrections_kind_known"),
    sa.CheckConstraint("(end_id IS NULL) = (kind = 'chargeback')", name="corrections_of_an_end"),
    sa.CheckConstraint("amount_micros = posted_change_micros - debt_change_micros", name="corrections_add_up"),
    sa.Index(
        "corrections_reference_once",
        "end_id",
        "reference",
        unique=True,
        postgresql_where=sa.text("end_id IS NOT NULL"),
    ),
    sa.Index(
        "corrections_chargeback_once",
        "wallet_id",
        "reference",
        unique=True,
        postgresql_where=sa.text("kind = 'chargeback'"),
    ),
    sa.Index("corrections_charge_id", "charge_id", unique=True, postgresql_where=sa.text("charge_id IS NOT NULL")),
    sa.Index("corrections_of_wallet", "wallet_id", "id"),
)

# Past runs that are to be billed by another rate card; the selected runs are frozen in `repriced_ends`.
repricings = sa.Table(
    "repricings",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("state", sa.Text, nullable=False, server_default="selecting"),
    sa.Column("price_id", sa.BigInteger, sa.ForeignKey("prices.id"), nullable=False),
    sa.Column("feature_endpoint_id", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("accepted_from", sa.TIMESTAMP(timezone=True)),
    sa.Column("accepted_to", sa.TIMESTAMP(timezone=True)),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.Text),
    sa.Column("request_id", sa.Text),
    # The selection has looked at all ends up to this one.
    sa.Column(
        "selected_up_to",
        pg.UUID,
        nullable=False,
        server_default=sa.text("'00000000-0000-0000-0000-000000000000'"),
    ),
    created_at(),
    sa.CheckConstraint("state IN ('selecting', 'ready', 'applying', 'done')", name="repricings_state_known"),
)

# `outcome` is null until the run is handled.
repriced_ends = sa.Table(
    "repriced_ends",
    metadata,
    sa.Column("repricing_id", sa.BigInteger, sa.ForeignKey("repricings.id"), primary_key=True),
    sa.Column("end_id", pg.UUID, primary_key=True),
    sa.Column("wallet_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("old_cost_micros", sa.BigInteger, nullable=False),
    sa.Column("new_cost_micros", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Index("repriced_ends_open", "repricing_id", "end_id", postgresql_where=sa.text("outcome IS NULL")),
)
