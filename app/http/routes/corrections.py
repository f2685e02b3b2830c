"""What operators call to correct what a run was billed. Part of the admin API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g
from marshmallow import ValidationError

from app.billing.corrections import Corrected
from app.domain.corrections import CorrectionKind, CorrectionRequest
from app.http.errors import messages_of
from app.http.headers import ADMIN_ACTOR, REPLAYED_HEADER, actor_of_call
from app.http.json import read_object
from app.http.routes import container, success
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
    response = success(message, correction_answer(outcome), 200 if outcome.replayed else 201)
    if outcome.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response


def _correct(end_id: UUID, kind: CorrectionKind, schema: RequestSchema, message: str) -> Response:
    errors: dict[str, Any] = {}
    body: dict[str, Any] = {}
    actor = ""
    try:
        body = schema.load(read_object())
    except ValidationError as error:
        errors |= messages_of(error)
    try:
        actor = actor_of_call(ADMIN_ACTOR)
    except ValidationError as error:
        errors |= messages_of(error)
    if errors:
        raise ValidationError(errors)
    request = CorrectionRequest(end_id=end_id, kind=kind, actor=actor, request_id=g.request_id, **body)
    return corrected(container().corrections.correct(request), message)
