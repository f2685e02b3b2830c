"""Delivering webhooks, and what is to be looked after around them."""

from __future__ import annotations

from app.domain.errors import Unavailable
from app.stores.queue import DELIVER_WEBHOOKS, MAINTENANCE_QUEUE, WEBHOOKS_QUEUE, message_counts
from worker.celery_app import celery, container

DELIVER_SECONDS = 5.0
# More messages would only wait: what is due is found again each second.
MESSAGES_MAX = 200


@celery.task(name="tokentill.give_out_webhooks", queue=WEBHOOKS_QUEUE, throws=(Unavailable,))
def give_out_webhooks() -> None:
    """Send a task for each endpoint that has something due, as many as may be under way for it."""
    waiting = message_counts(container().redis_client, [WEBHOOKS_QUEUE])[WEBHOOKS_QUEUE]
    if waiting < MESSAGES_MAX:
        for due in container().webhook_delivery.due():
            for _ in range(due.runners):
                _send(due.id, due.host)


@celery.task(name=DELIVER_WEBHOOKS, queue=WEBHOOKS_QUEUE, throws=(Unavailable,))
def deliver_webhooks(endpoint_id: int, host: str) -> None:
    """Deliver what is due to an endpoint. `host` is for whoever watches the queue; more of a URL may be a secret.

    An endpoint with many events takes its turn among all others: a task ends soon, and sends for the next one.
    """
    if container().webhook_delivery.deliver(endpoint_id, DELIVER_SECONDS):
        _send(endpoint_id, host)


@celery.task(name="tokentill.look_after_top_up_requests", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def look_after_top_up_requests() -> None:
    """Give up requests whose time is over, and make those that no change of a wallet has made."""
    container().top_up_requests.look_after()


@celery.task(name="tokentill.prune_webhook_events", queue=MAINTENANCE_QUEUE, throws=(Unavailable,))
def prune_webhook_events() -> None:
    """Forget events that are old enough."""
    container().webhook_events.prune()


def _send(endpoint_id: int, host: str) -> None:
    celery.send_task(DELIVER_WEBHOOKS, args=[endpoint_id, host], queue=WEBHOOKS_QUEUE, retry=False)
