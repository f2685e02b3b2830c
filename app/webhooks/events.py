"""Webhook events and their deliveries: listing them, delivering them again, deleting old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import structlog

from app.access.ports import BookKeeping
from app.domain.audit import Change
from app.domain.errors import NotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import NEWEST, Page, page
from app.stores.postgres.webhooks.deliveries import Attempt, Counts, Delivery, DeliveryFilter
from app.stores.postgres.webhooks.endpoints import Endpoint
from app.stores.postgres.webhooks.events import Event, EventFilter

log = structlog.get_logger(__name__)

# Greater than the id of every event.
NEWEST_EVENT = str(UUID(int=2**128 - 1))
SUBJECT = "webhook_event"
PRUNED_AT_ONCE = 1_000
# Events with a failed delivery are kept longer than others by this factor.
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


class Books(Protocol):
    """Events with their deliveries, in one transaction."""

    def find_event(self, event_id: UUID) -> Event | None: ...

    def list_events(self, wanted: EventFilter, before_id: UUID, limit: int) -> Sequence[Event]: ...

    def find_delivery(self, delivery_id: int) -> Delivery | None: ...

    def list_deliveries(self, wanted: DeliveryFilter, before_id: int, limit: int) -> Sequence[Delivery]: ...

    def deliveries_of(self, event_ids: Sequence[UUID]) -> Mapping[UUID, Sequence[Delivery]]: ...

    def attempts(self, delivery_ids: Sequence[int]) -> Mapping[int, Sequence[Attempt]]: ...

    def find_endpoint(self, endpoint_id: int) -> Endpoint | None: ...

    def deliver(self, endpoint_id: int, event_ids: Sequence[UUID]) -> None:
        """Schedule the delivery of these events to an endpoint, again or for the first time."""

    def counts(self) -> Counts: ...

    def prune(self, seconds: float, failed_seconds: float, limit: int) -> int:
        """Delete events older than `seconds`, or `failed_seconds` if a delivery has failed. Returns how many."""

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class WebhookEvents:
    def __init__(self, *, books: BookKeeping[Books], retention_days: float) -> None:
        self._books = books
        self._retention_seconds = retention_days * SECONDS_PER_DAY

    def get(self, event_id: UUID) -> EventView:
        """An event with all attempts. Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _view(books, event_id))

    def list(self, matching: EventFilter, limit: int, before_id: str = NEWEST_EVENT) -> Page[EventView, str]:
        """Newest first, without their attempts. Raises Unavailable."""
        before = UUID(before_id)

        def work(books: Books) -> Page[EventView, str]:
            found = page(
                lambda count: books.list_events(matching, before, count),
                lambda event: str(event.id),
                limit,
            )
            deliveries = books.deliveries_of([event.id for event in found.items])
            views = [
                EventView(event, [DeliveryView(delivery, ()) for delivery in deliveries[event.id]])
                for event in found.items
            ]
            return Page(views, found.next_key)

        return self._books.read(work)

    def deliveries(self, matching: DeliveryFilter, limit: int, before_id: int = NEWEST) -> Page[Delivery, int]:
        """Newest first. Raises Unavailable."""
        return self._books.read(
            lambda books: page(
                lambda count: books.list_deliveries(matching, before_id, count),
                lambda delivery: delivery.id,
                limit,
            )
        )

    def delivery(self, delivery_id: int) -> DeliveryView:
        """A delivery with all attempts. Raises NotFound or Unavailable."""

        def work(books: Books) -> DeliveryView:
            found = books.find_delivery(delivery_id)
            if found is None:
                raise NotFound("Delivery not found")
            return DeliveryView(found, books.attempts([delivery_id])[delivery_id])

        return self._books.read(work)

    def replay(self, event_id: UUID, endpoint_id: int | None = None, caller: Caller = SYSTEM) -> EventView:
        """Deliver an event again, under the same id: to all endpoints that it was for, or to one.

        Raises NotFound (the event, or an endpoint to deliver it to) or Unavailable.
        """

        def work(books: Books) -> EventView:
            found = _view(books, event_id)
            if endpoint_id is None:
                receivers = [view.delivery.endpoint_id for view in found.deliveries]
            else:
                receivers = [endpoint_id]
            alive = [number for number in receivers if books.find_endpoint(number) is not None]
            if not alive:
                reasons = ["There is no such endpoint to deliver it to."]
                raise NotFound("Webhook endpoint not found", errors={"endpoint_id": reasons})
            for number in sorted(alive):
                books.deliver(number, [event_id])
            told = {"endpoint_ids": sorted(alive)}
            books.audit(caller, [Change("webhook_event.replayed", SUBJECT, str(event_id), after=told)])
            return _view(books, event_id)

        return self._books.transaction(work)

    def counts(self) -> Counts:
        """How many deliveries are pending, and how many were given up. Raises Unavailable."""
        return self._books.read(lambda books: books.counts())

    def prune(self) -> int:
        """Delete events past their retention. Returns how many. Raises Unavailable."""
        pruned = 0
        while True:
            part = self._books.transaction(
                lambda books: books.prune(
                    self._retention_seconds, FAILED_FACTOR * self._retention_seconds, PRUNED_AT_ONCE
                )
            )
            pruned += part
            if part < PRUNED_AT_ONCE:
                break
        if pruned:
            log.info("webhook_events_pruned", events=pruned)
        return pruned


def _view(books: Books, event_id: UUID) -> EventView:
    event = books.find_event(event_id)
    if event is None:
        raise NotFound("Webhook event not found")
    deliveries = books.deliveries_of([event_id])[event_id]
    attempts = books.attempts([delivery.id for delivery in deliveries])
    return EventView(event, [DeliveryView(delivery, attempts[delivery.id]) for delivery in deliveries])
