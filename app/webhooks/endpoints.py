"""Endpoints: making, changing, testing and removing them. A secret is shown once, when it is made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.domain.audit import differing
from app.domain.errors import Invalid, NotFound, NotReady
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import Page, page
from app.domain.webhook_secrets import SECRETS_MAX, new_secret
from app.domain.webhook_urls import target_of
from app.domain.webhooks import DisabledReason, EndpointState, EventType
from app.stores.postgres import audit
from app.stores.postgres.webhooks import deliveries, endpoints, events
from app.stores.postgres.webhooks.endpoints import Endpoint, Health, Secret
from app.stores.postgres.webhooks.events import Event

log = structlog.get_logger(__name__)

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
    """Those that sign, the newest first; to be told apart, never shown."""
    health: Health


@dataclass(frozen=True, slots=True)
class NewSecret:
    """An endpoint with its new secret, which nobody shows again."""

    view: EndpointView
    secret: str


class WebhookEndpoints:
    def __init__(self, *, postgres: PostgresAccess, allow_private: bool) -> None:
        self._postgres = postgres
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
        """One to which events are sent from now on; no event types: all. Raises Invalid or Unavailable."""
        self._check_url(url)
        made = secret or new_secret()

        def work(connection: sa.Connection) -> EndpointView:
            if len(endpoints.list_by_id(connection, 0, ENDPOINTS_MAX)) == ENDPOINTS_MAX:
                raise Invalid(errors={"url": [f"There are {ENDPOINTS_MAX} endpoints already."]})
            values = {"url": url, "event_types": sorted(set(event_types)), "description": description}
            created = endpoints.insert(connection, values)
            endpoints.add_secret(connection, created.id, made)
            audit.write(connection, caller, "webhook_endpoint.created", (SUBJECT, created.id), after=_told(created))
            return _view(connection, created)

        return NewSecret(self._postgres.transaction(work), made)

    def get(self, endpoint_id: int) -> EndpointView:
        """Raises NotFound or Unavailable."""
        return self._postgres.run(lambda connection: _view(connection, _found(endpoints.find(connection, endpoint_id))))

    def list(self, limit: int, after_id: int = 0) -> Page[EndpointView, int]:
        """In the order they were made. Raises Unavailable."""

        def work(connection: sa.Connection) -> Page[EndpointView, int]:
            found = page(
                lambda count: endpoints.list_by_id(connection, after_id, count), lambda endpoint: endpoint.id, limit
            )
            return Page([_view(connection, endpoint) for endpoint in found.items], found.next_key)

        return self._postgres.run(work)

    def update(self, endpoint_id: int, changes: Mapping[str, Any], caller: Caller = SYSTEM) -> EndpointView:
        """Change any of url, event_types and description; nothing given changes nothing.

        Raises NotFound, Invalid or Unavailable.
        """
        if "url" in changes:
            self._check_url(changes["url"])
        if "event_types" in changes:
            changes = {**changes, "event_types": sorted(set(changes["event_types"]))}
        if not changes:
            return self.get(endpoint_id)
        return self._change(endpoint_id, "updated", lambda _: changes, caller)

    def enable(self, endpoint_id: int, caller: Caller = SYSTEM) -> EndpointView:
        """Have it told again, also of what waits since before it was disabled. Raises NotFound or Unavailable."""
        fresh = {
            "state": EndpointState.ENABLED,
            "disabled_reason": None,
            "disabled_at": None,
            "failing_since": None,
            "paused_until": None,
        }
        return self._change(
            endpoint_id, "enabled", lambda found: {} if found.state is EndpointState.ENABLED else fresh, caller
        )

    def disable(self, endpoint_id: int, caller: Caller = SYSTEM) -> EndpointView:
        """Send nothing more to it. Raises NotFound or Unavailable."""
        return self._change(
            endpoint_id,
            "disabled",
            lambda found: {} if found.state is EndpointState.DISABLED else disabling(DisabledReason.OPERATOR),
            caller,
        )

    def delete(self, endpoint_id: int, caller: Caller = SYSTEM) -> None:
        """Forget it and its secrets; what was still to be delivered to it won't be. Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> None:
            found = _found(endpoints.lock(connection, endpoint_id))
            gone = {"state": EndpointState.DELETED, "disabled_reason": None}
            endpoints.update(connection, endpoint_id, gone)
            endpoints.forget_secrets(connection, endpoint_id)
            deliveries.give_up(connection, endpoint_id)
            audit.write(connection, caller, "webhook_endpoint.deleted", (SUBJECT, endpoint_id), before=_told(found))

        self._postgres.transaction(work)

    def rotate(
        self,
        endpoint_id: int,
        *,
        secret: str | None = None,
        overlap_seconds: int = OVERLAP_SECONDS_DEFAULT,
        caller: Caller = SYSTEM,
    ) -> NewSecret:
        """Another secret; those before it go on signing beside it for `overlap_seconds`.

        Raises NotFound, Invalid (too many secrets sign already) or Unavailable.
        """
        made = secret or new_secret()

        def work(connection: sa.Connection) -> EndpointView:
            found = _found(endpoints.lock(connection, endpoint_id))
            endpoints.expire_secrets(connection, endpoint_id, overlap_seconds)
            if len(endpoints.secrets(connection, endpoint_id)) >= SECRETS_MAX:
                reason = f"{SECRETS_MAX} secrets sign already: wait, or rotate with an overlap of 0."
                raise Invalid(errors={"overlap_seconds": [reason]})
            endpoints.add_secret(connection, endpoint_id, made)
            told = {"overlap_seconds": overlap_seconds}
            audit.write(connection, caller, "webhook_endpoint.secret_rotated", (SUBJECT, endpoint_id), after=told)
            return _view(connection, found)

        return NewSecret(self._postgres.transaction(work), made)

    def test(self, endpoint_id: int, caller: Caller = SYSTEM) -> Event:
        """Send it an event that means nothing. Raises NotFound, NotReady (it is disabled) or Unavailable."""

        def work(connection: sa.Connection) -> Event:
            found = _found(endpoints.lock(connection, endpoint_id))
            if found.state is not EndpointState.ENABLED:
                raise NotReady("This endpoint is disabled: enable it first")
            told = {"endpoint_id": endpoint_id, "message": "Nothing has happened: this is a test."}
            event = events.insert_test(connection, endpoint_id, EventType.TEST, told)
            sent = {"event_id": event.id}
            audit.write(connection, caller, "webhook_endpoint.tested", (SUBJECT, endpoint_id), after=sent)
            return event

        return self._postgres.transaction(work)

    def replay(self, endpoint_id: int, since: datetime, until: datetime | None = None, caller: Caller = SYSTEM) -> int:
        """Tell an endpoint of all that it wants and hasn't got of that time: what was given up, and what happened while
        it was disabled. How many events. Asked again, nothing is sent twice. Raises NotFound or Unavailable.
        """
        sent = 0
        after_id: UUID | None = UUID(int=0)

        def part(connection: sa.Connection, after_id: UUID) -> Sequence[UUID]:
            _found(endpoints.lock(connection, endpoint_id))
            missed = deliveries.missed(
                connection, endpoint_id, since=since, until=until, after_id=after_id, limit=EVENTS_PER_REPLAY
            )
            deliveries.add(connection, endpoint_id, missed)
            if missed:
                told = {"since": since, "until": until, "events": len(missed)}
                audit.write(connection, caller, "webhook_endpoint.replayed", (SUBJECT, endpoint_id), after=told)
            return missed

        while after_id is not None:
            last = after_id
            found = self._postgres.transaction(lambda connection: part(connection, last))  # noqa: B023 - run at once
            sent += len(found)
            after_id = found[-1] if len(found) == EVENTS_PER_REPLAY else None
        return sent

    def _change(self, endpoint_id: int, action: str, changes: Any, caller: Caller) -> EndpointView:
        def work(connection: sa.Connection) -> EndpointView:
            before = _found(endpoints.lock(connection, endpoint_id))
            asked = changes(before)
            if not asked:
                return _view(connection, before)
            after = endpoints.update(connection, endpoint_id, asked)
            was, now = differing(_told(before), _told(after))
            if now:
                name = f"webhook_endpoint.{action}"
                audit.write(connection, caller, name, (SUBJECT, endpoint_id), before=was, after=now)
            return _view(connection, after)

        return self._postgres.transaction(work)

    def _check_url(self, url: str) -> None:
        try:
            target_of(url, allow_private=self._allow_private)
        except ValueError as error:
            raise Invalid(errors={"url": [str(error)]}) from None


def disabling(reason: DisabledReason) -> Mapping[str, Any]:
    """What changes of an endpoint that is disabled."""
    return {
        "state": EndpointState.DISABLED,
        "disabled_reason": reason,
        "disabled_at": sa.func.clock_timestamp(),
        "paused_until": None,
    }


def _found(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise NotFound(_NOT_FOUND)
    return endpoint


def _view(connection: sa.Connection, endpoint: Endpoint) -> EndpointView:
    health = endpoints.health(connection, [endpoint.id])[endpoint.id]
    return EndpointView(endpoint, endpoints.secrets(connection, endpoint.id), health)


def _told(endpoint: Endpoint) -> Mapping[str, Any]:
    """What the audit log tells of an endpoint."""
    return {
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": list(endpoint.event_types),
        "state": endpoint.state,
        "disabled_reason": endpoint.disabled_reason,
    }
