"""Wallets, and ends that aren't in the ledger yet."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata, now

wallets = sa.Table(
    "wallets",
    metadata,
    sa.Column("wallet_id", sa.Text, primary_key=True),
    # The owner: the user it was opened for.
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("package_id", sa.Text, sa.ForeignKey("packages.id")),
    sa.Column("status", sa.Text, nullable=False, server_default="active"),
    sa.Column("posted_micros", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("overdraft_limit_micros", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    # The sum of the wallet's ends with `is_debt`, changed in the same transaction as these.
    sa.Column("debt_micros", sa.BigInteger, nullable=False, server_default="0"),
    # When the wallet's debts are due for a retry. All debts of a wallet wait in one queue.
    sa.Column("collect_at", sa.TIMESTAMP(timezone=True)),
    created_at(),
    # When anything except `collect_at` last changed. Without an index, which each settlement would have to write to.
    sa.Column("changed_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    sa.CheckConstraint("status IN ('active', 'suspended', 'closed')", name="wallets_status_known"),
    sa.CheckConstraint("overdraft_limit_micros >= 0", name="wallets_overdraft_limit_not_negative"),
    sa.CheckConstraint("posted_micros <= 4000000000000000", name="wallets_posted_in_range"),
    sa.CheckConstraint("debt_micros BETWEEN 0 AND 9007199254740992", name="wallets_debt_in_range"),
    sa.Index("wallets_user_id", "user_id", unique=True),
    # Finds ids by prefix, whatever the database's collation is.
    sa.Index("wallets_user_id_prefix", "user_id", postgresql_ops={"user_id": "text_pattern_ops"}),
    sa.Index("wallets_collect_at", "collect_at", postgresql_where=sa.text("collect_at IS NOT NULL")),
)

# The keys of all ends, kept for ever. They outlive the inbox row, so that a key can't bill twice when a call is
# repeated just after settlement has deleted the row.
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
    created_at(),
    # No primary key: an end is only looked up by its keys.
    sa.Index(
        "end_keys_idempotency_key",
        "idempotency_key",
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    ),
    sa.Index("end_keys_process_id", "process_id", unique=True, postgresql_where=sa.text("process_id IS NOT NULL")),
)

# `wallet_id` pays for the run of `user_id`, whatever happens to the two before it is settled. No foreign key to
# wallets: it would lock the wallet's row for every end. Settlement checks the wallet instead.
end_inbox = sa.Table(
    "end_inbox",
    metadata,
    sa.Column("id", pg.UUID, primary_key=True),
    sa.Column("wallet_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    # An end has the kind `usage`. What a correction charges and the balance doesn't cover is a row here too; it waits
    # and is collected, replayed or written off like an end.
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
    # The price, pinned whole: settlement only adds up and computes no price.
    sa.Column("price_id", sa.BigInteger),
    sa.Column("profit_rule_id", sa.BigInteger),
    sa.Column("base_cost_micros", sa.BigInteger, nullable=False),
    sa.Column("profit_micros", sa.BigInteger, nullable=False),
    sa.Column("cost_micros", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # Failed tries since acceptance or the last replay (which decide when it is given up), and failed tries in all.
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempts_total", sa.Integer, nullable=False, server_default="0"),
    # Whether its cost is included in `wallets.debt_micros`. An end that isn't covered at acceptance isn't included yet:
    # that would need the wallet's lock, and each end of a wallet would wait for the one before.
    sa.Column("is_debt", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("last_error", sa.Text),
    sa.Column("accepted_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    sa.Column("actor", sa.Text),
    sa.CheckConstraint("state IN ('accepted', 'retrying', 'dead')", name="end_inbox_state_known"),
    sa.CheckConstraint("cost_micros >= 0", name="end_inbox_cost_not_negative"),
    sa.CheckConstraint("kind IN ('usage', 'amendment', 'chargeback')", name="end_inbox_kind_known"),
    sa.Index("end_inbox_corrects", "corrects", postgresql_where=sa.text("corrects IS NOT NULL")),
    # Unsettled ends that aren't included in their wallet's row.
    sa.Index("end_inbox_untold", "wallet_id", "id", postgresql_where=sa.text("NOT is_debt")),
    sa.Index(
        "end_inbox_to_settle",
        "id",
        postgresql_where=sa.text("state = 'accepted' OR (state = 'retrying' AND NOT is_debt)"),
    ),
    sa.Index("end_inbox_failed", "id", postgresql_where=sa.text("state <> 'accepted'")),
    sa.Index("end_inbox_failed_of_wallet", "wallet_id", "id", postgresql_where=sa.text("state <> 'accepted'")),
    sa.Index("end_inbox_retrying_of_wallet", "wallet_id", "id", postgresql_where=sa.text("state = 'retrying'")),
    # Replayed dead letters; mostly there are none.
    sa.Index("end_inbox_replayed", "wallet_id", postgresql_where=sa.text("state = 'accepted' AND is_debt")),
    sa.Index("end_inbox_dead", "id", postgresql_where=sa.text("state = 'dead'")),
)
