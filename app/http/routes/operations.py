"""What operators call: failed ends and reconciliations. Part of the admin API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g, request, url_for
from marshmallow import ValidationError

from app.domain.ends import EndState
from app.domain.errors import NotFound
from app.domain.inputs import ID_LENGTH_MAX
from app.domain.pages import NEWEST
from app.http.errors import messages_of
from app.http.headers import ADMIN_ACTOR, REPLAYED_HEADER, actor_of_call
from app.http.json import read_object
from app.http.paging import oldest_first
from app.http.query import takes
from app.http.routes import container, success
from app.http.schemas.admin import ReconciliationSchema, WriteOffSchema
from app.http.schemas.fields import check_text
from app.stores.postgres.failed_ends import Filter
from app.wire.answers import failed_end_answer, reconciliation_answer, transaction_answer

blueprint = Blueprint("operations", __name__, url_prefix="/api/admin")

FAILED_STATES = (EndState.RETRYING, EndState.DEAD)

_write_off = WriteOffSchema()
_reconciliation = ReconciliationSchema()


@blueprint.get("/failed-ends")
@takes("limit", "cursor", "state", "user_id")
def list_failed_ends() -> Response:
    matching = _filter()
    failed_ends = container().failed_ends
    return success(
        "Failed ends",
        oldest_first(lambda limit, after_id: failed_ends.list(matching, limit, after_id), failed_end_answer),
    )


@blueprint.post("/failed-ends/<uuid:end_id>/replay")
def replay_failed_end(end_id: UUID) -> Response:
    return success("Failed end is tried again", failed_end_answer(container().failed_ends.replay(end_id)))


@blueprint.post("/failed-ends/<uuid:end_id>/write-off")
def write_off_failed_end(end_id: UUID) -> Response:
    body = read_object()
    errors: dict[str, Any] = dict(_write_off.validate(body))
    actor = ""
    try:
        actor = actor_of_call(ADMIN_ACTOR)
    except ValidationError as error:
        errors |= messages_of(error)
    if errors:
        raise ValidationError(errors)
    written_off = container().failed_ends.write_off(end_id, body["reason"], actor, g.request_id)
    response = success(
        "Failed end written off", transaction_answer(written_off.entry), 200 if written_off.replayed else 201
    )
    if written_off.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response


@blueprint.post("/reconciliations")
def reconcile() -> Response:
    """A worker runs it; what it finds is to be asked for."""
    body = _reconciliation.load(read_object() if request.get_data() else {})
    requested = container().reconciliation.request(is_full=body["is_full"])
    response = success("Reconciliation requested", reconciliation_answer(requested), 202)
    response.headers["Location"] = url_for("operations.show_reconciliation", number=requested.id)
    return response


@blueprint.get("/reconciliations/<int:number>")
def show_reconciliation(number: int) -> Response:
    if number > NEWEST:
        raise NotFound("Reconciliation not found")
    return success("Reconciliation", reconciliation_answer(container().reconciliation.get(number)))


def _filter() -> Filter:
    errors: dict[str, Any] = {}
    state, user_id = request.args.get("state"), request.args.get("user_id")
    if state is not None and state not in FAILED_STATES:
        errors["state"] = [f"Must be {' or '.join(FAILED_STATES)}."]
    if user_id is not None:
        try:
            check_text(user_id, ID_LENGTH_MAX)
        except ValidationError as error:
            errors["user_id"] = error.messages
    if errors:
        raise ValidationError(errors)
    return Filter(state=state, user_id=user_id)
