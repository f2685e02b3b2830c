"""Summarising the usage of days that are over."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE
from worker.celery_app import celery, container

SECONDS_MAX = 60.0


@celery.task(name="tokentill.summarise_usage", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def summarise_usage() -> None:
    """Summarise days that are over; at most ticks there is none."""
    container().usage_summaries.make(SECONDS_MAX)
