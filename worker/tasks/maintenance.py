"""Tasks that beat starts: settling what no message announced, and repairing what a dying process left behind."""

from __future__ import annotations

import structlog

from app.billing.settlements import SettleReport
from app.stores.queue import MAINTENANCE_QUEUE, RETRY_QUEUE, message_counts
from worker.celery_app import celery, config, container
from worker.tasks import outcomes
from worker.tasks.outcomes import NotDeducted

log = structlog.get_logger(__name__)

WALLETS_PER_LOOK = 200


@celery.task(name="tokentill.sweep", queue=MAINTENANCE_QUEUE, throws=(NotDeducted,))
def sweep() -> str | None:
    """Settle accepted ends that have waited for a message long enough."""
    # The sweep runs twice in SWEEP_SECONDS, so an end waits at most that long for it.
    return outcomes.of_settlement(container().settlement.sweep(older_than_seconds=config.sweep_seconds / 2))


@celery.task(name="tokentill.give_out_retries", queue=MAINTENANCE_QUEUE)
def give_out_retries() -> None:
    """Send a task for each wallet whose debts are due, as far as the tasks sent before have been worked off.

    A wallet stays due while its task waits: without this limit the queue of slow workers would grow without end.
    """
    waiting = message_counts(container().redis_client, [RETRY_QUEUE])[RETRY_QUEUE]
    if waiting < WALLETS_PER_LOOK:
        container().doorbell.collect(container().collection.due_wallets(WALLETS_PER_LOOK - waiting))


@celery.task(name="tokentill.drain_spool", queue=MAINTENANCE_QUEUE, throws=(NotDeducted,))
def drain_spool() -> str | None:
    """Record and settle the ends that Redis kept while Postgres was away."""
    reports: list[SettleReport] = []
    container().spool_drain.drain(reports.append)
    return outcomes.of_settlement(sum(reports, SettleReport()))


@celery.task(name="tokentill.release_stranded_marks", queue=MAINTENANCE_QUEUE)
def release_stranded_marks() -> None:
    """Remove marks that a dying process left on cached wallets."""
    container().stranded_marks.release()


@celery.task(name="tokentill.refresh_stale_wallets", queue=MAINTENANCE_QUEUE)
def refresh_stale_wallets() -> None:
    """Correct cached wallets whose last change didn't reach Redis."""
    refreshed = container().stale_copies.refresh(older_than_seconds=config.sweep_seconds)
    if refreshed:
        log.info("stale_wallets_refreshed", wallets=refreshed)
