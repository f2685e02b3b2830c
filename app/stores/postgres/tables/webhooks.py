"""Events, the endpoints that receive them, their deliveries, and the rules by which wallets are reported.

Triggers (`migrations/versions`) write events in the transactions that cause them.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata, now

_a_moment = sa.TIMESTAMP(timezone=True)
_at_once = sa.text("clock_timestamp()")
_a_new_id = sa.text("time_ordered_id()")

webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    # Empty: all types.
    sa.Column("event_types", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("state", sa.Text, nullable=False, server_default="enabled"),
    sa.Column("disabled_reason", sa.Text),
    sa.Column("disabled_at", _a_moment),
    # Since when deliveries to it have failed without a success.
    sa.Column("failing_since", _a_moment),
    # The endpoint asked for a pause until then.
    sa.Column("paused_until", _a_moment),
    created_at(),
    sa.CheckConstraint("state IN ('enabled', 'disabled', 'deleted')", name="webhook_endpoints_state_known"),
    sa.CheckConstraint("disabled_reason IN ('operator', 'failing', 'gone')", name="webhook_endpoints_reason_known"),
    sa.CheckConstraint(
        "(state = 'disabled') = (disabled_reason IS NOT NULL)", name="webhook_endpoints_disabled_for_a_reason"
    ),
)

webhook_secrets = sa.Table(
    "webhook_secrets",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("endpoint_id", sa.BigInteger, sa.ForeignKey("webhook_endpoints.id"), nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    created_at(),
    # Set for a secret that was replaced: until then both sign.
    sa.Column("expires_at", _a_moment),
    sa.Index("webhook_secrets_endpoint_id", "endpoint_id"),
)

webhook_events = sa.Table(
    "webhook_events",
    metadata,
    sa.Column("id", pg.UUID, primary_key=True, server_default=_a_new_id),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("wallet_id", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("data", pg.JSONB, nullable=False),
    # Set for a test event: only this endpoint gets it.
    sa.Column("endpoint_id", sa.BigInteger),
    sa.Column("occurred_at", _a_moment, nullable=False, server_default=_at_once),
    sa.Index("webhook_events_of_user", "user_id", "id", postgresql_where=sa.text("user_id IS NOT NULL")),
)

# A trigger makes one for each endpoint that subscribes to the event. No foreign keys: they would lock the endpoint's
# row for each event, so settlement would wait for whoever changes an endpoint.
webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("event_id", pg.UUID, nullable=False),
    sa.Column("endpoint_id", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_attempt_at", _a_moment, nullable=False, server_default=_at_once),
    # The lease: until then only its holder tries this delivery.
    sa.Column("leased_until", _a_moment),
    sa.Column("last_status", sa.Integer),
    sa.Column("last_error", sa.Text),
    sa.Column("finished_at", _a_moment),
    created_at(),
    sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="webhook_deliveries_state_known"),
    sa.Index("webhook_deliveries_once", "event_id", "endpoint_id", unique=True),
    sa.Index("webhook_deliveries_due", "endpoint_id", "next_attempt_at", postgresql_where=sa.text("state = 'pending'")),
    # Deliveries in flight: few, however many are pending.
    sa.Index(
        "webhook_deliveries_leased",
        "endpoint_id",
        "leased_until",
        postgresql_where=sa.text("leased_until IS NOT NULL"),
    ),
    sa.Index("webhook_deliveries_of_endpoint", "endpoint_id", "id"),
    sa.Index("webhook_deliveries_failed", "endpoint_id", "id", postgresql_where=sa.text("state = 'failed'")),
)

webhook_attempts = sa.Table(
    "webhook_attempts",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("delivery_id", sa.BigInteger, nullable=False),
    sa.Column("started_at", _a_moment, nullable=False),
    sa.Column("duration_seconds", sa.Double, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.Text),
    # The beginning of the reply.
    sa.Column("excerpt", sa.Text),
    sa.Index("webhook_attempts_of_delivery", "delivery_id", "id"),
)

# A rule of a wallet, or of all wallets with a package that have none of their own. Without an amount: no warning.
low_balance_rules = sa.Table(
    "low_balance_rules",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("wallet_id", sa.Text),
    sa.Column("package_id", sa.Text),
    sa.Column("below_micros", sa.BigInteger),
    # A share of the balance after the wallet's last top-up.
    sa.Column("below_basis_points", sa.Integer),
    sa.Column("updated_at", _a_moment, nullable=False, server_default=now),
    sa.CheckConstraint("below_micros > 0", name="low_balance_rules_below_positive"),
    sa.CheckConstraint("below_basis_points BETWEEN 1 AND 10000", name="low_balance_rules_below_in_range"),
    sa.CheckConstraint("num_nonnulls(wallet_id, package_id) = 1", name="low_balance_rules_one_owner"),
    sa.CheckConstraint("num_nonnulls(below_micros, below_basis_points) <= 1", name="low_balance_rules_one_amount"),
    sa.Index(
        "low_balance_rules_of_wallet", "wallet_id", unique=True, postgresql_where=sa.text("wallet_id IS NOT NULL")
    ),
    sa.Index(
        "low_balance_rules_of_package", "package_id", unique=True, postgresql_where=sa.text("package_id IS NOT NULL")
    ),
)

# The same kind of rules for requested top-ups. Without amounts: no requests.
auto_top_up_rules = sa.Table(
    "auto_top_up_rules",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("wallet_id", sa.Text),
    sa.Column("package_id", sa.Text),
    sa.Column("below_micros", sa.BigInteger),
    sa.Column("amount_micros", sa.BigInteger),
    sa.Column("requests_per_month", sa.Integer),
    sa.Column("micros_per_month", sa.BigInteger),
    # After this many requests in a row without a top-up no more are made.
    sa.Column("failures_max", sa.Integer),
    # How long a request waits for its top-up.
    sa.Column("answer_seconds", sa.Integer),
    sa.Column("updated_at", _a_moment, nullable=False, server_default=now),
    sa.CheckConstraint("amount_micros > 0", name="auto_top_up_rules_amount_positive"),
    sa.CheckConstraint("num_nonnulls(wallet_id, package_id) = 1", name="auto_top_up_rules_one_owner"),
    sa.CheckConstraint(
        "num_nonnulls(below_micros, amount_micros, requests_per_month, micros_per_month, failures_max, answer_seconds)"
        " IN (0, 6)",
        name="auto_top_up_rules_whole",
    ),
    sa.Index(
        "auto_top_up_rules_of_wallet", "wallet_id", unique=True, postgresql_where=sa.text("wallet_id IS NOT NULL")
    ),
    sa.Index(
        "auto_top_up_rules_of_package", "package_id", unique=True, postgresql_where=sa.text("package_id IS NOT NULL")
    ),
)

# What is remembered of a wallet for both kinds of rules. Changed only by a transaction that has locked the wallet.
wallet_watches = sa.Table(
    "wallet_watches",
    metadata,
    sa.Column("wallet_id", sa.Text, primary_key=True),
    # The balance after its last top-up, less its debt.
    sa.Column("full_micros", sa.BigInteger),
    # When it was reported as low; null again once its balance has risen clearly above the limit.
    sa.Column("low_since", _a_moment),
    # Requests in a row without a top-up, and when the next one may be made.
    sa.Column("failed_requests", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_request_at", _a_moment),
    sa.Column("stopped_at", _a_moment),
    sa.Column("stopped_reason", sa.Text),
    # The month for which it was reported that its caps are reached.
    sa.Column("capped_month", sa.Date),
    sa.CheckConstraint("stopped_reason IN ('declined', 'unanswered')", name="wallet_watches_reason_known"),
)

top_up_requests = sa.Table(
    "top_up_requests",
    metadata,
    sa.Column("id", pg.UUID, primary_key=True, server_default=_a_new_id),
    sa.Column("wallet_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    # The reference of the top-up that answers this request.
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="open"),
    sa.Column("reason", sa.Text),
    sa.Column("transaction_id", sa.BigInteger),
    sa.Column("requested_at", _a_moment, nullable=False, server_default=_at_once),
    sa.Column("expires_at", _a_moment, nullable=False),
    sa.Column("closed_at", _a_moment),
    sa.CheckConstraint("state IN ('open', 'answered', 'declined', 'unanswered')", name="top_up_requests_state_known"),
    sa.Index("top_up_requests_one_open", "wallet_id", unique=True, postgresql_where=sa.text("state = 'open'")),
    sa.Index("top_up_requests_reference", "wallet_id", "reference", unique=True),
    sa.Index("top_up_requests_of_wallet", "wallet_id", "requested_at"),
    sa.Index("top_up_requests_expiring", "expires_at", postgresql_where=sa.text("state = 'open'")),
)
