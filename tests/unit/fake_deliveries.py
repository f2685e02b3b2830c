"""The books of deliveries in memory: leases, attempts, and how endpoints do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from app.domain.errors import Unavailable
from app.domain.webhooks import Answer, DeliveryState, EndpointState
from app.stores.postgres.webhooks.deliveries import Attempt, ClaimedDelivery, Delivery, DueEndpoint
from app.stores.postgres.webhooks.endpoints import Endpoint
from tests.unit.fake_webhooks import FakeWebhookBooks


class FakeDeliveryBooks(FakeWebhookBooks):
    """`is_away`: whatever is to be written is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: dict[int, datetime] = {}
        self.is_away = False

    def due_endpoints(self, at_once_max: int) -> Sequence[DueEndpoint]:
        found = []
        for endpoint in self.kept.endpoints.values():
            due = self._due(endpoint.id)
            if due and endpoint.state is EndpointState.ENABLED and not self.is_paused(endpoint):
                found.append(DueEndpoint(endpoint.id, endpoint.url, min(len(due), at_once_max)))
        return found

    def is_paused(self, endpoint: Endpoint) -> bool:
        return endpoint.paused_until is not None and endpoint.paused_until > self.now

    def is_failing_for(self, endpoint: Endpoint, seconds: float) -> bool:
        return endpoint.failing_since is not None and endpoint.failing_since <= self.now - timedelta(seconds=seconds)

    def claim(self, endpoint_id: int, at_once_max: int, lease_seconds: float) -> ClaimedDelivery | None:
        assert endpoint_id in self._locked
        under_way = [number for number, until in self.leases.items() if until > self.now]
        theirs = [number for number in under_way if self.kept.deliveries[number].endpoint_id == endpoint_id]
        due = self._due(endpoint_id)
        if not due or len(theirs) >= at_once_max:
            return None
        first = min(due, key=lambda each: (self._due_at(each), each.id))
        self.leases[first.id] = self.now + timedelta(seconds=lease_seconds)
        event = self.kept.events[first.event_id]
        return ClaimedDelivery(
            first.id,
            event.id,
            first.attempts,
            self.leases[first.id],
            event.type,
            dict(event.data),
            event.occurred_at,
        )

    def finish(self, claimed: ClaimedDelivery, answer: Answer, retry_seconds: float | None) -> None:
        if self.is_away:
            raise Unavailable
        made = Attempt(self.now, answer.duration_seconds, answer.status, answer.reason, answer.excerpt)
        self.kept.attempts.setdefault(claimed.id, []).append(made)
        known = self.kept.deliveries[claimed.id]
        is_ours = self.leases.get(claimed.id) == claimed.leased_until
        if not is_ours and not (answer.is_success and known.state is not DeliveryState.DELIVERED):
            return
        self.leases.pop(claimed.id, None)
        state, due_at = DeliveryState.FAILED, known.next_attempt_at
        if answer.is_success:
            state = DeliveryState.DELIVERED
        elif retry_seconds is not None:
            state, due_at = DeliveryState.PENDING, self.now + timedelta(seconds=retry_seconds)
        self.kept.deliveries[claimed.id] = replace(
            known, state=state, attempts=known.attempts + 1, next_attempt_at=due_at, last_status=answer.status
        )

    def note_recovery(self, endpoint_id: int) -> None:
        self.update_endpoint(endpoint_id, {"failing_since": None, "paused_until": None})

    def note_failing(self, endpoint_id: int) -> None:
        self.update_endpoint(endpoint_id, {"failing_since": self.now})

    def pause(self, endpoint_id: int, seconds: float) -> None:
        self.update_endpoint(endpoint_id, {"paused_until": self.now + timedelta(seconds=seconds)})

    def _due(self, endpoint_id: int) -> list[Delivery]:
        return [
            each
            for each in self.kept.deliveries.values()
            if each.endpoint_id == endpoint_id
            and each.state is DeliveryState.PENDING
            and self._due_at(each) <= self.now
            and self.leases.get(each.id, self.now) <= self.now
        ]

    @staticmethod
    def _due_at(delivery: Delivery) -> datetime:
        return delivery.next_attempt_at or delivery.created_at
