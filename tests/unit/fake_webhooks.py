"""The books of endpoints, and of events on their way to them, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from app.domain.webhooks import DeliveryState, DisabledReason, EndpointState, EventType
from app.stores.postgres.webhooks.deliveries import Attempt, Counts, Delivery, DeliveryFilter
from app.stores.postgres.webhooks.endpoints import Endpoint, Health, Secret
from app.stores.postgres.webhooks.events import Event, EventFilter
from tests.unit.fake_bookkeeping import FakeBookKeeping
from tests.unit.fakes import NOW

T = TypeVar("T")

ENABLED = Endpoint(
    id=0,
    url="https://shop.example.com/hooks",
    description=None,
    event_types=(),
    state=EndpointState.ENABLED,
    disabled_reason=None,
    disabled_at=None,
    failing_since=None,
    paused_until=None,
    created_at=NOW,
)


@dataclass
class Kept:
    """All that is in the books."""

    endpoints: dict[int, Endpoint]
    secrets: dict[int, list[Secret]]
    events: dict[UUID, Event]
    deliveries: dict[int, Delivery]
    attempts: dict[int, list[Attempt]]


class FakeWebhookBooks(FakeBookKeeping):
    """A transaction that raises leaves all as it was, and what changes an endpoint has to have locked it.

    `steps` says how transactions ended, and how much each was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept({}, {}, {}, {}, {})
        self.now = NOW
        self.pruned: list[tuple[float, float]] = []
        self.prunable = 0
        self._locked: set[int] = set()

    def read(self, work: Callable[[Any], T]) -> T:
        self._locked.clear()
        return super().read(work)

    def transaction(self, work: Callable[[Any], T]) -> T:
        self._locked.clear()
        return super().transaction(work)

    def written(self) -> dict[str, Any]:
        return {**super().written(), "kept": deepcopy(self.kept)}

    # Endpoints.

    def add_endpoint(self, url: str, event_types: Sequence[str], description: str | None) -> Endpoint:
        number = len(self.kept.endpoints) + 1
        self._locked.add(number)
        made = replace(ENABLED, id=number, url=url, event_types=event_types, description=description)
        self.kept.endpoints[number] = made
        self.kept.secrets[number] = []
        return made

    def find_endpoint(self, endpoint_id: int) -> Endpoint | None:
        found = self.kept.endpoints.get(endpoint_id)
        return None if found is None or found.state is EndpointState.DELETED else found

    def lock_endpoint(self, endpoint_id: int) -> Endpoint | None:
        self._locked.add(endpoint_id)
        return self.find_endpoint(endpoint_id)

    def list_endpoints(self, after_id: int, limit: int) -> Sequence[Endpoint]:
        found = [self.find_endpoint(number) for number in sorted(self.kept.endpoints) if number > after_id]
        return [each for each in found if each is not None][:limit]

    def update_endpoint(self, endpoint_id: int, changes: Mapping[str, Any]) -> Endpoint:
        assert endpoint_id in self._locked
        self.kept.endpoints[endpoint_id] = replace(self.kept.endpoints[endpoint_id], **changes)
        return self.kept.endpoints[endpoint_id]

    def disable_endpoint(self, endpoint_id: int, reason: DisabledReason) -> Endpoint:
        changes = {"state": EndpointState.DISABLED, "disabled_reason": reason, "disabled_at": self.now}
        return self.update_endpoint(endpoint_id, changes)

    def health(self, endpoint_id: int) -> Health:
        states = [each.state for each in self.kept.deliveries.values() if each.endpoint_id == endpoint_id]
        return Health(states.count(DeliveryState.PENDING), states.count(DeliveryState.FAILED))

    # Their secrets.

    def secrets(self, endpoint_id: int) -> Sequence[Secret]:
        found = [
            each for each in self.kept.secrets[endpoint_id] if each.expires_at is None or self.now < each.expires_at
        ]
        return list(reversed(found))

    def add_secret(self, endpoint_id: int, secret: str) -> None:
        assert endpoint_id in self._locked
        kept = self.kept.secrets[endpoint_id]
        kept.append(Secret(len(kept) + 1, secret, self.now, None))

    def expire_secrets(self, endpoint_id: int, seconds: int) -> None:
        assert endpoint_id in self._locked
        end = self.now + timedelta(seconds=seconds)
        ending = [replace(each, expires_at=min(each.expires_at or end, end)) for each in self.secrets(endpoint_id)]
        self.kept.secrets[endpoint_id] = list(reversed(ending))

    def forget_secrets(self, endpoint_id: int) -> None:
        assert endpoint_id in self._locked
        self.kept.secrets[endpoint_id] = []

    # Events.

    def happen(self, event_type: str = EventType.LOW_BALANCE, at: datetime = NOW) -> UUID:
        """An event of alice's, delivered to nobody yet."""
        return self._add_event(event_type, "alice", {}, None, at).id

    def add_event(self, endpoint_id: int, event_type: str, data: Mapping[str, Any]) -> Event:
        assert endpoint_id in self._locked
        event = self._add_event(event_type, None, data, endpoint_id, self.now)
        self.deliver(endpoint_id, [event.id])
        return event

    def find_event(self, event_id: UUID) -> Event | None:
        return self.kept.events.get(event_id)

    def list_events(self, wanted: EventFilter, before_id: UUID, limit: int) -> Sequence[Event]:
        newest = sorted(self.kept.events.values(), key=lambda event: event.id, reverse=True)
        return [each for each in newest if each.id < before_id and wanted.type in (None, each.type)][:limit]

    def prune(self, seconds: float, failed_seconds: float, limit: int) -> int:
        self.pruned.append((seconds, failed_seconds))
        done = min(limit, self.prunable)
        self.prunable -= done
        return done

    def _add_event(
        self, event_type: str, user_id: str | None, data: Mapping[str, Any], endpoint_id: int | None, at: datetime
    ) -> Event:
        event = Event(UUID(int=len(self.kept.events) + 1), event_type, user_id, data, endpoint_id, at)
        self.kept.events[event.id] = event
        return event

    # Their deliveries.

    def deliver(self, endpoint_id: int, event_ids: Sequence[UUID]) -> None:
        """Again from the first attempt, where it was tried before."""
        self.steps += [f"delivers {len(event_ids)}"] if event_ids else []
        nothing: dict[str, Any] = dict.fromkeys((field.name for field in fields(Delivery)), None)
        for event_id in event_ids:
            event = self.kept.events[event_id]
            known = self.delivery(event_id, endpoint_id)
            number = len(self.kept.deliveries) + 1 if known is None else known.id
            new = {"id": number, "event_id": event_id, "type": event.type, "user_id": event.user_id}
            new |= {"endpoint_id": endpoint_id, "state": DeliveryState.PENDING, "attempts": 0, "created_at": self.now}
            self.kept.deliveries[number] = Delivery(**{**nothing, **new})

    def attempt(self, event_id: UUID, endpoint_id: int, state: DeliveryState) -> None:
        """One that was made of a delivery, and what became of that."""
        known = self.delivery(event_id, endpoint_id)
        assert known is not None
        self.kept.deliveries[known.id] = replace(known, state=state, attempts=known.attempts + 1)
        self.kept.attempts.setdefault(known.id, []).append(Attempt(self.now, 0.1, 200, None, None))

    def delivery(self, event_id: UUID, endpoint_id: int) -> Delivery | None:
        meant = (event_id, endpoint_id)
        return next(
            (each for each in self.kept.deliveries.values() if (each.event_id, each.endpoint_id) == meant), None
        )

    def pending(self, endpoint_id: int) -> Sequence[UUID]:
        """What is on its way to an endpoint."""
        theirs = [each for each in self.kept.deliveries.values() if each.endpoint_id == endpoint_id]
        return [each.event_id for each in theirs if each.state is DeliveryState.PENDING]

    def missed(
        self, endpoint_id: int, since: datetime, until: datetime | None, after_id: UUID, limit: int
    ) -> Sequence[UUID]:
        assert endpoint_id in self._locked
        found = []
        for event in sorted(self.kept.events.values(), key=lambda event: event.id):
            known = self.delivery(event.id, endpoint_id)
            is_lacking = known is None or known.state is DeliveryState.FAILED
            is_of_then = since <= event.occurred_at and (until is None or event.occurred_at < until)
            if is_lacking and is_of_then and event.id > after_id and event.endpoint_id is None:
                found.append(event.id)
        return found[:limit]

    def give_up_deliveries(self, endpoint_id: int) -> None:
        assert endpoint_id in self._locked
        for event_id in self.pending(endpoint_id):
            known = self.delivery(event_id, endpoint_id)
            assert known is not None
            self.kept.deliveries[known.id] = replace(known, state=DeliveryState.FAILED)

    def find_delivery(self, delivery_id: int) -> Delivery | None:
        return self.kept.deliveries.get(delivery_id)

    def list_deliveries(self, wanted: DeliveryFilter, before_id: int, limit: int) -> Sequence[Delivery]:
        newest = sorted(self.kept.deliveries.values(), key=lambda each: -each.id)
        return [each for each in newest if each.id < before_id and wanted.endpoint_id in (None, each.endpoint_id)][
            :limit
        ]

    def deliveries_of(self, event_ids: Sequence[UUID]) -> Mapping[UUID, Sequence[Delivery]]:
        theirs = sorted(self.kept.deliveries.values(), key=lambda each: each.endpoint_id)
        return {event_id: [each for each in theirs if each.event_id == event_id] for event_id in event_ids}

    def attempts(self, delivery_ids: Sequence[int]) -> Mapping[int, Sequence[Attempt]]:
        return {number: self.kept.attempts.get(number, []) for number in delivery_ids}

    def counts(self) -> Counts:
        states = [each.state for each in self.kept.deliveries.values()]
        return Counts(states.count(DeliveryState.PENDING), states.count(DeliveryState.FAILED), 0.0, 0)
