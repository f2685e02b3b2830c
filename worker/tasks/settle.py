"""Settling what messages announce."""

from __future__ import annotations

from uuid import UUID

from app.domain.errors import Unavailable
from app.stores.queue import COLLECT_DEBTS, RETRY_QUEUE, SETTLE_ENDS, SETTLE_QUEUE
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
    name=COLLECT_DEBTS,
    queue=RETRY_QUEUE,
    autoretry_for=(Unavailable,),
    retry_backoff=1,
    retry_backoff_max=30,
    retry_jitter=True,
    max_retries=5,
)
def collect_debts(user_ids: list[str]) -> None:
    """Try these users' failed ends again."""
    for user_id in user_ids:
        container().settlement.collect(user_id)
