"""Going on with repricings that were asked for."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container

SECONDS = 5.0


@celery.task(name="tokentill.run_repricings", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def run_repricings() -> None:
    """Select for those that are new, apply those that shall be; the next tick goes on with the rest."""
    container().repricings.work_off(SECONDS)
