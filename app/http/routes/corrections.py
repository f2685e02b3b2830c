"""What operators call to correct what a run was billed. Part of the admin API."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response

from app.billing.corrections import Corrected
from app.domain.corrections import CorrectionKind, CorrectionRequest
from app.http.routes import asked_by_operator, container, repeatable, success
from app.http.schemas import RequestSchema
from app.http.schemas.corrections import AmendmentSchema, ReversalSchema
from app.wire.answers import correction_answer

blueprint = Blueprint("corrections", __name__, url_prefix="/api/admin/ends")

_reversal = ReversalSchema()
_amendment = AmendmentSchema()


@blueprint.post("/<uuid:end_id>/reversals")
def reverse(end_id: UUID) -> Response:
    return _correct(end_id, CorrectionKind.REVERSAL, _reversal, "End reversed")


@blueprint.post("/<uuid:end_id>/amendments")
def amend(end_id: UUID) -> Response:
    return _correct(end_id, CorrectionKind.AMENDMENT, _amendment, "End amended")


@blueprint.get("/<uuid:end_id>/corrections")
def list_corrections(end_id: UUID) -> Response:
    """All of them: an end has few."""
    found = container().corrections.of_end(end_id)
    return success("Corrections", {"items": [correction_answer(correction) for correction in found]})


def corrected(outcome: Corrected, message: str) -> Response:
    """A correction as it was first answered."""
    return repeatable(message, correction_answer(outcome), replayed=outcome.replayed)


def _correct(end_id: UUID, kind: CorrectionKind, schema: RequestSchema, message: str) -> Response:
    request = CorrectionRequest(end_id=end_id, kind=kind, **asked_by_operator(schema))
    return corrected(container().corrections.correct(request), message)
