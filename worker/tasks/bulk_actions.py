"""Going on with bulk actions that were confirmed."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container

# Of the second between two ticks: the rest belongs to whoever waits to be settled.
SECONDS = 0.3


@celery.task(name="tokentill.work_off_bulk_actions", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def work_off_bulk_actions() -> None:
    """Do a part, for a moment; the next tick goes on with the rest."""
    container().bulk_actions.work_off(SECONDS)


@celery.task(name="tokentill.forget_bulk_drafts", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def forget_bulk_drafts() -> None:
    """Remove drafts that nobody has confirmed for a month."""
    container().bulk_actions.forget_drafts()
