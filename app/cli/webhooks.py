"""Commands on webhooks: endpoints, and the events that are sent to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, echo_table, page_size, with_services
from app.domain.keys import Caller
from app.domain.pages import NEWEST
from app.domain.webhook_secrets import checked_secret
from app.domain.webhooks import SUBSCRIBABLE, DeliveryState, EventType
from app.stores.postgres.webhooks.deliveries import DeliveryFilter
from app.stores.postgres.webhooks.events import EventFilter
from app.webhooks.endpoints import OVERLAP_SECONDS_DEFAULT, OVERLAP_SECONDS_MAX, EndpointView, NewSecret
from app.webhooks.events import NEWEST_EVENT, EventView
from app.wire.webhooks import WebhookEndpointAnswer, delivery_answer, endpoint_answer, event_answer, new_secret_answer

SECRET = support.Checked("secret", checked_secret)

endpoint_id = click.argument("endpoint_id", type=click.IntRange(1, NEWEST))
event_id = click.argument("event_id", type=click.UUID)
event_types = click.option(
    "--event",
    "event_types",
    type=click.Choice([kind.value for kind in SUBSCRIBABLE]),
    multiple=True,
    help="An event type to send; may be repeated.  [all]",
)
own_secret = click.option("--secret", type=SECRET, help="Your own secret, in the form whsec_...  [a new secret]")
of_state = click.option("--state", type=click.Choice([state.value for state in DeliveryState]))
of_endpoint = click.option("--endpoint", "endpoint_id", type=click.IntRange(1, NEWEST))
of_type = click.option("--type", "type", type=click.Choice([kind.value for kind in EventType]))
of_user = click.option("--user", "user_id", type=support.ID, help="Only about this user.")


@click.group()
def webhooks() -> None:
    """Webhooks: notify servers when a balance is low, a run can't be deducted, a top-up comes in."""


@webhooks.group()
def endpoints() -> None:
    """Where events are sent."""


@endpoints.command("create")
@click.argument("url")
@event_types
@click.option("--description", type=support.NAME)
@own_secret
@support.by
@as_json
@with_services
def create(services: Container, /, *, as_json: bool, **asked: Any) -> None:
    """Send events to a URL from now on; prints the secret that signs them, only this once.

    \b
    flask webhooks endpoints create https://shop.example/tokentill --event wallet.low_balance --event topup.requested
    """
    _echo_made(services.webhook_endpoints.create(**asked), as_json=as_json)


@endpoints.command("list")
@page_size
@click.option("--after", type=click.IntRange(0, NEWEST), default=0, help="Start after this one.")
@as_json
@with_services
def list_endpoints(services: Container, limit: int, after: int, as_json: bool) -> None:
    """List endpoints and their condition.

    \b
    flask webhooks endpoints list
    """
    columns = ("id", "url", "state", "disabled_reason", "failing_since", "pending", "failed", "last_delivered_at")
    page = services.webhook_endpoints.list(limit, after)
    echo_page(page, endpoint_answer, columns, as_json=as_json, more="--after")


@endpoints.command("show")
@endpoint_id
@as_json
@with_services
def show(services: Container, endpoint_id: int, as_json: bool) -> None:
    """Print an endpoint.

    \b
    flask webhooks endpoints show 1
    """
    _echo_endpoint(services.webhook_endpoints.get(endpoint_id), as_json=as_json)


