"""The tables, for queries. `migrations/` makes the schema itself; a test compares the two."""

from __future__ import annotations

from app.stores.postgres.tables.access import api_keys, audit_log
from app.stores.postgres.tables.base import metadata
from app.stores.postgres.tables.catalog import (
    feature_endpoints,
    package_features,
    packages,
    price_imports,
    prices,
    profit_rules,
)
from app.stores.postgres.tables.console import console_forms, console_sessions
from app.stores.postgres.tables.corrections import corrections, repriced_ends, repricings
from app.stores.postgres.tables.failed_ends import bulk_action_ends, bulk_actions, end_attempts
from app.stores.postgres.tables.ledger import (
    archived_balances,
    archived_postings,
    ledger_archives,
    ledger_checkpoints,
    token_transactions,
    usage_daily,
    usage_summaries,
    usage_summary_state,
)
from app.stores.postgres.tables.top_ups import top_up_batch_wallets, top_up_batches, top_up_schedules
from app.stores.postgres.tables.upkeep import reconciliations, spool_aside, stale_notes, system_state
from app.stores.postgres.tables.wallets import end_inbox, end_keys, wallets
from app.stores.postgres.tables.watch import processes, samples
from app.stores.postgres.tables.webhooks import (
    auto_top_up_rules,
    low_balance_rules,
    top_up_requests,
    wallet_watches,
    webhook_attempts,
    webhook_deliveries,
    webhook_endpoints,
    webhook_events,
    webhook_secrets,
)

__all__ = [
    "api_keys",
    "archived_balances",
    "archived_postings",
    "audit_log",
    "auto_top_up_rules",
    "bulk_action_ends",
    "bulk_actions",
    "console_forms",
    "console_sessions",
    "corrections",
    "end_attempts",
    "end_inbox",
    "end_keys",
    "feature_endpoints",
    "ledger_archives",
    "ledger_checkpoints",
    "low_balance_rules",
    "metadata",
    "package_features",
    "packages",
    "price_imports",
    "prices",
    "processes",
    "profit_rules",
    "reconciliations",
    "repriced_ends",
    "repricings",
    "samples",
    "spool_aside",
    "stale_notes",
    "system_state",
    "token_transactions",
    "top_up_batch_wallets",
    "top_up_batches",
    "top_up_requests",
    "top_up_schedules",
    "usage_daily",
    "usage_summaries",
    "usage_summary_state",
    "wallet_watches",
    "wallets",
    "webhook_attempts",
    "webhook_deliveries",
    "webhook_endpoints",
    "webhook_events",
    "webhook_secrets",
]
