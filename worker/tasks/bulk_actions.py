"""Going on with bulk actions that were confirmed."""

from __future__ import annotations

from contextlib import suppress

from kombu.exceptions import OperationalError
from redis import RedisError

from app.domain.errors import Unavailable
from app.stores.queue import MAINTENANCE_QUEUE, is_waiting
from worker.celery_app import celery, container

TASK = "tokentill.work_off_bulk_actions"
SECONDS = 0.2


@celery.task(name=TASK, queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def work_off_bulk_actions() -> None:
    """Do a part, for a moment, then send for the next: what else waits has its turn in between.

    Beat begins anew each time where nobody is at it. No more than one message waits, so it never becomes a crowd.
    """
    if not container().bulk_actions.work_off(SECONDS):
        return
    with suppress(RedisError, OperationalError, OSError):
        if not is_waiting(container().redis_client, MAINTENANCE_QUEUE, TASK):
            celery.send_task(TASK, queue=MAINTENANCE_QUEUE, retry=False)


@celery.task(name="tokentill.forget_bulk_drafts", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def forget_bulk_drafts() -> None:
    """Remove drafts that nobody has confirmed for a month."""
    container().bulk_actions.forget_drafts()
