"""Settling what messages announce."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from app import tracing
from app.domain.errors import Unavailable
from app.domain.wallets import WalletId
from app.stores.queue import COLLECT_DEBTS, RETRY_QUEUE, SETTLE_ENDS, SETTLE_QUEUE
from worker.celery_app import celery, container
from worker.tasks import outcomes
from worker.tasks.outcomes import NotDeducted

COLLECT_SECONDS = 0.25


# A message that can't be handled now is dropped: the inbox still has the ends, and the sweep settles them as soon as
# possible. Celery's own retries would depend on the clock of whichever host has them.
@celery.task(
    name=SETTLE_ENDS,
    queue=SETTLE_QUEUE,
    throws=(Unavailable, NotDeducted),
    bind=True,
)
def settle_ends(self: Any, end_ids: list[str]) -> str | None:
    """Settle the accepted ends with these ids."""
    with tracing.settling(self.request.headers, end_ids):
        report = container().settlement.settle([UUID(end_id) for end_id in end_ids])
    return outcomes.of_settlement(report)


@celery.task(
    name=COLLECT_DEBTS,
    queue=RETRY_QUEUE,
    throws=(Unavailable, NotDeducted),
)
def collect_debts(wallet_id: WalletId, debt_token: str) -> str:
    """Collect what a wallet can pay of its debts. `debt_token` is only shown to whoever watches the queue.

    A wallet with many debts doesn't hold up others: the task ends soon and queues the next one.
    """
    collected = container().collection.collect(wallet_id, COLLECT_SECONDS)
    if collected.unfinished is not None:
        container().doorbell.collect([collected.unfinished])
    return outcomes.of_collection(wallet_id, collected)
