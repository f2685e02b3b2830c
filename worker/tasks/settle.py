"""Settling what messages announce."""

from __future__ import annotations

from uuid import UUID

from app.domain.errors import Unavailable
from app.stores.queue import RETRY_FAILED_END, RETRY_QUEUE, SETTLE_ENDS, SETTLE_QUEUE
from worker.celery_app import celery, container


# A message that fails is let go after its retries: the inbox still has the ends and the sweep settles them.
@celery.task(
    name=SETTLE_ENDS,
    queue=SETTLE_QUEUE,
    autoretry_for=(Unavailable,),
    retry_backoff=1,
    retry_backoff_max=30,
    retry_jitter=True,
    max_retries=5,
)
def settle_ends(end_ids: list[str]) -> None:
    """Settle the accepted ends of these ids."""
    container().settlement.settle([UUID(end_id) for end_id in end_ids])


@celery.task(
    name=RETRY_FAILED_END,
    queue=RETRY_QUEUE,
    autoretry_for=(Unavailable,),
    retry_backoff=1,
    retry_backoff_max=30,
    retry_jitter=True,
    max_retries=5,
)
def retry_failed_end(end_id: str, user_id: str, amount_token: str, reason: str) -> None:
    """Try to deduct a failed end again. Amount and reason are for whoever watches the queue."""
    container().settlement.retry(UUID(end_id), user_id)
