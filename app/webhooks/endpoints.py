"""Creates, changes, tests and removes webhook endpoints. A secret is shown only once, when it is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from app.access.ports import BookKeeping
from app.domain.audit import Change, differing
from app.domain.errors import Invalid, NotFound, NotReady
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import Page, page
from app.domain.webhook_secrets import SECRETS_MAX, new_secret
from app.domain.webhook_urls import target_of
from app.domain.webhooks import DisabledReason, EndpointState, EventType
from app.stores.postgres.webhooks.endpoints import Endpoint, Health, Secret
from app.stores.postgres.webhooks.events import Event

ENDPOINTS_MAX = 100
OVERLAP_SECONDS_DEFAULT = 86_400
OVERLAP_SECONDS_MAX = 30 * 86_400
SUBJECT = "webhook_endpoint"
EVENTS_PER_REPLAY = 500

_NOT_FOUND = "Webhook endpoint not found"


@dataclass(frozen=True, slots=True)
class EndpointView:
    endpoint: Endpoint
    secrets: Sequence[Secret]
    """The secrets in use for signing, newest first. They are listed, but never shown."""
    health: Health


@dataclass(frozen=True, slots=True)
class NewSecret:
    """An endpoint with its new secret, which is never shown again."""

    view: EndpointView
    secret: str


class Books(Protocol):
    """Endpoints with their secrets and deliveries, in one transaction."""

    def add_endpoint(self, url: str, event_types: Sequence[str], description: str | None) -> Endpoint: ...

    def find_endpoint(self, endpoint_id: int) -> Endpoint | None: ...

    def lock_endpoint(self, endpoint_id: int) -> Endpoint | None: ...

    def list_endpoints(self, after_id: int, limit: int) -> Sequence[Endpoint]: ...

    def update_endpoint(self, endpoint_id: int, changes: Mapping[str, Any]) -> Endpoint: ...

    def disable_endpoint(self, endpoint_id: int, reason: DisabledReason) -> Endpoint: ...

    def health(self, endpoint_id: int) -> Health: ...

    def secrets(self, endpoint_id: int) -> Sequence[Secret]: ...

    def add_secret(self, endpoint_id: int, secret: str) -> None: ...

    def expire_secrets(self, endpoint_id: int, seconds: int) -> None:
        """Let an endpoint's present secrets sign for at most `seconds` more, and delete those that have expired."""

    def forget_secrets(self, endpoint_id: int) -> None: ...

    def add_event(self, endpoint_id: int, event_type: str, data: Mapping[str, Any]) -> Event:
        """Add an event for this endpoint alone. A trigger schedules its delivery."""

    def missed(
        self, endpoint_id: int, since: datetime, until: datetime | None, after_id: UUID, limit: int
    ) -> Sequence[UUID]:
        """Events of this time that an endpoint subscribes to and hasn't received, oldest first."""

    def deliver(self, endpoint_id: int, event_ids: Sequence[UUID]) -> None: ...

    def give_up_deliveries(self, endpoint_id: int) -> None: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class WebhookEndpoints:
    def __init__(self, *, books: BookKeeping[Books], allow_private: bool) -> None:
        self._books = books
        self._allow_private = allow_private

    def create(
        self,
        url: str,
        *,
        event_types: Collection[str] = (),
        description: str | None = None,
        secret: str | None = None,
        caller: Caller = SYSTEM,
    ) -> NewSecret:
        """Create an endpoint, to which events are sent from now on; without `event_types`, all events.

        Raises Invalid or Unavailable.
        """
        self._check_url(url)
        made = secret or new_secret()

        def work(books: Books) -> EndpointView:
            if len(books.list_endpoints(0, ENDPOINTS_MAX)) == ENDPOINTS_MAX:
                raise Invalid(errors={"url": [f"There are {ENDPOINTS_MAX} endpoints already."]})
            created = books.add_endpoint(url, sorted(set(event_types)), description)
            books.add_secret(created.id, made)
            _audit(books, caller, "created", created.id, after=_told(created))
            return _view(books, created)

        return NewSecret(self._books.transaction(work), made)

    def get(self, endpoint_id: int) -> EndpointView:
        """Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _view(books, _found(books.find_endpoint(endpoint_id))))

    def list(self, limit: int, after_id: int = 0) -> Page[EndpointView, int]:
        """Oldest first. Raises Unavailable."""

        def work(books: Books) -> Page[EndpointView, int]:
            found = page(lambda count: books.list_endpoints(after_id, count), lambda endpoint: endpoint.id, limit)
            return Page([_view(books, endpoint) for endpoint in found.items], found.next_key)

        return self._books.read(work)

    def update(self, endpoint_id: int, changes: Mapping[str, Any], caller: Caller = SYSTEM) -> EndpointView:
        """Change any of url, event_types and description.

        Raises NotFound, Invalid or Unavailable.
        """
        if "url" in changes:
            self._check_url(changes["url"])
        if "event_types" in changes:
            changes = {**changes, "event_types": sorted(set(changes["event_types"]))}
        if not changes:
            return self.get(endpoint_id)
        return self._change(
            endpoint_id, "updated", lambda books, found: books.update_endpoint(found.id, changes), caller
        )

    def enable(self, endpoint_id: int, caller: Caller = SYSTEM) -> EndpointView:
        """Deliver to a disabled endpoint again, including what was pending when it was disabled.

        Raises NotFound or Unavailable.
        """
        fresh = {
            "state": EndpointState.ENABLED,
            "disabled_reason": None,
            "disabled_at": None,
            "failing_since": None,
            "paused_until": None,
        }

        def enabled(books: Books, found: Endpoint) -> Endpoint:
            return found if found.state is EndpointState.ENABLED else books.update_endpoint(found.id, fresh)

        return self._change(endpoint_id, "enabled", enabled, caller)

    def disable(self, endpoint_id: int, caller: Caller = SYSTEM) -> EndpointView:
        """Stop all deliveries to an endpoint. Raises NotFound or Unavailable."""

        def disabled(books: Books, found: Endpoint) -> Endpoint:
            if found.state is EndpointState.DISABLED:
                return found
            return books.disable_endpoint(found.id, DisabledReason.OPERATOR)

        return self._change(endpoint_id, "disabled", disabled, caller)

    def delete(self, endpoint_id: int, caller: Caller = SYSTEM) -> None:
        """Remove an endpoint and its secrets, and give up its pending deliveries. Raises NotFound or Unavailable."""

        def work(books: Books) -> None:
            found = _found(books.lock_endpoint(endpoint_id))
            gone = {"state": EndpointState.DELETED, "disabled_reason": None}
            books.update_endpoint(endpoint_id, gone)
            books.forget_secrets(endpoint_id)
            books.give_up_deliveries(endpoint_id)
            _audit(books, caller, "deleted", endpoint_id, before=_told(found))

        self._books.transaction(work)

    def rotate(
        self,
        endpoint_id: int,
        *,
        secret: str | None = None,
        overlap_seconds: int = OVERLAP_SECONDS_DEFAULT,
        caller: Caller = SYSTEM,
    ) -> NewSecret:
        """Give an endpoint a new secret. The old ones go on signing beside it for `overlap_seconds`.

        Raises NotFound, Invalid (too many secrets sign already) or Unavailable.
        """
        made = secret or new_secret()

        def work(books: Books) -> EndpointView:
            found = _found(books.lock_endpoint(endpoint_id))
            books.expire_secrets(endpoint_id, overlap_seconds)
            if len(books.secrets(endpoint_id)) >= SECRETS_MAX:
                reason = f"{SECRETS_MAX} secrets sign already: wait, or rotate with an overlap of 0."
                raise Invalid(errors={"overlap_seconds": [reason]})
            books.add_secret(endpoint_id, made)
            _audit(books, caller, "secret_rotated", endpoint_id, after={"overlap_seconds": overlap_seconds})
            return _view(books, found)

        return NewSecret(self._books.transaction(work), made)

    def test(self, endpoint_id: int, caller: Caller = SYSTEM) -> Event:
        """Send a test event to an endpoint. Raises NotFound, NotReady (it is disabled) or Unavailable."""

        def work(books: Books) -> Event:
            found = _found(books.lock_endpoint(endpoint_id))
            if found.state is not EndpointState.ENABLED:
                raise NotReady("This endpoint is disabled: enable it first")
            told = {"endpoint_id": endpoint_id, "message": "Nothing has happened: this is a test."}
            event = books.add_event(endpoint_id, EventType.TEST, told)
            _audit(books, caller, "tested", endpoint_id, after={"event_id": event.id})
            return event

        return self._books.transaction(work)

    def replay(self, endpoint_id: int, since: datetime, until: datetime | None = None, caller: Caller = SYSTEM) -> int:
        """Deliver the events of a time that an endpoint subscribes to and hasn't received: deliveries given up, and
        events that happened while it was disabled. Returns how many events. Idempotent. Raises NotFound or Unavailable.
        """
        sent = 0
        after_id: UUID | None = UUID(int=0)

        def part(books: Books, after_id: UUID) -> Sequence[UUID]:
            _found(books.lock_endpoint(endpoint_id))
            missed = books.missed(endpoint_id, since, until, after_id, EVENTS_PER_REPLAY)
            books.deliver(endpoint_id, missed)
            if missed:
                told = {"since": since, "until": until, "events": len(missed)}
                _audit(books, caller, "replayed", endpoint_id, after=told)
            return missed

        while after_id is not None:
            last = after_id
            found = self._books.transaction(lambda books: part(books, last))  # noqa: B023 - run at once
            sent += len(found)
            after_id = found[-1] if len(found) == EVENTS_PER_REPLAY else None
        return sent

    def _change(
        self, endpoint_id: int, action: str, change: Callable[[Books, Endpoint], Endpoint], caller: Caller
    ) -> EndpointView:
        def work(books: Books) -> EndpointView:
            before = _found(books.lock_endpoint(endpoint_id))
            after = change(books, before)
            was, now = differing(_told(before), _told(after))
            if now:
                _audit(books, caller, action, endpoint_id, before=was, after=now)
            return _view(books, after)

        return self._books.transaction(work)

    def _check_url(self, url: str) -> None:
        try:
            target_of(url, allow_private=self._allow_private)
        except ValueError as error:
            raise Invalid(errors={"url": [str(error)]}) from None


def _found(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise NotFound(_NOT_FOUND)
    return endpoint


def _view(books: Books, endpoint: Endpoint) -> EndpointView:
    return EndpointView(endpoint, books.secrets(endpoint.id), books.health(endpoint.id))


def _audit(
    books: Books,
    caller: Caller,
    action: str,
    endpoint_id: int,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    books.audit(caller, [Change(f"webhook_endpoint.{action}", SUBJECT, str(endpoint_id), before, after)])


def _told(endpoint: Endpoint) -> Mapping[str, Any]:
    """An endpoint as the audit log has it."""
    return {
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": list(endpoint.event_types),
        "state": endpoint.state,
        "disabled_reason": endpoint.disabled_reason,
    }
