"""Continuing repricings."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container

SECONDS = 5.0


@celery.task(name="tokentill.run_repricings", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def run_repricings() -> None:
    """Select runs for new repricings and apply confirmed ones; the next tick continues."""
    container().repricings.work_off(SECONDS)
