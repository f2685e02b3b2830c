"""The catalog: feature endpoints, packages, profit rules and prices."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata, now

feature_endpoints = sa.Table(
    "feature_endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("min_micros", sa.BigInteger, nullable=False),
    # How a model without a price is treated.
    sa.Column("unpriced", sa.Text, nullable=False, server_default="default"),
    # For how long after an end a service server may reverse its own run.
    sa.Column("reversal_seconds", sa.Integer, nullable=False, server_default="0"),
    created_at(),
    sa.CheckConstraint("min_micros >= 0", name="feature_endpoints_min_not_negative"),
    sa.CheckConstraint("unpriced IN ('default', 'refuse')", name="feature_endpoints_unpriced_known"),
    sa.CheckConstraint("reversal_seconds BETWEEN 0 AND 31536000", name="feature_endpoints_reversal_seconds_in_range"),
)

packages = sa.Table(
    "packages",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    created_at(),
)

package_features = sa.Table(
    "package_features",
    metadata,
    sa.Column("package_id", sa.Text, sa.ForeignKey("packages.id"), primary_key=True),
    sa.Column("feature_endpoint_id", sa.Text, sa.ForeignKey("feature_endpoints.id"), primary_key=True),
)

profit_rules = sa.Table(
    "profit_rules",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("basis_points", sa.Integer, nullable=False),
    sa.Column("feature_endpoint_id", sa.Text, sa.ForeignKey("feature_endpoints.id")),
    sa.Column("model", sa.Text),
    sa.Column("effective_from", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    created_at(),
    sa.CheckConstraint("basis_points BETWEEN 0 AND 1000000", name="profit_rules_basis_points_in_range"),
)

# Rate cards, append-only as the ledger, so that the price of every run can always be read.
prices = sa.Table(
    "prices",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("feature_endpoint_id", sa.Text, sa.ForeignKey("feature_endpoints.id")),
    # An exact id, or the beginning of ids followed by a star.
    sa.Column("model", sa.Text),
    sa.Column("effective_from", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("input_micros_per_million", sa.BigInteger, nullable=False),
    sa.Column("output_micros_per_million", sa.BigInteger, nullable=False),
    # A null rate is that of the kind's whole (input or output).
    sa.Column("cached_input_micros_per_million", sa.BigInteger),
    sa.Column("cache_write_micros_per_million", sa.BigInteger),
    sa.Column("reasoning_micros_per_million", sa.BigInteger),
    sa.Column("request_micros", sa.BigInteger),
    sa.Column("tiers", pg.JSONB, nullable=False, server_default=sa.text("'[]'")),
    created_at(),
    # Two prices of the same scope from the same moment would be ambiguous.
    sa.Index(
        "prices_scope_once",
        sa.text("coalesce(feature_endpoint_id, '')"),
        sa.text("coalesce(model, '')"),
        "effective_from",
        unique=True,
    ),
)

# Imported price lists. `proposed` are the prices that an approval adds, `report` is what the dry run found.
price_imports = sa.Table(
    "price_imports",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("state", sa.Text, nullable=False, server_default="draft"),
    sa.Column("format", sa.Text, nullable=False),
    sa.Column("micros_per_dollar", sa.BigInteger, nullable=False),
    sa.Column("feature_endpoint_id", sa.Text, sa.ForeignKey("feature_endpoints.id")),
    # Null: from the approval on.
    sa.Column("effective_from", sa.TIMESTAMP(timezone=True)),
    sa.Column("counts", pg.JSONB, nullable=False),
    sa.Column("proposed", pg.JSONB, nullable=False),
    sa.Column("report", pg.JSONB, nullable=False),
    sa.Column("actor", sa.Text),
    created_at(),
    sa.Column("approved_by", sa.Text),
    sa.Column("approved_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("price_ids", pg.JSONB),
    sa.CheckConstraint("state IN ('draft', 'approved')", name="price_imports_state_known"),
)
