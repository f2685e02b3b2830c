"""Going on with top-ups of many wallets, and with schedules that have fallen due."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container

SECONDS = 5.0


@celery.task(name="tokentill.run_top_ups", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def run_top_ups() -> None:
    """Make the top-ups of what has fallen due, then top up wallets; the next tick goes on with the rest."""
    container().top_up_schedules.work_off(SECONDS)
    container().top_ups.work_off(SECONDS)
