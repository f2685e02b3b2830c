"""Continuing confirmed bulk actions."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container

# Part of the second between two ticks; the rest is left for settlement.
SECONDS = 0.3


@celery.task(name="tokentill.work_off_bulk_actions", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def work_off_bulk_actions() -> None:
    """Work for a moment; the next tick continues."""
    container().bulk_actions.work_off(SECONDS)


@celery.task(name="tokentill.forget_bulk_drafts", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def forget_bulk_drafts() -> None:
    """Delete drafts that nobody has confirmed for a month."""
    container().bulk_actions.forget_drafts()
