"""Delivering webhooks, and the upkeep of events and top-up requests."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import DELIVER_WEBHOOKS, MAINTENANCE_QUEUE, WEBHOOKS_QUEUE, message_counts
from worker.celery_app import celery, container

DELIVER_SECONDS = 5.0
# More messages would only wait: due deliveries are found again each second.
MESSAGES_MAX = 200


@celery.task(name="tokentill.give_out_webhooks", queue=WEBHOOKS_QUEUE, throws=(Unavailable,))
def give_out_webhooks() -> None:
    """Send tasks for each endpoint with deliveries due, one for each delivery that may be in flight."""
    waiting = message_counts(container().redis_client, [WEBHOOKS_QUEUE])[WEBHOOKS_QUEUE]
    if waiting < MESSAGES_MAX:
        for due in container().webhook_delivery.due():
            for _ in range(due.runners):
                _send(due.id, due.host)


@celery.task(name=DELIVER_WEBHOOKS, queue=WEBHOOKS_QUEUE, throws=(Unavailable,))
def deliver_webhooks(endpoint_id: int, host: str) -> None:
    """Deliver what is due to an endpoint. `host` is only shown to whoever watches the queue; the rest of a URL may be
    secret.

    An endpoint with many events doesn't hold up others: the task ends soon and queues the next one.
    """
    if container().webhook_delivery.deliver(endpoint_id, DELIVER_SECONDS):
        _send(endpoint_id, host)


@celery.task(name="tokentill.look_after_top_up_requests", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def look_after_top_up_requests() -> None:
    """Expire overdue top-up requests, and make requests that no change of a wallet has triggered."""
    container().top_up_requests.look_after()


@celery.task(name="tokentill.prune_webhook_events", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def prune_webhook_events() -> None:
    """Delete old events."""
    container().webhook_events.prune()


def _send(endpoint_id: int, host: str) -> None:
    celery.send_task(DELIVER_WEBHOOKS, args=[endpoint_id, host], queue=WEBHOOKS_QUEUE, retry=False)
