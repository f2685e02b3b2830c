"""Webhooks: endpoints and their health, events with their deliveries and answers, and changes of endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, url_for

from app.console import text
from app.console.access import acting, may, needs, services
from app.console.changes import Done, Review, change
from app.console.filters import Filters
from app.console.forms import (
    REASON,
    Choice,
    Field,
    Form,
    Kind,
    duration,
    duration_text,
    identifier,
    moment,
    plain,
    printable,
)
from app.console.navigation import is_within
from app.console.pages import page
from app.console.paging import paged
from app.domain.audit import AuditFilter
from app.domain.keys import KeyScope
from app.domain.pages import NEWEST
from app.domain.webhook_urls import URL_LENGTH_MAX
from app.domain.webhooks import SUBSCRIBABLE, DeliveryState, DisabledReason, EndpointState, EventType
from app.stores.postgres.webhooks.deliveries import DeliveryFilter
from app.stores.postgres.webhooks.endpoints import Endpoint
from app.stores.postgres.webhooks.events import EventFilter
from app.webhooks.endpoints import OVERLAP_SECONDS_DEFAULT, OVERLAP_SECONDS_MAX, SUBJECT
from app.wire.cursors import NEWEST_UUID_FIRST, OLDEST_NUMBER_FIRST
from app.wire.json import write_readable
from app.wire.webhooks import payload

blueprint = Blueprint("webhooks", __name__, url_prefix="/webhooks")

DESCRIPTION_LENGTH_MAX = 200
DELIVERIES_SHOWN = 10
HISTORY_SHOWN = 20
STATE_TONES = {DeliveryState.PENDING: "warn", DeliveryState.DELIVERED: "good", DeliveryState.FAILED: "bad"}
_TABS = (
    ("Endpoints", "webhooks.index"),
    ("Events", "webhooks.events"),
    ("Balance rules", "balance_rules.index"),
    ("Top-up requests", "balance_rules.requests"),
)
_TAB_PAGES = [endpoint for _, endpoint in _TABS]
_DISABLED_FOR = {
    DisabledReason.OPERATOR: "by an operator",
    DisabledReason.FAILING: "failing for days",
    DisabledReason.GONE: "it answered that it is gone",
}
_NUMBER = f"<int(max={NEWEST}):number>"
_TYPES: list[Choice] = [(kind.value, kind.value) for kind in SUBSCRIBABLE]
_ENDPOINT = Form(
    (
        Field("url", "URL", printable(URL_LENGTH_MAX), help="Events are sent there by POST. https, unless allowed."),
        Field(
            "event_types",
            "Events",
            plain,
            Kind.MANY,
            is_required=False,
            choices=_TYPES,
            help="What it is told of. None of them: everything.",
        ),
        Field("description", "Description", printable(DESCRIPTION_LENGTH_MAX), is_required=False),
        REASON,
    )
)
_ROTATION = Form(
    (
        Field(
            "overlap_seconds",
            "The old secret goes on signing for",
            duration(0, OVERLAP_SECONDS_MAX),
            default=duration_text(OVERLAP_SECONDS_DEFAULT),
            help="Such as 15m, 24h or 7d: as long as the receiver takes to learn the new one. 0: not at all.",
        ),
        REASON,
    )
)
_REPLAY_SINCE = Form(
    (
        Field("since", "What happened from", moment, unit="UTC", wire_names=("from",)),
        Field("until", "Until", moment, is_required=False, unit="UTC", wire_names=("to",)),
        REASON,
    )
)
_REASON = Form((REASON,))


def _endpoint_choices() -> list[Choice]:
    found = services().webhook_endpoints.list(100).items
    return [(str(view.endpoint.id), f"{view.endpoint.id} ({view.endpoint.url})") for view in found]


EVENTS = Filters(
    Field(
        "type", "Type", plain, Kind.CHOICE, is_required=False, choices=[(kind.value, kind.value) for kind in EventType]
    ),
    Field("user_id", "User", identifier(), is_required=False),
    Field("endpoint_id", "Endpoint", int, Kind.CHOICE, is_required=False, choices=_endpoint_choices),
    Field(
        "state",
        "Delivery",
        DeliveryState,
        Kind.CHOICE,
        is_required=False,
        choices=[(state.value, state.value) for state in DeliveryState],
    ),
    Field("since", "From", moment, is_required=False, unit="UTC"),
    Field("until", "Before", moment, is_required=False, unit="UTC"),
)
_NO_FILTERS = Filters()


@blueprint.context_processor
def _frame() -> dict[str, Any]:
    return {"webhook_tabs": tabs, "state_tones": STATE_TONES, "standing": _standing, "disabled_for": _disabled_for}


def tabs() -> list[tuple[str, str, bool]]:
    """The pages of the section."""
    return [(label, url_for(name), is_within(_TAB_PAGES, name)) for label, name in _TABS]


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    _NO_FILTERS.read()
    found = paged(OLDEST_NUMBER_FIRST, services().webhook_endpoints.list)
    return page("webhooks/index.html", paged=found, counts=services().webhook_events.counts())


@blueprint.get(f"/endpoints/{_NUMBER}")
@needs(KeyScope.READ)
def show(number: int) -> Response:
    view = services().webhook_endpoints.get(number)
    deliveries = services().webhook_events.deliveries(DeliveryFilter(endpoint_id=number), DELIVERIES_SHOWN)
    history = None
    if may(KeyScope.AUDIT):
        of_endpoint = AuditFilter(subject_kind=SUBJECT, subject_id=str(number))
        history = services().audit_log.list(of_endpoint, HISTORY_SHOWN).items
    return page("webhooks/endpoint.html", view=view, deliveries=deliveries.items, history=history)


@blueprint.route("/new", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def new() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        made = services().webhook_endpoints.create(
            values["url"],
            event_types=values["event_types"],
            description=values["description"],
            caller=acting(values),
        )
        number = made.view.endpoint.id
        return _told_once(number, f"Endpoint {number} was created.", made.secret)

    return change(
        _ENDPOINT,
        title="New webhook endpoint",
        action="Create it",
        back=url_for("webhooks.index"),
        review=lambda values: Review(
            f"{_told_of(values['event_types'])} is sent to {values['url']} from now on.", [("Reason", values["reason"])]
        ),
        perform=perform,
        intro="Its secret is shown once, when it is made. The receiver verifies with it what it gets.",
    )


@blueprint.route(f"/endpoints/{_NUMBER}/change", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def change_endpoint(number: int) -> Response:
    endpoint = services().webhook_endpoints.get(number).endpoint

    def perform(values: Mapping[str, Any]) -> Done:
        changes = {name: values[name] for name in ("url", "event_types", "description")}
        services().webhook_endpoints.update(number, changes, acting(values))
        return Done(_page_of(number), f"Endpoint {number} was changed.")

    return change(
        _ENDPOINT,
        title=f"Change endpoint {number}",
        action="Change it",
        back=_page_of(number),
        review=lambda values: Review(
            f"{_told_of(values['event_types'])} is sent to {values['url']} from now on.",
            [("Until now", f"{_told_of(endpoint.event_types)}, to {endpoint.url}"), ("Reason", values["reason"])],
        ),
        perform=perform,
        initial={
            "url": endpoint.url,
            "event_types": list(endpoint.event_types),
            "description": endpoint.description or "",
        },
    )


@blueprint.route(f"/endpoints/{_NUMBER}/enable", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def enable(number: int) -> Response:
    view = services().webhook_endpoints.get(number)
    return _with_reason(
        view.endpoint,
        title=f"Enable endpoint {number}",
        action="Enable it",
        effect=f"{view.endpoint.url} is sent events again, and {_counted(view.health.pending)} that wait.",
        perform=services().webhook_endpoints.enable,
        message=f"Endpoint {number} is enabled. What happened while it was disabled is to be replayed.",
    )


@blueprint.route(f"/endpoints/{_NUMBER}/disable", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def disable(number: int) -> Response:
    endpoint = services().webhook_endpoints.get(number).endpoint
    return _with_reason(
        endpoint,
        title=f"Disable endpoint {number}",
        action="Disable it",
        effect=f"Nothing more is sent to {endpoint.url}. What waits goes on waiting; what happens can be replayed.",
        perform=services().webhook_endpoints.disable,
        message=f"Endpoint {number} is disabled.",
        is_dangerous=True,
    )


@blueprint.route(f"/endpoints/{_NUMBER}/delete", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def delete(number: int) -> Response:
    view = services().webhook_endpoints.get(number)
    return _with_reason(
        view.endpoint,
        title=f"Delete endpoint {number}",
        action="Delete it",
        effect=f"{view.endpoint.url} and its secrets are forgotten, and {_counted(view.health.pending)} given up.",
        perform=services().webhook_endpoints.delete,
        message=f"Endpoint {number} was deleted.",
        is_dangerous=True,
        location=url_for("webhooks.index"),
    )


@blueprint.route(f"/endpoints/{_NUMBER}/test", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def test(number: int) -> Response:
    endpoint = services().webhook_endpoints.get(number).endpoint

    def perform(values: Mapping[str, Any]) -> Done:
        event = services().webhook_endpoints.test(number, acting(values))
        return Done(
            url_for("webhooks.event", event_id=event.id), "A test event is sent. This page tells what is answered."
        )

    return change(
        _REASON,
        title=f"Test endpoint {number}",
        action="Send it",
        back=_page_of(number),
        review=lambda values: Review(
            f"An event of the type {EventType.TEST}, which means nothing, is sent to {endpoint.url}.",
            [("Reason", values["reason"])],
        ),
        perform=perform,
        intro=endpoint.url,
    )


@blueprint.route(f"/endpoints/{_NUMBER}/rotate-secret", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def rotate_secret(number: int) -> Response:
    endpoint = services().webhook_endpoints.get(number).endpoint

    def perform(values: Mapping[str, Any]) -> Done:
        made = services().webhook_endpoints.rotate(
            number, overlap_seconds=values["overlap_seconds"], caller=acting(values)
        )
        return _told_once(number, f"The secret of endpoint {number} was rotated.", made.secret)

    return change(
        _ROTATION,
        title=f"Rotate the secret of endpoint {number}",
        action="Rotate it",
        back=_page_of(number),
        review=lambda values: Review(
            f"A new secret signs from now on. The old one signs beside it for {text.span(values['overlap_seconds'])}.",
            [("Reason", values["reason"])],
            warning=None
            if values["overlap_seconds"]
            else "At once: a receiver that doesn't know the new secret refuses what comes.",
        ),
        perform=perform,
        intro=f"{endpoint.url} The new secret is shown once, when it is made.",
    )


@blueprint.route(f"/endpoints/{_NUMBER}/replay", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def replay_since(number: int) -> Response:
    endpoint = services().webhook_endpoints.get(number).endpoint

    def perform(values: Mapping[str, Any]) -> Done:
        sent = services().webhook_endpoints.replay(number, values["since"], values["until"], acting(values))
        return Done(_page_of(number), f"Events that are sent again: {text.count(sent)}.")

    return change(
        _REPLAY_SINCE,
        title=f"Replay events to endpoint {number}",
        action="Send them",
        back=_page_of(number),
        review=lambda values: Review(
            f"All that {endpoint.url} wants and hasn't got of that time is sent: what was given up, and what happened"
            " while it was disabled.",
            [
                ("From", f"{text.moment(values['since'])} UTC"),
                ("Until", "now" if values["until"] is None else f"{text.moment(values['until'])} UTC"),
                ("Reason", values["reason"]),
            ],
        ),
        perform=perform,
        intro=endpoint.url,
    )


@blueprint.get("/events")
@needs(KeyScope.READ)
def events() -> Response:
    filtered = EVENTS.read()
    found = None
    if filtered.is_valid:
        wanted = EventFilter(**filtered.values)
        found = paged(NEWEST_UUID_FIRST, lambda limit, before: services().webhook_events.list(wanted, limit, before))
    return page("webhooks/events.html", filtered.status, filtered=filtered, paged=found)


@blueprint.get("/events/<uuid:event_id>")
@needs(KeyScope.READ)
def event(event_id: UUID) -> Response:
    view = services().webhook_events.get(event_id)
    is_waiting = any(each.delivery.state is DeliveryState.PENDING for each in view.deliveries)
    return page("webhooks/event.html", view=view, body=write_readable(payload(view.event)), is_waiting=is_waiting)


@blueprint.route("/events/<uuid:event_id>/replay", methods=["GET", "POST"])
@needs(KeyScope.WEBHOOKS)
def replay(event_id: UUID) -> Response:
    view = services().webhook_events.get(event_id)
    back = url_for("webhooks.event", event_id=event_id)

    def perform(values: Mapping[str, Any]) -> Done:
        services().webhook_events.replay(event_id, caller=acting(values))
        return Done(back, "The event is sent again. This page tells what is answered.")

    receivers = ", ".join(str(each.delivery.endpoint_id) for each in view.deliveries) or "none"
    return change(
        _REASON,
        title=f"Replay {view.event.type}",
        action="Send it",
        back=back,
        review=lambda values: Review(
            "It is sent again, under the same id: a receiver that has it already passes it over.",
            [("Event", view.event.type), ("Endpoints", receivers), ("Reason", values["reason"])],
        ),
        perform=perform,
        intro=f"To {text.counted(len(view.deliveries), 'endpoint')}. The event's id is {event_id}.",
    )


def _with_reason(
    endpoint: Endpoint,
    *,
    title: str,
    action: str,
    effect: str,
    perform: Any,
    message: str,
    is_dangerous: bool = False,
    location: str | None = None,
) -> Response:
    """A change of an endpoint whose form has only a reason."""

    def do(values: Mapping[str, Any]) -> Done:
        perform(endpoint.id, acting(values))
        return Done(location or _page_of(endpoint.id), message)

    return change(
        _REASON,
        title=title,
        action=action,
        back=_page_of(endpoint.id),
        review=lambda values: Review(effect, [("Reason", values["reason"])]),
        perform=do,
        intro=effect,
        is_dangerous=is_dangerous,
    )


def _told_once(number: int, message: str, secret: str) -> Done:
    """The page that shows a new secret, which no session stores. Reloading it leads to the endpoint's page."""
    location = _page_of(number)
    answer = page("webhooks/secret.html", number=number, message=message, secret=secret, location=location)
    return Done(location, f"{message} Its secret was shown once; if it got lost, rotate it.", answer)


def _page_of(number: int) -> str:
    return url_for("webhooks.show", number=number)


def _standing(endpoint: Endpoint) -> tuple[str, str]:
    """The health of an endpoint, as a word and its tone."""
    if endpoint.state is not EndpointState.ENABLED:
        return "disabled", "bad"
    return ("failing", "warn") if endpoint.failing_since is not None else ("enabled", "good")


def _disabled_for(endpoint: Endpoint) -> str:
    return "-" if endpoint.disabled_reason is None else _DISABLED_FOR[endpoint.disabled_reason]


def _told_of(event_types: Any) -> str:
    return ", ".join(event_types) or "Everything"


def _counted(pending: int) -> str:
    return "1 delivery" if pending == 1 else f"{text.count(pending)} deliveries"
