"""Taking a sample each minute."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container


@celery.task(name="tokentill.take_sample", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def take_sample() -> None:
    """Take the last whole minute's sample; at most ticks it exists already."""
    container().samples.take()
