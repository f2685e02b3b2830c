"""Regular reconciliations of wallets, ledger and cache."""

from __future__ import annotations

import structlog

from app.domain.errors import AlreadyExists
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container
from worker.tasks import outcomes
from worker.tasks.outcomes import DoesNotAddUp

log = structlog.get_logger(__name__)

# The first reconciliation reads every ledger from its start. If the broker delivers the message again meanwhile, the
# second task finds the first one running and does nothing.
SECONDS_MAX = 6 * 3_600

limited = {
    "queue": MAINTENANCE_QUEUE,
    "soft_time_limit": SECONDS_MAX,
    "time_limit": SECONDS_MAX + 60,
    "throws": (DoesNotAddUp,),
}


@celery.task(name="tokentill.reconcile", **limited)
def reconcile() -> str | None:
    """Check every wallet and correct the cache. Differences are logged and stored in `reconciliations`."""
    try:
        return outcomes.of_reconciliation(container().reconciliation.run())
    except AlreadyExists:
        log.info("reconciliation_skipped", reason="one is running already")
        return None


@celery.task(name="tokentill.run_requested_reconciliation", **limited)
def run_requested_reconciliation() -> str | None:
    """Run the reconciliation that an operator has requested, if there is one."""
    done = container().reconciliation.run_requested()
    return None if done is None else outcomes.of_reconciliation(done)
