"""Delivering events: at least once each, in no promised order, as often as the schedule says.

Postgres knows what is due; a message only says to which endpoint something is. Each attempt is leased in one
transaction and noted in another, and nothing is kept open between them. Whoever dies in between has the attempt made
again, under the same id, once the lease is over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.domain.keys import SYSTEM
from app.domain.webhook_secrets import signed_headers
from app.domain.webhooks import GONE_STATUS, Answer, DisabledReason, EndpointState, pause_seconds, retry_seconds
from app.stores.postgres import audit
from app.stores.postgres.webhooks import deliveries, endpoints
from app.stores.postgres.webhooks.deliveries import ClaimedDelivery, DueEndpoint
from app.stores.postgres.webhooks.endpoints import Endpoint
from app.webhooks.endpoints import SUBJECT

log = structlog.get_logger(__name__)

USER_AGENT = "Tokentill-Webhooks/1"
SECONDS_PER_DAY = 86_400
# Beyond an attempt's own time: for writing down what it brought.
LEASE_MARGIN_SECONDS = 10.0


class Sender(Protocol):
    def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer: ...


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    timeout_seconds: float
    at_once_max: int
    """Of one endpoint."""
    disable_after_days: float

    @property
    def lease_seconds(self) -> float:
        return self.timeout_seconds + LEASE_MARGIN_SECONDS


@dataclass(frozen=True, slots=True)
class _Job:
    """One attempt to be made."""

    url: str
    secrets: Sequence[str]
    claimed: ClaimedDelivery


class DeliveryService:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        sender: Sender,
        render: Callable[[ClaimedDelivery], bytes],
        policy: DeliveryPolicy,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._postgres = postgres
        self._sender = sender
        self._render = render
        self._policy = policy
        self._now = now
        self._chance = chance

    def due(self) -> Sequence[DueEndpoint]:
        """Endpoints with something to be delivered, as far as they may have more under way. Raises Unavailable."""
        return self._postgres.run(lambda connection: deliveries.due_endpoints(connection, self._policy.at_once_max))

    def deliver(self, endpoint_id: int, seconds: float) -> bool:
        """Deliver what is due to an endpoint, one after the other, for about so long; whether there may be more.

        Nothing is done while so many of its deliveries are under way elsewhere. Raises Unavailable.
        """
        give_up_at = time.monotonic() + seconds
        while (job := self._take(endpoint_id)) is not None:
            answer = self._attempt(job)
            self._finish(endpoint_id, job, answer)
            if time.monotonic() >= give_up_at:
                return True
        return False

    def _take(self, endpoint_id: int) -> _Job | None:
        def work(connection: sa.Connection) -> _Job | None:
            endpoint = endpoints.lock(connection, endpoint_id)
            if endpoint is None or endpoint.state is not EndpointState.ENABLED:
                return None
            if endpoints.is_paused(connection, endpoint):
                return None
            # What is failing takes one slot, however much it takes of that.
            at_once = self._policy.at_once_max if endpoint.failing_since is None else 1
            claimed = deliveries.claim(connection, endpoint_id, at_once, self._policy.lease_seconds)
            if claimed is None:
                return None
            return _Job(endpoint.url, [one.secret for one in endpoints.secrets(connection, endpoint_id)], claimed)

        return self._postgres.transaction(work)

    def _attempt(self, job: _Job) -> Answer:
        body = self._render(job.claimed)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            **signed_headers(job.secrets, str(job.claimed.event_id), int(self._now()), body),
        }
        return self._sender.post(job.url, headers, body)

    def _finish(self, endpoint_id: int, job: _Job, answer: Answer) -> None:
        attempts = job.claimed.attempts + 1
        retry = None if answer.is_success else retry_seconds(attempts, answer, self._chance())

        def work(connection: sa.Connection) -> DisabledReason | None:
            # In the order in which they are claimed: the endpoint first.
            endpoint = endpoints.lock(connection, endpoint_id)
            deliveries.finish(connection, job.claimed, answer, retry)
            return None if endpoint is None else self._note_health(connection, endpoint, answer)

        disabled = self._postgres.transaction(work)
        self._log(endpoint_id, job, answer, attempts, retry)
        if disabled is not None:
            log.warning("webhook_endpoint_disabled", endpoint_id=endpoint_id, reason=disabled, last_error=answer.reason)

    def _note_health(self, connection: sa.Connection, endpoint: Endpoint, answer: Answer) -> DisabledReason | None:
        """What an attempt says of its endpoint; why that is disabled now, if it is."""
        if answer.is_success:
            if endpoint.failing_since is not None:
                endpoints.update(connection, endpoint.id, {"failing_since": None, "paused_until": None})
            return None
        if endpoint.state is not EndpointState.ENABLED:
            return None
        changes: dict[str, Any] = {}
        if endpoint.failing_since is None:
            changes["failing_since"] = sa.func.clock_timestamp()
        if seconds := pause_seconds(answer):
            changes["paused_until"] = _from_now(seconds)
        reason = None
        if answer.status == GONE_STATUS:
            reason = DisabledReason.GONE
        elif endpoints.is_failing_for(connection, endpoint, self._policy.disable_after_days * SECONDS_PER_DAY):
            reason = DisabledReason.FAILING
        if reason is not None:
            changes |= endpoints.disabling(reason)
        if changes:
            endpoints.update(connection, endpoint.id, changes)
        if reason is not None:
            told = {"state": EndpointState.DISABLED, "disabled_reason": reason, "last_error": answer.reason}
            audit.write(
                connection,
                SYSTEM,
                "webhook_endpoint.disabled",
                (SUBJECT, endpoint.id),
                before={"state": endpoint.state},
                after=told,
            )
        return reason

    @staticmethod
    def _log(endpoint_id: int, job: _Job, answer: Answer, attempts: int, retry: float | None) -> None:
        facts = {
            "endpoint_id": endpoint_id,
            "webhook_id": str(job.claimed.event_id),
            "type": job.claimed.type,
            "attempts": attempts,
            "status": answer.status,
            "duration_seconds": round(answer.duration_seconds, 3),
        }
        if answer.is_success:
            log.info("webhook_delivered", **facts)
        elif retry is None:
            log.warning("webhook_given_up", **facts, error=answer.reason)
        else:
            log.info("webhook_postponed", **facts, error=answer.reason, retry_seconds=round(retry))


def _from_now(seconds: float) -> Any:
    return sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
