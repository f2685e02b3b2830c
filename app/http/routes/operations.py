"""What operators call: failed ends and reconciliations. Part of the admin API."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response, request, url_for

from app.domain.errors import NotFound
from app.domain.pages import NEWEST
from app.http import filters
from app.http.json import read_object
from app.http.paging import listed, oldest_first
from app.http.query import PAGE, takes
from app.http.routes import asked_by_operator, container, repeatable, success
from app.http.schemas.admin import ReconciliationSchema, WriteOffSchema
from app.wire import columns
from app.wire.answers import failed_end_answer, reconciliation_answer, transaction_answer

blueprint = Blueprint("operations", __name__, url_prefix="/api/admin")

_write_off = WriteOffSchema()
_reconciliation = ReconciliationSchema()


@blueprint.get("/failed-ends")
@takes(*PAGE, *filters.FAILED_ENDS)
def list_failed_ends() -> Response:
    matching = filters.failed_ends()
    failed_ends = container().failed_ends
    return listed(
        "Failed ends",
        oldest_first(lambda limit, after_id: failed_ends.list(matching, limit, after_id), failed_end_answer),
        columns.FAILED_ENDS,
    )


@blueprint.post("/failed-ends/<uuid:end_id>/replay")
def replay_failed_end(end_id: UUID) -> Response:
    return success("Failed end is tried again", failed_end_answer(container().failed_ends.replay(end_id)))


@blueprint.post("/failed-ends/<uuid:end_id>/write-off")
def write_off_failed_end(end_id: UUID) -> Response:
    written_off = container().failed_ends.write_off(end_id, **asked_by_operator(_write_off))
    return repeatable("Failed end written off", transaction_answer(written_off.entry), replayed=written_off.replayed)


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
