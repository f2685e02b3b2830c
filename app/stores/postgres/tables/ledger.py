"""The ledger, and what is derived from it: roll-ups, checkpoints, archives."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata, now

token_transactions = sa.Table(
    "token_transactions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    # A trigger checks once per statement that the wallets exist: a foreign key would check for each entry.
    sa.Column("wallet_id", sa.Text, nullable=False),
    # For a usage entry the user who ran it; for all others the user whose wallet was meant.
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sa.Column("balance_after_micros", sa.BigInteger, nullable=False),
    sa.Column("base_cost_micros", sa.BigInteger),
    sa.Column("profit_micros", sa.BigInteger),
    sa.Column("cost_micros", sa.BigInteger),
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    # Set where the two columns above are; null in entries from before usage was recorded by kind.
    sa.Column("cached_input_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("requests", sa.BigInteger),
    sa.Column("model", sa.Text),
    sa.Column("feature_endpoint_id", sa.Text),
    sa.Column("price_id", sa.BigInteger),
    sa.Column("profit_rule_id", sa.BigInteger),
    sa.Column("end_id", pg.UUID),
    # The end that an entry corrects. Such entries have differences: all entries of a run add up to what it cost.
    sa.Column("corrects", pg.UUID),
    sa.Column("process_id", sa.Text),
    sa.Column("reference", sa.Text),
    sa.Column("reason", sa.Text),
    # On whose behalf: for a usage entry as the service server states, for all others the operator.
    sa.Column("actor", sa.Text),
    created_at(),
    sa.Column("request_id", sa.Text),
    # For a usage entry, when its end was accepted. `created_at` is when it was settled.
    sa.Column("accepted_at", sa.TIMESTAMP(timezone=True)),
    sa.CheckConstraint(
        "kind IN ('usage', 'top_up', 'refund', 'adjustment', 'write_off', 'reversal', 'amendment', 'chargeback')",
        name="token_transactions_kind_known",
    ),
    sa.CheckConstraint(
        "kind NOT IN ('usage', 'reversal', 'amendment')"
        " OR (amount_micros = -cost_micros AND cost_micros = base_cost_micros + profit_micros)",
        name="token_transactions_usage_adds_up",
    ),
    sa.CheckConstraint(
        "kind NOT IN ('reversal', 'amendment') OR corrects IS NOT NULL",
        name="token_transactions_correction_of_an_end",
    ),
    sa.Index("token_transactions_wallet_id", "wallet_id", "id"),
    sa.Index("token_transactions_created_at", "created_at"),
    sa.Index("token_transactions_not_usage", "id", postgresql_where=sa.text("kind <> 'usage'")),
    # This index makes settlement idempotent: however often an end is delivered, it has one usage entry.
    sa.Index("token_transactions_usage_once", "end_id", unique=True, postgresql_where=sa.text("kind = 'usage'")),
    # The same for what a correction charges.
    sa.Index(
        "token_transactions_charge_once",
        "end_id",
        unique=True,
        postgresql_where=sa.text("kind IN ('amendment', 'chargeback')"),
    ),
    sa.Index("token_transactions_corrects", "corrects", postgresql_where=sa.text("corrects IS NOT NULL")),
    sa.Index(
        "token_transactions_write_off_once",
        "end_id",
        unique=True,
        postgresql_where=sa.text("kind = 'write_off'"),
    ),
    sa.Index(
        "token_transactions_reference_once",
        "wallet_id",
        "reference",
        unique=True,
        postgresql_where=sa.text("kind IN ('top_up', 'refund', 'adjustment')"),
    ),
)


def _added_up() -> list[sa.Column[Any]]:
    """The summed columns of roll-ups and summaries."""
    counted = (
        "runs",
        "input_tokens",
        "output_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "requests",
    )
    # What corrections and write-offs gave back; negative where an amendment charged more.
    added = ("base_cost", "profit", "cost", "reversed", "amended", "written_off")
    return [
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counted),
        *(sa.Column(f"{name}_micros", sa.Numeric, nullable=False) for name in added),
    ]


# Usage and earnings by day. A trigger adds every new ledger entry to it.
usage_daily = sa.Table(
    "usage_daily",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("wallet_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("feature_endpoint_id", sa.Text, primary_key=True),
    # '' means none and 0 the default rule: key columns can't be null.
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("price_id", sa.BigInteger, primary_key=True, autoincrement=False),
    *_added_up(),
    # For reading one user's usage, or a page of users, without everybody else's rows.
    sa.Index("usage_daily_user_id", "user_id", "day"),
)

# The same sums over all wallets, made once for each day that is over.
usage_summaries = sa.Table(
    "usage_summaries",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("feature_endpoint_id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("price_id", sa.BigInteger, primary_key=True, autoincrement=False),
    *_added_up(),
)

# One row: the day before which all days are summarised.
usage_summary_state = sa.Table(
    "usage_summary_state",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("made_before", sa.Date, nullable=False),
    sa.CheckConstraint("id = 1", name="usage_summary_state_single_row"),
)

# Up to which entry each wallet's ledger was found right, and the balance there: the next reconciliation continues here.
ledger_checkpoints = sa.Table(
    "ledger_checkpoints",
    metadata,
    sa.Column("wallet_id", sa.Text, primary_key=True),
    sa.Column("entry_id", sa.BigInteger, nullable=False),
    sa.Column("balance_micros", sa.BigInteger, nullable=False),
)

# Months of the ledger that are in files. Entries up to `last_entry_id` may be deleted once this row is committed.
ledger_archives = sa.Table(
    "ledger_archives",
    metadata,
    sa.Column("month", sa.Date, primary_key=True),
    sa.Column("last_entry_id", sa.BigInteger, nullable=False),
    sa.Column("entries", sa.BigInteger, nullable=False),
    sa.Column("file_name", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("sealed_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    sa.Column("removed_at", sa.TIMESTAMP(timezone=True)),
)

# Each wallet's last archived entry and the balance there: an audit of its ledger begins there.
archived_balances = sa.Table(
    "archived_balances",
    metadata,
    sa.Column("wallet_id", sa.Text, primary_key=True),
    sa.Column("entry_id", sa.BigInteger, nullable=False),
    sa.Column("balance_micros", sa.BigInteger, nullable=False),
)

# Archived entries that aren't usage, in full: their references stay used for ever.
archived_postings = sa.Table(
    "archived_postings",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("wallet_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("reference", sa.Text),
    sa.Column("end_id", pg.UUID),
    sa.Column("entry", pg.JSONB, nullable=False),
    sa.Index("archived_postings_reference", "wallet_id", "reference"),
    sa.Index("archived_postings_end_id", "end_id"),
)
