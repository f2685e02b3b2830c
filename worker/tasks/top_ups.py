"""Continuing top-ups of many wallets, and running schedules that are due."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container

SECONDS = 5.0


@celery.task(name="tokentill.run_top_ups", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def run_top_ups() -> None:
    """Make batches for due schedules, then top up wallets; the next tick continues."""
    container().top_up_schedules.work_off(SECONDS)
    container().top_ups.work_off(SECONDS)
