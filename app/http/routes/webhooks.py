"""What operators call about webhooks: endpoints, events, deliveries. Part of the admin API."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response, request

from app.domain.errors import Invalid, NotFound, NotReady
from app.domain.pages import NEWEST
from app.http import filters
from app.http.auth import caller_of_call
from app.http.json import read_object
from app.http.openapi.describe import PageOf, answers
from app.http.paging import Listing, by_number, listed, newest_first
from app.http.query import PAGE, takes, takes_page
from app.http.routes import asked_by_operator, container, success
from app.http.schemas.webhooks import (
    SecretRotationSchema,
    WebhookEndpointSchema,
    WebhookReplaySchema,
    WebhookReplaySinceSchema,
)
from app.wire import columns
from app.wire.cursors import NEWEST_UUID_FIRST
from app.wire.webhooks import (
    DeletedWebhookEndpointAnswer,
    NewWebhookSecretAnswer,
    WebhookDeliveryAnswer,
    WebhookDeliveryViewAnswer,
    WebhookEndpointAnswer,
    WebhookEventAnswer,
    WebhookReplayAnswer,
    delivery_answer,
    delivery_view_answer,
    endpoint_answer,
    event_answer,
    new_secret_answer,
)

blueprint = Blueprint("webhooks", __name__, url_prefix="/api/admin")

_endpoint = WebhookEndpointSchema()
_endpoint_change = WebhookEndpointSchema(exclude=("secret",), partial=True)
_rotation = SecretRotationSchema()
_replay_since = WebhookReplaySinceSchema()
_replay = WebhookReplaySchema()


@blueprint.post("/webhook-endpoints")
@answers(NewWebhookSecretAnswer, status=201, body=_endpoint, refuses=(Invalid,))
def create_webhook_endpoint() -> Response:
    """Adds an endpoint, to which events are sent from now on. Only this answer shows its secret."""
    made = container().webhook_endpoints.create(**asked_by_operator(_endpoint))
    return success("Webhook endpoint created", new_secret_answer(made), 201)


@blueprint.get("/webhook-endpoints")
@takes_page
@answers(PageOf(WebhookEndpointAnswer))
def list_webhook_endpoints() -> Response:
    return listed(
        "Webhook endpoints",
        by_number(container().webhook_endpoints.list, endpoint_answer),
        columns.WEBHOOK_ENDPOINTS,
    )


@blueprint.get("/webhook-endpoints/<int:number>")
@answers(WebhookEndpointAnswer)
def show_webhook_endpoint(number: int) -> Response:
    return success("Webhook endpoint", endpoint_answer(container().webhook_endpoints.get(_known(number))))


@blueprint.patch("/webhook-endpoints/<int:number>")
@answers(WebhookEndpointAnswer, body=_endpoint_change, refuses=(Invalid,))
def update_webhook_endpoint(number: int) -> Response:
    changes = _endpoint_change.load(read_object())
    changed = container().webhook_endpoints.update(_known(number), changes, caller_of_call())
    return success("Webhook endpoint updated", endpoint_answer(changed))


@blueprint.delete("/webhook-endpoints/<int:number>")
@answers(DeletedWebhookEndpointAnswer)
def delete_webhook_endpoint(number: int) -> Response:
    """Deletes an endpoint and its secrets. Its pending deliveries are given up."""
    container().webhook_endpoints.delete(_known(number), caller_of_call())
    return success("Webhook endpoint deleted", {"id": number})


@blueprint.post("/webhook-endpoints/<int:number>/enable")
@answers(WebhookEndpointAnswer)
def enable_webhook_endpoint(number: int) -> Response:
    """Enables an endpoint and sends its pending deliveries. Replay the events from while it was disabled."""
    enabled = container().webhook_endpoints.enable(_known(number), caller_of_call())
    return success("Webhook endpoint enabled", endpoint_answer(enabled))


@blueprint.post("/webhook-endpoints/<int:number>/disable")
@answers(WebhookEndpointAnswer)
def disable_webhook_endpoint(number: int) -> Response:
    disabled = container().webhook_endpoints.disable(_known(number), caller_of_call())
    return success("Webhook endpoint disabled", endpoint_answer(disabled))


@blueprint.post("/webhook-endpoints/<int:number>/rotate-secret")
@answers(NewWebhookSecretAnswer, body=_rotation, refuses=(Invalid,))
def rotate_webhook_secret(number: int) -> Response:
    """Makes a new secret; only this answer shows it. The earlier secrets also sign until the overlap ends."""
    made = container().webhook_endpoints.rotate(_known(number), **asked_by_operator(_rotation))
    return success("Secret rotated", new_secret_answer(made))


@blueprint.post("/webhook-endpoints/<int:number>/test")
@answers(WebhookEventAnswer, status=202, refuses=(NotReady,))
def test_webhook_endpoint(number: int) -> Response:
    """Sends an event of the type `webhook.test`. Fetch the event to see the endpoint's answer."""
    service = container()
    event = service.webhook_endpoints.test(_known(number), caller_of_call())
    return success("Test event is sent", event_answer(service.webhook_events.get(event.id)), 202)


