"""What operators call to have money and copies compared. Part of the admin API."""

from __future__ import annotations

from flask import Blueprint, Response, request, url_for

from app.domain.errors import AlreadyExists, NotFound
from app.domain.pages import NEWEST
from app.http.auth import caller_of_call
from app.http.json import read_object
from app.http.openapi.describe import answers
from app.http.routes import container, success
from app.http.schemas.admin import ReconciliationSchema
from app.wire.answers import ReconciliationAnswer, reconciliation_answer

blueprint = Blueprint("operations", __name__, url_prefix="/api/admin")

_reconciliation = ReconciliationSchema()


@blueprint.post("/reconciliations")
@answers(
    ReconciliationAnswer,
    status=202,
    body=_reconciliation,
    body_is_optional=True,
    has_location=True,
    refuses=(AlreadyExists,),
)
def request_reconciliation() -> Response:
    """Compares every wallet with its ledger and its cached copy. A worker does it; fetch the result with `GET`."""
    body = _reconciliation.load(read_object() if request.get_data() else {})
    requested = container().reconciliation.request(is_full=body["is_full"], caller=caller_of_call())
    response = success("Reconciliation requested", reconciliation_answer(requested), 202)
    response.headers["Location"] = url_for("operations.show_reconciliation", number=requested.id)
    return response


@blueprint.get("/reconciliations/<int:number>")
@answers(ReconciliationAnswer)
def show_reconciliation(number: int) -> Response:
    if number > NEWEST:
        raise NotFound("Reconciliation not found")
    return success("Reconciliation", reconciliation_answer(container().reconciliation.get(number)))