@endpoints.command("update")
@endpoint_id
@click.option("--url")
@event_types
@click.option("--all-events", is_flag=True, help="Send all event types.")
@click.option("--description", type=support.NAME)
@support.by
@as_json
@with_services
def update(
    services: Container,
    /,
    *,
    endpoint_id: int,
    url: str | None,
    event_types: tuple[str, ...],
    all_events: bool,
    description: str | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Change an endpoint's URL, description or event types.

    \b
    flask webhooks endpoints update 1 --event wallet.depleted
    """
    given = {"url": url, "description": description, "event_types": event_types or None}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if all_events:
        changes["event_types"] = ()
    changed = services.webhook_endpoints.update(endpoint_id, changes, caller)
    _echo_endpoint(changed, as_json=as_json)


@endpoints.command("enable")
@endpoint_id
@support.by
@as_json
@with_services
def enable(services: Container, endpoint_id: int, caller: Caller, as_json: bool) -> None:
    """Enable a disabled endpoint, and send its pending deliveries.

    \b
    flask webhooks endpoints enable 1
    """
    _echo_endpoint(services.webhook_endpoints.enable(endpoint_id, caller), as_json=as_json)


@endpoints.command("disable")
@endpoint_id
@support.by
@as_json
@with_services
def disable(services: Container, endpoint_id: int, caller: Caller, as_json: bool) -> None:
    """Disable an endpoint: nothing more is sent to it.

    \b
    flask webhooks endpoints disable 1
    """
    _echo_endpoint(services.webhook_endpoints.disable(endpoint_id, caller), as_json=as_json)


@endpoints.command("delete")
@endpoint_id
@support.by
@with_services
def delete(services: Container, endpoint_id: int, caller: Caller) -> None:
    """Delete an endpoint and its secrets; its pending deliveries are given up.

    \b
    flask webhooks endpoints delete 1
    """
    services.webhook_endpoints.delete(endpoint_id, caller)
    click.echo(f"Endpoint {endpoint_id} is deleted.")


@endpoints.command("rotate-secret")
@endpoint_id
@own_secret
@click.option(
    "--overlap-seconds",
    type=click.IntRange(0, OVERLAP_SECONDS_MAX),
    default=OVERLAP_SECONDS_DEFAULT,
    show_default=True,
    help="How long the earlier secrets still sign as well.",
)
@support.by
@as_json
@with_services
def rotate_secret(services: Container, /, *, endpoint_id: int, as_json: bool, **asked: Any) -> None:
    """Make a new secret and print it, only this once.

    \b
    flask webhooks endpoints rotate-secret 1 --overlap-seconds 3600
    """
    _echo_made(services.webhook_endpoints.rotate(endpoint_id, **asked), as_json=as_json)


@endpoints.command("test")
@endpoint_id
@support.by
@as_json
@with_services
def test(services: Container, endpoint_id: int, caller: Caller, as_json: bool) -> None:
    """Send a test event to an endpoint.

    \b
    flask webhooks endpoints test 1
    """
    event = services.webhook_endpoints.test(endpoint_id, caller)
    _echo_event(services.webhook_events.get(event.id), as_json=as_json)


@endpoints.command("replay")
@endpoint_id
@click.option("--from", "since", type=support.MOMENT_OR_DAY, required=True, help="Events at or after this time.")
@click.option("--to", "until", type=support.MOMENT_OR_DAY, help="Events before this time.  [now]")
@support.by
@with_services
def replay_since(
    services: Container, endpoint_id: int, since: datetime, until: datetime | None, caller: Caller
) -> None:
    """Send an endpoint all events of a range of time that it wants and didn't get.

    \b
    flask webhooks endpoints replay 1 --from 2030-01-01
    """
    sent = services.webhook_endpoints.replay(endpoint_id, since, until, caller)
    click.echo(f"Events that are sent again: {sent}")


@webhooks.group()
def events() -> None:
    """Events, and their deliveries to endpoints."""


@events.command("list")
@of_type
@of_user
@of_endpoint
@of_state
@page_size
@click.option("--before", type=click.UUID, help="Start after this one (continue with older ones).")
@as_json
@with_services
def list_events(
    services: Container, /, *, state: str | None, limit: int, before: UUID | None, as_json: bool, **filters: Any
) -> None:
    """List events, newest first.

    \b
    flask webhooks events list --type wallet.depleted --state failed
    """
    matching = EventFilter(**filters, state=None if state is None else DeliveryState(state))
    page = services.webhook_events.list(matching, limit, NEWEST_EVENT if before is None else str(before))
    echo_page(page, event_answer, ("id", "occurred_at", "type", "user_id"), as_json=as_json, more="--before")


@events.command("show")
@event_id
@as_json
@with_services
def show_event(services: Container, event_id: UUID, as_json: bool) -> None:
    """Print an event and each attempt to deliver it.

    \b
    flask webhooks events show 01a20591-939c-7411-9602-9fa0c3c61c49
    """
    _echo_event(services.webhook_events.get(event_id), as_json=as_json)


@events.command("replay")
@event_id
@of_endpoint
@support.by
@as_json
@with_services
def replay(services: Container, event_id: UUID, endpoint_id: int | None, caller: Caller, as_json: bool) -> None:
    """Deliver an event again, with the same id: to all endpoints that it was for, or to one.

    \b
    flask webhooks events replay 01a20591-939c-7411-9602-9fa0c3c61c49
    """
    _echo_event(services.webhook_events.replay(event_id, endpoint_id, caller), as_json=as_json)


@webhooks.command("deliveries")
@of_endpoint
@of_state
@of_type
@of_user
@page_size
@support.before_number
@as_json
@with_services
def deliveries(
    services: Container, /, *, state: str | None, limit: int, before: int | None, as_json: bool, **filters: Any
) -> None:
    """List deliveries, newest first.

    \b
    flask webhooks deliveries --endpoint 1 --state failed
    """
    matching = DeliveryFilter(**filters, state=None if state is None else DeliveryState(state))
    columns = (
        "id",
        "created_at",
        "event_id",
        "type",
        "endpoint_id",
        "state",
        "attempts",
        "next_attempt_at",
        "last_error",
    )
    page = services.webhook_events.deliveries(matching, limit, before or NEWEST)
    echo_page(page, delivery_answer, columns, as_json=as_json, more="--before")


def _echo_made(made: NewSecret, *, as_json: bool) -> None:
    _echo(new_secret_answer(made), as_json=as_json)
    if not as_json:
        click.echo("The secret isn't shown again.", err=True)


def _echo_endpoint(view: EndpointView, *, as_json: bool) -> None:
    _echo(endpoint_answer(view), as_json=as_json)


def _echo(answer: WebhookEndpointAnswer, *, as_json: bool) -> None:
    if as_json:
        echo_object({**answer}, as_json=True)
        return
    # Secrets are never shown, only how many of them are signing.
    echo_object({**answer, "secrets": len(answer["secrets"])}, as_json=False)


def _echo_event(view: EventView, *, as_json: bool) -> None:
    answer = event_answer(view)
    if as_json:
        echo_object({**answer}, as_json=True)
        return
    echo_object({name: value for name, value in answer.items() if name != "deliveries"}, as_json=False)
    for delivery in answer["deliveries"]:
        click.echo(f"\nto endpoint {delivery['endpoint_id']}: {delivery['state']}")
        if delivery["answers"]:
            echo_table(("at", "status", "error", "seconds", "excerpt"), [{**one} for one in delivery["answers"]])
