"""Delivers events: each at least once, in no guaranteed order, retried by the schedule.

Postgres knows which deliveries are due; a queue message only names an endpoint that has some. One transaction leases a
delivery, another one records the attempt, and none is open during the attempt. If the process dies in between, another
one makes the attempt again, under the same event id, once the lease has expired.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from app.access.ports import BookKeeping
from app.domain.audit import Change
from app.domain.keys import SYSTEM, Caller
from app.domain.webhook_secrets import signed_headers
from app.domain.webhooks import GONE_STATUS, Answer, DisabledReason, EndpointState, pause_seconds, retry_seconds
from app.stores.postgres.webhooks.deliveries import ClaimedDelivery, DueEndpoint
from app.stores.postgres.webhooks.endpoints import Endpoint, Secret
from app.webhooks.endpoints import SUBJECT

log = structlog.get_logger(__name__)

USER_AGENT = "Tokentill-Webhooks/1"
SECONDS_PER_DAY = 86_400
# How much longer a lease lasts than an attempt may take: time to record the result.
LEASE_MARGIN_SECONDS = 10.0


class Books(Protocol):
    """Deliveries and the health of their endpoints, in one transaction. Times are by the books' own clock."""

    def due_endpoints(self, at_once_max: int) -> Sequence[DueEndpoint]:
        """Enabled endpoints with due deliveries that may have more in flight: up to `at_once_max`, one if failing."""

    def lock_endpoint(self, endpoint_id: int) -> Endpoint | None:
        """Lock an endpoint. Whoever changes it or leases a delivery to it has to hold this lock."""

    def is_paused(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint has asked to get nothing for now, by Retry-After."""

    def is_failing_for(self, endpoint: Endpoint, seconds: float) -> bool:
        """Whether all attempts to deliver to the endpoint have failed for at least `seconds`."""

    def claim(self, endpoint_id: int, at_once_max: int, lease_seconds: float) -> ClaimedDelivery | None:
        """Lease the delivery that has been due for longest, unless `at_once_max` are in flight. The endpoint has to be
        locked.
        """

    def secrets(self, endpoint_id: int) -> Sequence[Secret]:
        """The secrets that sign now, newest first."""

    def finish(self, claimed: ClaimedDelivery, answer: Answer, retry_seconds: float | None) -> None:
        """Record the answer to an attempt. A failed delivery without `retry_seconds` is given up."""

    def note_recovery(self, endpoint_id: int) -> None: ...

    def note_failing(self, endpoint_id: int) -> None: ...

    def pause(self, endpoint_id: int, seconds: float) -> None: ...

    def disable_endpoint(self, endpoint_id: int, reason: DisabledReason) -> Endpoint: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class Sender(Protocol):
    def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer: ...


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    timeout_seconds: float
    at_once_max: int
    """How many deliveries to one endpoint may be in flight."""
    disable_after_days: float

    @property
    def lease_seconds(self) -> float:
        return self.timeout_seconds + LEASE_MARGIN_SECONDS


@dataclass(frozen=True, slots=True)
class _Job:
    """A leased delivery, with what the attempt needs."""

    url: str
    secrets: Sequence[str]
    claimed: ClaimedDelivery


class DeliveryService:
    def __init__(
        self,
        *,
        books: BookKeeping[Books],
        sender: Sender,
        render: Callable[[ClaimedDelivery], bytes],
        policy: DeliveryPolicy,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._books = books
        self._sender = sender
        self._render = render
        self._policy = policy
        self._now = now
        self._chance = chance

    def due(self) -> Sequence[DueEndpoint]:
        """Endpoints with due deliveries that may have more in flight. Raises Unavailable."""
        return self._books.read(lambda books: books.due_endpoints(self._policy.at_once_max))

    def deliver(self, endpoint_id: int, seconds: float) -> bool:
        """Make an endpoint's due deliveries, one after the other, for about `seconds`. Returns whether more may be due.

        Does nothing while the allowed number of its deliveries is in flight elsewhere. Raises Unavailable.
        """
        give_up_at = time.monotonic() + seconds
        while (job := self._take(endpoint_id)) is not None:
            answer = self._attempt(job)
            self._finish(endpoint_id, job, answer)
            if time.monotonic() >= give_up_at:
                return True
        return False

    def _take(self, endpoint_id: int) -> _Job | None:
        def work(books: Books) -> _Job | None:
            endpoint = books.lock_endpoint(endpoint_id)
            if endpoint is None or endpoint.state is not EndpointState.ENABLED or books.is_paused(endpoint):
                return None
            # A failing endpoint gets one slot only, so that its timeouts don't occupy the workers.
            at_once = self._policy.at_once_max if endpoint.failing_since is None else 1
            claimed = books.claim(endpoint_id, at_once, self._policy.lease_seconds)
            if claimed is None:
                return None
            return _Job(endpoint.url, [secret.secret for secret in books.secrets(endpoint_id)], claimed)

        return self._books.transaction(work)

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

        def work(books: Books) -> DisabledReason | None:
            # Lock in the same order as `_take`, the endpoint first, to avoid deadlocks.
            endpoint = books.lock_endpoint(endpoint_id)
            books.finish(job.claimed, answer, retry)
            return None if endpoint is None else self._note_health(books, endpoint, answer)

        disabled = self._books.transaction(work)
        self._log(endpoint_id, job, answer, attempts, retry)
        if disabled is not None:
            log.warning("webhook_endpoint_disabled", endpoint_id=endpoint_id, reason=disabled, last_error=answer.reason)

    def _note_health(self, books: Books, endpoint: Endpoint, answer: Answer) -> DisabledReason | None:
        """Update an endpoint's health after an attempt. Returns the reason if this disables the endpoint."""
        if answer.is_success:
            if endpoint.failing_since is not None:
                books.note_recovery(endpoint.id)
            return None
        if endpoint.state is not EndpointState.ENABLED:
            return None
        if endpoint.failing_since is None:
            books.note_failing(endpoint.id)
        reason = self._why_to_disable(books, endpoint, answer)
        if reason is None:
            if seconds := pause_seconds(answer):
                books.pause(endpoint.id, seconds)
            return None
        books.disable_endpoint(endpoint.id, reason)
        told = {"state": EndpointState.DISABLED, "disabled_reason": reason, "last_error": answer.reason}
        before = {"state": endpoint.state}
        books.audit(SYSTEM, [Change("webhook_endpoint.disabled", SUBJECT, str(endpoint.id), before, told)])
        return reason

    def _why_to_disable(self, books: Books, endpoint: Endpoint, answer: Answer) -> DisabledReason | None:
        if answer.status == GONE_STATUS:
            return DisabledReason.GONE
        if books.is_failing_for(endpoint, self._policy.disable_after_days * SECONDS_PER_DAY):
            return DisabledReason.FAILING
        return None

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
