"""What operators call to have money and copies compared. Part of the admin API."""

from __future__ import annotations

from flask import Blueprint, Response, request, url_for

from app.domain.errors import NotFound
from app.domain.pages import NEWEST
from app.http.json import read_object
from app.http.routes import container, success
from app.http.schemas.admin import ReconciliationSchema
from app.wire.answers import reconciliation_answer

blueprint = Blueprint("operations", __name__, url_prefix="/api/admin")

_reconciliation = ReconciliationSchema()


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
