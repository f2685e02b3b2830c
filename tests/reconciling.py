"""What the tests of reconciliation share."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from app.billing.start import StartRequest
from app.bootstrap import Container
from app.stores.postgres.reconciliation import Drift, Reconciliation
from app.stores.redis.keys import wallet_keys
from app.stores.redis.wallet_snapshot import WalletSnapshots
from app.upkeep.cache_audit import CacheAudit
from app.upkeep.ledger_audit import LedgerAudit
from app.upkeep.reconcile import ReconcileService
from app.upkeep.rollup_audit import RollUpAudit
from tests.support import FEATURE, Billing

Run = Callable[[], Reconciliation]


def quick(container: Container) -> ReconcileService:
    """A reconciliation that doesn't wait long for what nobody is going to change."""
    audit = CacheAudit(
        postgres=container.postgres,
        snapshots=WalletSnapshots(container.redis_client),
        in_flight=container.in_flight,
        spool=container.spool,
        loader=container.loader,
        pauses_seconds=(0.01, 0.01),
    )
    ledger = LedgerAudit(container.postgres, wallets_per_page=2)
    rollups = RollUpAudit(container.postgres)
    return ReconcileService(
        postgres=container.postgres, ledger=ledger, rollups=rollups, cache=audit, redis=container.redis_gate
    )


def open_shop(billing: Billing) -> Billing:
    """Five wallets of 100 tokens each, cached; `user-1` with a settled end, an accepted one, a hold and debt."""
    billing.catalog()
    for i in range(1, 6):
        billing.wallet(f"user-{i}", tokens=100)
    container = billing.container
    container.end.end(billing.usage(output_tokens=40))
    billing.settle_everything()
    container.start.start(StartRequest("user-1", FEATURE, hold_micros=5_000_000))
    container.end.end(billing.usage(output_tokens=40))
    container.end.end(billing.usage(output_tokens=400))
    container.loader.load([f"user-{i}" for i in range(1, 6)], container.catalog.epoch)
    return billing


def tamper(shop: Billing, statement: str) -> None:
    """Change Postgres as nobody should, past the ledger's trigger and with the cache as it was."""
    with shop.container.engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.text(statement))


def only(done: Reconciliation) -> Drift:
    [drift] = done.drifted
    assert done.drifted_count == 1
    return drift


def cached(shop: Billing, user_id: str = "user-1") -> dict[str, str]:
    fields: dict[str, str] = shop.container.redis_client.hgetall(wallet_keys(user_id)[0])  # type: ignore[assignment]
    return fields
