"""Events and their deliveries: looking at them, having them delivered again, forgetting old ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.domain.errors import NotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import NEWEST, Page, page
from app.stores.postgres import audit
from app.stores.postgres.webhooks import deliveries, endpoints, events
from app.stores.postgres.webhooks.deliveries import Attempt, Counts, Delivery, DeliveryFilter
from app.stores.postgres.webhooks.events import Event, EventFilter

log = structlog.get_logger(__name__)

# After every id that an event is given.
NEWEST_EVENT = str(UUID(int=2**128 - 1))
SUBJECT = "webhook_event"
PRUNED_AT_ONCE = 1_000
# What nobody got is kept for so many times as long as what was delivered.
FAILED_FACTOR = 3
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class DeliveryView:
    delivery: Delivery
    attempts: Sequence[Attempt]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class EventView:
    event: Event
    deliveries: Sequence[DeliveryView]


class WebhookEvents:
    def __init__(self, *, postgres: PostgresAccess, retention_days: float) -> None:
        self._postgres = postgres
        self._retention_seconds = retention_days * SECONDS_PER_DAY

    def get(self, event_id: UUID) -> EventView:
        """With each attempt. Raises NotFound or Unavailable."""
        return self._postgres.run(lambda connection: _view(connection, event_id))

    def list(self, matching: EventFilter, limit: int, before_id: str = NEWEST_EVENT) -> Page[EventView, str]:
        """Newest first, without their attempts. Raises Unavailable."""
        before = UUID(before_id)

        def work(connection: sa.Connection) -> Page[EventView, str]:
            found = page(
                lambda count: events.list_newest(connection, matching, before, count),
                lambda event: str(event.id),
                limit,
            )
            theirs = deliveries.of_events(connection, [event.id for event in found.items])
            views = [
                EventView(event, [DeliveryView(delivery, ()) for delivery in theirs[event.id]]) for event in found.items
            ]
            return Page(views, found.next_key)

        return self._postgres.run(work)

    def deliveries(self, matching: DeliveryFilter, limit: int, before_id: int = NEWEST) -> Page[Delivery, int]:
        """Newest first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: deliveries.list_newest(connection, matching, before_id, count),
                lambda delivery: delivery.id,
                limit,
            )
        )

    def delivery(self, delivery_id: int) -> DeliveryView:
        """With each attempt. Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> DeliveryView:
            found = deliveries.find(connection, delivery_id)
            if found is None:
                raise NotFound("Delivery not found")
            return DeliveryView(found, deliveries.attempts(connection, [delivery_id])[delivery_id])

        return self._postgres.run(work)

    def replay(self, event_id: UUID, endpoint_id: int | None = None, caller: Caller = SYSTEM) -> EventView:
        """Have an event delivered again, under the same id: to all that it was for, or to one endpoint.

        Raises NotFound (the event, or somebody to deliver it to) or Unavailable.
        """

        def work(connection: sa.Connection) -> EventView:
            found = _view(connection, event_id)
            if endpoint_id is None:
                receivers = [view.delivery.endpoint_id for view in found.deliveries]
            else:
                receivers = [endpoint_id]
            alive = [number for number in receivers if endpoints.find(connection, number) is not None]
            if not alive:
                reasons = ["There is no such endpoint to deliver it to."]
                raise NotFound("Webhook endpoint not found", errors={"endpoint_id": reasons})
            for number in sorted(alive):
                deliveries.add(connection, number, [event_id])
            told = {"endpoint_ids": sorted(alive)}
            audit.write(connection, caller, "webhook_event.replayed", (SUBJECT, event_id), after=told)
            return _view(connection, event_id)

        return self._postgres.transaction(work)

    def counts(self) -> Counts:
        """What waits, and what was given up. Raises Unavailable."""
        return self._postgres.run(deliveries.counts)

    def prune(self) -> int:
        """Forget what is older than it is to be kept; how many events. Raises Unavailable."""
        pruned = 0
        while True:
            part = self._postgres.transaction(
                lambda connection: events.prune(
                    connection, self._retention_seconds, FAILED_FACTOR * self._retention_seconds, PRUNED_AT_ONCE
                )
            )
            pruned += part
            if part < PRUNED_AT_ONCE:
                break
        if pruned:
            log.info("webhook_events_pruned", events=pruned)
        return pruned


def _view(connection: sa.Connection, event_id: UUID) -> EventView:
    event = events.find(connection, event_id)
    if event is None:
        raise NotFound("Webhook event not found")
    theirs = deliveries.of_events(connection, [event_id])[event_id]
    attempts = deliveries.attempts(connection, [delivery.id for delivery in theirs])
    return EventView(event, [DeliveryView(delivery, attempts[delivery.id]) for delivery in theirs])
