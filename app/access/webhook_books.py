"""Books for webhooks: endpoints, their secrets, events and deliveries, within one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.audit import Change
from app.domain.keys import Caller
from app.domain.webhooks import Answer, DisabledReason
from app.stores.postgres import audit
from app.stores.postgres.webhooks import deliveries, endpoints, events
from app.stores.postgres.webhooks.deliveries import (
    Attempt,
    ClaimedDelivery,
    Counts,
    Delivery,
    DeliveryFilter,
    DueEndpoint,
)
from app.stores.postgres.webhooks.endpoints import Endpoint, Health, Secret
from app.stores.postgres.webhooks.events import Event, EventFilter


class _Books:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        """Write this transaction's changes to the audit log."""
        audit.write_all(self._connection, caller, changes)


class _EndpointsToTell(_Books):
    def find_endpoint(self, endpoint_id: int) -> Endpoint | None:
        return endpoints.find(self._connection, endpoint_id)

    def deliver(self, endpoint_id: int, event_ids: Sequence[UUID]) -> None:
        """Deliver these events to an endpoint, again or for the first time."""
        deliveries.add(self._connection, endpoint_id, event_ids)


class _EndpointsInUse(_Books):
    def lock_endpoint(self, endpoint_id: int) -> Endpoint | None:
        """Lock an endpoint, so that only one transaction at a time changes it or takes deliveries to it."""
        return endpoints.lock(self._connection, endpoint_id)

    def disable_endpoint(self, endpoint_id: int, reason: DisabledReason) -> Endpoint:
        return endpoints.update(self._connection, endpoint_id, endpoints.disabling(reason))

    def secrets(self, endpoint_id: int) -> Sequence[Secret]:
        """Secrets that sign now, newest first."""
        return endpoints.secrets(self._connection, endpoint_id)


class EndpointBooks(_EndpointsInUse, _EndpointsToTell):
    def add_endpoint(self, url: str, event_types: Sequence[str], description: str | None) -> Endpoint:
        values = {"url": url, "event_types": event_types, "description": description}
        return endpoints.insert(self._connection, values)

    def list_endpoints(self, after_id: int, limit: int) -> Sequence[Endpoint]:
        """In the order they were made."""
        return endpoints.list_by_id(self._connection, after_id, limit)

    def update_endpoint(self, endpoint_id: int, changes: Mapping[str, Any]) -> Endpoint:
        return endpoints.update(self._connection, endpoint_id, changes)

    def health(self, endpoint_id: int) -> Health:
        return endpoints.health(self._connection, [endpoint_id])[endpoint_id]

    def add_secret(self, endpoint_id: int, secret: str) -> None:
        endpoints.add_secret(self._connection, endpoint_id, secret)

    def expire_secrets(self, endpoint_id: int, seconds: int) -> None:
        """Have an endpoint's secrets expire within this many seconds, and delete the expired ones."""
        endpoints.expire_secrets(self._connection, endpoint_id, seconds)

    def forget_secrets(self, endpoint_id: int) -> None:
        endpoints.forget_secrets(self._connection, endpoint_id)

    def add_event(self, endpoint_id: int, event_type: str, data: Mapping[str, Any]) -> Event:
        """An event for this endpoint alone; a trigger has it delivered."""
        return events.insert_test(self._connection, endpoint_id, event_type, data)

    def missed(
        self, endpoint_id: int, since: datetime, until: datetime | None, after_id: UUID, limit: int
    ) -> Sequence[UUID]:
        """Events of that time that the endpoint subscribes to and hasn't received, oldest first."""
        return deliveries.missed(
            self._connection, endpoint_id, since=since, until=until, after_id=after_id, limit=limit
        )

    def give_up_deliveries(self, endpoint_id: int) -> None:
        """Give up the endpoint's pending deliveries."""
        deliveries.give_up(self._connection, endpoint_id)


class EventBooks(_EndpointsToTell):
    def find_event(self, event_id: UUID) -> Event | None:
        return events.find(self._connection, event_id)

    def list_events(self, wanted: EventFilter, before_id: UUID, limit: int) -> Sequence[Event]:
        return events.list_newest(self._connection, wanted, before_id, limit)

    def find_delivery(self, delivery_id: int) -> Delivery | None:
        return deliveries.find(self._connection, delivery_id)

    def list_deliveries(self, wanted: DeliveryFilter, before_id: int, limit: int) -> Sequence[Delivery]:
        return deliveries.list_newest(self._connection, wanted, before_id, limit)

    def deliveries_of(self, event_ids: Sequence[UUID]) -> Mapping[UUID, Sequence[Delivery]]:
        """Deliveries by event, in the order of their endpoints."""
        return deliveries.of_events(self._connection, event_ids)

    def attempts(self, delivery_ids: Sequence[int]) -> Mapping[int, Sequence[Attempt]]:
        """Attempts by delivery, oldest first."""
        return deliveries.attempts(self._connection, delivery_ids)

    def counts(self) -> Counts:
        return deliveries.counts(self._connection)

    def prune(self, seconds: float, failed_seconds: float, limit: int) -> int:
        """Delete up to `limit` events older than `seconds` that have no pending delivery; events with a failed one only
        after `failed_seconds`. Returns how many.
        """
        return events.prune(self._connection, seconds, failed_seconds, limit)


class DeliveryBooks(_EndpointsInUse):
    def due_endpoints(self, at_once_max: int) -> Sequence[DueEndpoint]:
        """Enabled endpoints with a delivery due, and a free place among the deliveries in flight; a failing endpoint
        has one place.
        """
        return deliveries.due_endpoints(self._connection, at_once_max)

    def is_paused(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint has asked for a pause that isn't over."""
        return endpoints.is_paused(self._connection, endpoint)

    def is_failing_for(self, endpoint: Endpoint, seconds: float) -> bool:
        """Whether deliveries to the endpoint have been failing for this long."""
        return endpoints.is_failing_for(self._connection, endpoint, seconds)

    def claim(self, endpoint_id: int, at_once_max: int, lease_seconds: float) -> ClaimedDelivery | None:
        """Lease the delivery that has been due longest, unless `at_once_max` are in flight. The caller has locked the
        endpoint.
        """
        return deliveries.claim(self._connection, endpoint_id, at_once_max, lease_seconds)

    def finish(self, claimed: ClaimedDelivery, answer: Answer, retry_seconds: float | None) -> None:
        """Record the result of an attempt. A failed delivery without a retry is given up."""
        deliveries.finish(self._connection, claimed, answer, retry_seconds)

    def note_recovery(self, endpoint_id: int) -> None:
        """Record that a delivery to the endpoint succeeded."""
        endpoints.update(self._connection, endpoint_id, {"failing_since": None, "paused_until": None})

    def note_failing(self, endpoint_id: int) -> None:
        """Record that deliveries to the endpoint fail from now on."""
        endpoints.update(self._connection, endpoint_id, {"failing_since": sa.func.clock_timestamp()})

    def pause(self, endpoint_id: int, seconds: float) -> None:
        """Send the endpoint nothing for this long."""
        until = sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        endpoints.update(self._connection, endpoint_id, {"paused_until": until})
