"""The tables, for queries. The schema itself is made by `migrations/`; a test holds the two together."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData()

_now = sa.text("now()")


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now)


# One row: the counters that tell every process that its copy of something is old.
system_state = sa.Table(
    "system_state",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("catalog_version", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("cache_epoch", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("heartbeat", sa.BigInteger, nullable=False, server_default="0"),
    # Before it lie ends without a key of which the ledger may tell no more.
    sa.Column("archived_end_id", pg.UUID, nullable=False, server_default="00000000-0000-0000-0000-000000000000"),
    sa.CheckConstraint("id = 1", name="system_state_single_row"),
)

feature_endpoints = sa.Table(
    "feature_endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("min_micros", sa.BigInteger, nullable=False),
    # What becomes of a model that no price covers.
    sa.Column("unpriced", sa.Text, nullable=False, server_default="default"),
    # For how long a service server may take back a run of its own.
    sa.Column("reversal_seconds", sa.Integer, nullable=False, server_default="0"),
    _created_at(),
    sa.CheckConstraint("min_micros >= 0", name="feature_endpoints_min_not_negative"),
    sa.CheckConstraint("unpriced IN ('default', 'refuse')", name="feature_endpoints_unpriced_known"),
    sa.CheckConstraint("reversal_seconds BETWEEN 0 AND 31536000", name="feature_endpoints_reversal_seconds_in_range"),
)

packages = sa.Table(
    "packages",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    _created_at(),
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
    sa.Column("effective_from", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now),
    _created_at(),
    sa.CheckConstraint("basis_points BETWEEN 0 AND 1000000", name="profit_rules_basis_points_in_range"),
)

# Rate cards, append-only as the ledger is: what a run was priced by can be read for ever.
prices = sa.Table(
    "prices",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("feature_endpoint_id", sa.Text, sa.ForeignKey("feature_endpoints.id")),
    # Exact, or the beginning of ids and a star.
    sa.Column("model", sa.Text),
    sa.Column("effective_from", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("input_micros_per_million", sa.BigInteger, nullable=False),
    sa.Column("output_micros_per_million", sa.BigInteger, nullable=False),
    # What isn't named costs what its whole costs.
    sa.Column("cached_input_micros_per_million", sa.BigInteger),
    sa.Column("cache_write_micros_per_million", sa.BigInteger),
    sa.Column("reasoning_micros_per_million", sa.BigInteger),
    sa.Column("request_micros", sa.BigInteger),
    sa.Column("tiers", pg.JSONB, nullable=False, server_default=sa.text("'[]'")),
    _created_at(),
    # Of two prices for the same from the same moment on nobody could say which one is meant.
    sa.Index(
        "prices_scope_once",
        sa.text("coalesce(feature_endpoint_id, '')"),
        sa.text("coalesce(model, '')"),
        "effective_from",
        unique=True,
    ),
)

# Price lists as imported. `proposed` are the prices that an approval makes, `report` what the dry run found.
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
    _created_at(),
    sa.Column("approved_by", sa.Text),
    sa.Column("approved_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("price_ids", pg.JSONB),
    sa.CheckConstraint("state IN ('draft', 'approved')", name="price_imports_state_known"),
)

wallets = sa.Table(
    "wallets",
    metadata,
    sa.Column("wallet_id", sa.Text, primary_key=True),
    # Whose it is: the user it was opened for.
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("package_id", sa.Text, sa.ForeignKey("packages.id")),
    sa.Column("status", sa.Text, nullable=False, server_default="active"),
    sa.Column("posted_micros", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("overdraft_limit_micros", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    # The sum of its ends with `is_debt`, changed in the transaction that changes which these are.
    sa.Column("debt_micros", sa.BigInteger, nullable=False, server_default="0"),
    # When its debts are due for another try. All of a wallet's debts wait in one line.
    sa.Column("collect_at", sa.TIMESTAMP(timezone=True)),
    _created_at(),
    sa.CheckConstraint("status IN ('active', 'suspended', 'closed')", name="wallets_status_known"),
    sa.CheckConstraint("overdraft_limit_micros >= 0", name="wallets_overdraft_limit_not_negative"),
    sa.CheckConstraint("posted_micros <= 4000000000000000", name="wallets_posted_in_range"),
    sa.CheckConstraint("debt_micros BETWEEN 0 AND 9007199254740992", name="wallets_debt_in_range"),
    sa.Index("wallets_user_id", "user_id", unique=True),
    sa.Index("wallets_collect_at", "collect_at", postgresql_where=sa.text("collect_at IS NOT NULL")),
)

# The permanent memory of the keys that ends came with. It outlives the inbox row, so that a key can't bill twice
# in the moment between the settlement's delete and a repeated call.
end_keys = sa.Table(
    "end_keys",
    metadata,
    sa.Column("end_id", pg.UUID, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("process_id", sa.Text),
    sa.Column("payload_hash", sa.Text, nullable=False),
    # The first answer, which every repeated call gets again.
    sa.Column("cost_micros", sa.BigInteger, nullable=False),
    sa.Column("spendable_micros", sa.BigInteger, nullable=False),
    sa.Column("deduction", sa.Text, nullable=False),
    _created_at(),
    # No primary key: an end is only ever found by its keys.
    sa.Index(
        "end_keys_idempotency_key",
        "idempotency_key",
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    ),
    sa.Index("end_keys_process_id", "process_id", unique=True, postgresql_where=sa.text("process_id IS NOT NULL")),
)

# `wallet_id` pays for what `user_id` ran, whatever becomes of the two before it is settled.
# No foreign key to wallets: it would lock the wallet's row for every end. Settlement checks the wallet instead.
end_inbox = sa.Table(
    "end_inbox",
    metadata,
    sa.Column("id", pg.UUID, primary_key=True),
    sa.Column("wallet_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    # An end is `usage`. What a correction charges and the balance doesn't cover stands here beside the ends, and waits,
    # is collected, replayed or written off like them.
    sa.Column("kind", sa.Text, nullable=False, server_default="usage"),
    sa.Column("corrects", pg.UUID),
    sa.Column("reference", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("feature_endpoint_id", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_input_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("requests", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("process_id", sa.Text),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("request_id", sa.Text),
    # The price, pinned whole: settlement adds up and computes nothing.
    sa.Column("price_id", sa.BigInteger),
    sa.Column("profit_rule_id", sa.BigInteger),
    sa.Column("base_cost_micros", sa.BigInteger, nullable=False),
    sa.Column("profit_micros", sa.BigInteger, nullable=False),
    sa.Column("cost_micros", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # Whether its cost is part of `wallets.debt_micros`. An end that failed at acceptance isn't yet: taking the wallet's
    # lock for it would have every end of a wallet wait for the one before.
    sa.Column("is_debt", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("last_error", sa.Text),
    sa.Column("accepted_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now),
    sa.Column("actor", sa.Text),
    sa.CheckConstraint("state IN ('accepted', 'retrying', 'dead')", name="end_inbox_state_known"),
    sa.CheckConstraint("cost_micros >= 0", name="end_inbox_cost_not_negative"),
    sa.CheckConstraint("kind IN ('usage', 'amendment', 'chargeback')", name="end_inbox_kind_known"),
    sa.Index("end_inbox_corrects", "corrects", postgresql_where=sa.text("corrects IS NOT NULL")),
    # What a wallet's row doesn't tell of its unsettled ends.
    sa.Index("end_inbox_untold", "wallet_id", "id", postgresql_where=sa.text("NOT is_debt")),
    sa.Index(
        "end_inbox_to_settle",
        "id",
        postgresql_where=sa.text("state = 'accepted' OR (state = 'retrying' AND NOT is_debt)"),
    ),
    sa.Index("end_inbox_failed", "id", postgresql_where=sa.text("state <> 'accepted'")),
    sa.Index("end_inbox_failed_of_wallet", "wallet_id", "id", postgresql_where=sa.text("state <> 'accepted'")),
    sa.Index("end_inbox_retrying_of_wallet", "wallet_id", "id", postgresql_where=sa.text("state = 'retrying'")),
    # Replayed dead letters, which are mostly none.
    sa.Index("end_inbox_replayed", "wallet_id", postgresql_where=sa.text("state = 'accepted' AND is_debt")),
    sa.Index("end_inbox_dead", "id", postgresql_where=sa.text("state = 'dead'")),
)

token_transactions = sa.Table(
    "token_transactions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    # A trigger for each statement keeps that there is such a wallet: a foreign key would ask for each entry.
    sa.Column("wallet_id", sa.Text, nullable=False),
    # Of a usage entry: who ran it. Of the others: whose wallet it was meant for.
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sa.Column("balance_after_micros", sa.BigInteger, nullable=False),
    sa.Column("base_cost_micros", sa.BigInteger),
    sa.Column("profit_micros", sa.BigInteger),
    sa.Column("cost_micros", sa.BigInteger),
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    # Of a usage entry, as the three above; null in those from before usage was told by kind.
    sa.Column("cached_input_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("requests", sa.BigInteger),
    sa.Column("model", sa.Text),
    sa.Column("feature_endpoint_id", sa.Text),
    sa.Column("price_id", sa.BigInteger),
    sa.Column("profit_rule_id", sa.BigInteger),
    sa.Column("end_id", pg.UUID),
    # The end that a reversal or an amendment is of. Figures of these are differences: a run's entries add up to it.
    sa.Column("corrects", pg.UUID),
    sa.Column("process_id", sa.Text),
    sa.Column("reference", sa.Text),
    sa.Column("reason", sa.Text),
    # On whose behalf: of a usage entry the service server's, of the others the operator's.
    sa.Column("actor", sa.Text),
    _created_at(),
    sa.Column("request_id", sa.Text),
    # Of a usage entry: when its end was accepted. It is settled at `created_at`.
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
    # What makes settlement idempotent: however often an end is delivered, it has one usage entry.
    sa.Index("token_transactions_usage_once", "end_id", unique=True, postgresql_where=sa.text("kind = 'usage'")),
    # The same for what a correction has charged.
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

# What was used and earned, by the day of the ledger's entries: a trigger adds to it whatever enters the ledger.
usage_daily = sa.Table(
    "usage_daily",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("wallet_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("feature_endpoint_id", sa.Text, primary_key=True),
    # '' is none, and 0 the default rule: a key has no nulls.
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("price_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("runs", sa.BigInteger, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("base_cost_micros", sa.Numeric, nullable=False),
    sa.Column("profit_micros", sa.Numeric, nullable=False),
    sa.Column("cost_micros", sa.Numeric, nullable=False),
    # What corrections and write-offs gave back; negative where an amendment took more.
    sa.Column("reversed_micros", sa.Numeric, nullable=False),
    sa.Column("amended_micros", sa.Numeric, nullable=False),
    sa.Column("written_off_micros", sa.Numeric, nullable=False),
)

# Each correction with its answer, which a repeated call gets again, and each chargeback. `charge_id` is the row of the
# inbox that it made, and `end_id` of the ledger entry that became of it.
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
    # What the run has used, as corrected.
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
    # Not the transaction's beginning: it may have waited for the wallet.
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

# Past runs that shall be billed by another rate card; which they are is frozen in `repriced_ends`.
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
    # Ends up to this one were looked at.
    sa.Column(
        "selected_up_to",
        pg.UUID,
        nullable=False,
        server_default=sa.text("'00000000-0000-0000-0000-000000000000'"),
    ),
    _created_at(),
    sa.CheckConstraint("state IN ('selecting', 'ready', 'applying', 'done')", name="repricings_state_known"),
)

# `outcome` is null until something was done about the run.
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

# Wallets whose cached copy may be older than the row: a note is written in the transaction that changed them, removed
# once Redis has the change. What stays here the sweep repairs.
stale_notes = sa.Table(
    "stale_notes",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("wallet_ids", pg.ARRAY(sa.Text), nullable=False),
    # The first of the wallets and its version after it, by which the change is known. Without: only a refresh will do.
    sa.Column("wallet_id", sa.Text),
    sa.Column("version", sa.BigInteger),
    sa.Column("noted_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now),
    sa.Index("stale_notes_change", "wallet_id", "version"),
)

# What each reconciliation found. `drifted` is a list of drifts, cut off at a bound; `drifted_count` has them all.
reconciliations = sa.Table(
    "reconciliations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("started_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("checked", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cache_checked", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("drifted_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("repaired", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("drifted", pg.JSONB, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("is_full", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("requested_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now),
    # When it last said that it is at work. One that has been silent for long has died.
    sa.Column("alive_at", sa.TIMESTAMP(timezone=True)),
    sa.CheckConstraint("state IN ('requested', 'running', 'done', 'failed')", name="reconciliations_state_known"),
)

# Up to which entry each wallet's ledger was found right, and the balance there: the next reconciliation goes on here.
ledger_checkpoints = sa.Table(
    "ledger_checkpoints",
    metadata,
    sa.Column("wallet_id", sa.Text, primary_key=True),
    sa.Column("entry_id", sa.BigInteger, nullable=False),
    sa.Column("balance_micros", sa.BigInteger, nullable=False),
)

# Spooled ends that couldn't be recorded as they are: bytes, as whatever stood in the spool has to fit in here.
spool_aside = sa.Table(
    "spool_aside",
    metadata,
    sa.Column("field", pg.BYTEA, primary_key=True),
    sa.Column("entry", pg.BYTEA, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
    sa.Column("put_aside_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now),
    sa.Column("tried_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now),
)

# Months of the ledger that are in files now. Entries up to `last_entry_id` may be removed, once all this is committed.
ledger_archives = sa.Table(
    "ledger_archives",
    metadata,
    sa.Column("month", sa.Date, primary_key=True),
    sa.Column("last_entry_id", sa.BigInteger, nullable=False),
    sa.Column("entries", sa.BigInteger, nullable=False),
    sa.Column("file_name", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("sealed_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_now),
    sa.Column("removed_at", sa.TIMESTAMP(timezone=True)),
)

# Each wallet's last archived entry and the balance there: an audit of its ledger begins here.
archived_balances = sa.Table(
    "archived_balances",
    metadata,
    sa.Column("wallet_id", sa.Text, primary_key=True),
    sa.Column("entry_id", sa.BigInteger, nullable=False),
    sa.Column("balance_micros", sa.BigInteger, nullable=False),
)

# Archived entries that aren't usage, whole: their references were used, for ever.
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