@blueprint.post("/webhook-endpoints/<int:number>/replay")
@answers(WebhookReplayAnswer, status=202, body=_replay_since)
def replay_to_webhook_endpoint(number: int) -> Response:
    """Sends all events of a range of time that it wants and didn't get, also those from while it was disabled."""
    asked = asked_by_operator(_replay_since)
    return success(
        "Events are sent again", {"events": container().webhook_endpoints.replay(_known(number), **asked)}, 202
    )


@blueprint.get("/webhook-events")
@takes(*PAGE, *filters.WEBHOOK_EVENTS)
@answers(PageOf(WebhookEventAnswer))
def list_webhook_events() -> Response:
    matching, events = filters.webhook_events(), container().webhook_events
    found = Listing(NEWEST_UUID_FIRST, lambda limit, before: events.list(matching, limit, before), event_answer)
    return listed("Webhook events", found, columns.WEBHOOK_EVENTS)


@blueprint.get("/webhook-events/<uuid:event_id>")
@answers(WebhookEventAnswer)
def show_webhook_event(event_id: UUID) -> Response:
    """An event, with each attempt to deliver it and the answers."""
    return success("Webhook event", event_answer(container().webhook_events.get(event_id)))


@blueprint.post("/webhook-events/<uuid:event_id>/replay")
@answers(WebhookEventAnswer, status=202, body=_replay, body_is_optional=True)
def replay_webhook_event(event_id: UUID) -> Response:
    """Delivers an event again with the same id, to all endpoints that it was for or to one."""
    asked = _replay.load(read_object() if request.get_data() else {})
    replayed = container().webhook_events.replay(event_id, asked["endpoint_id"], caller_of_call())
    return success("Webhook event is sent again", event_answer(replayed), 202)


@blueprint.get("/webhook-deliveries")
@takes(*PAGE, *filters.WEBHOOK_DELIVERIES)
@answers(PageOf(WebhookDeliveryAnswer))
def list_webhook_deliveries() -> Response:
    matching, events = filters.webhook_deliveries(), container().webhook_events
    found = newest_first(lambda limit, before: events.deliveries(matching, limit, before), delivery_answer)
    return listed("Webhook deliveries", found, columns.WEBHOOK_DELIVERIES)


@blueprint.get("/webhook-deliveries/<int:number>")
@answers(WebhookDeliveryViewAnswer)
def show_webhook_delivery(number: int) -> Response:
    """A delivery, with each attempt and its answer."""
    if number > NEWEST:
        raise NotFound("Delivery not found")
    return success("Webhook delivery", delivery_view_answer(container().webhook_events.delivery(number)))


def _known(number: int) -> int:
    if number > NEWEST:
        raise NotFound("Webhook endpoint not found")
    return number
