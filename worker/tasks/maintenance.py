"""What beat starts: finding what no message reached, and repairing what a dying process left."""

from __future__ import annotations

import structlog

from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, config, container

log = structlog.get_logger(__name__)

USERS_PER_COLLECTION = 200


@celery.task(name="tokentill.sweep", queue=MAINTENANCE_QUEUE)
def sweep() -> None:
    """Settle accepted ends that have waited for a message long enough."""
    container().settlement.sweep(older_than_seconds=config.sweep_seconds)


@celery.task(name="tokentill.collect_due_debts", queue=MAINTENANCE_QUEUE)
def collect_due_debts() -> None:
    """Ring for the users whose failed ends are due for another try."""
    users = container().settlement.users_with_due_debt(USERS_PER_COLLECTION)
    if users:
        container().doorbell.collect(users)


@celery.task(name="tokentill.refresh_stale_wallets", queue=MAINTENANCE_QUEUE)
def refresh_stale_wallets() -> None:
    """Correct cached wallets whose last change didn't reach Redis."""
    refreshed = container().settlement.refresh_stale(older_than_seconds=config.sweep_seconds)
    if refreshed:
        log.info("stale_wallets_refreshed", wallets=refreshed)
