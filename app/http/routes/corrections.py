"""What operators call to correct what a run was billed. Part of the admin API."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response

from app.billing.corrections import Corrected
from app.domain.corrections import CorrectionKind, CorrectionRequest
from app.domain.errors import (
    AlreadyWrittenOff,
    BalanceOutOfRange,
    CorrectionOfCorrection,
    ExceedsOriginal,
    IdempotencyConflict,
    NotFound,
    WalletBusy,
    WalletNotFound,
)
from app.http.openapi.describe import ItemsOf, answers
from app.http.routes import asked_by_operator, container, repeatable, success
from app.http.schemas import RequestSchema
from app.http.schemas.corrections import AmendmentSchema, ReversalSchema
from app.wire.answers import CorrectionAnswer, correction_answer

blueprint = Blueprint("corrections", __name__, url_prefix="/api/admin/ends")

# The errors of correcting a run.
CORRECTION_ERRORS = (
    NotFound,
    WalletNotFound,
    IdempotencyConflict,
    ExceedsOriginal,
    CorrectionOfCorrection,
    AlreadyWrittenOff,
    BalanceOutOfRange,
    WalletBusy,
)

_reversal = ReversalSchema()
_amendment = AmendmentSchema()


@blueprint.post("/<uuid:end_id>/reversals")
@answers(CorrectionAnswer, body=_reversal, is_repeatable=True, refuses=CORRECTION_ERRORS)
def reverse_run(end_id: UUID) -> Response:
    """Reverses a run, as if it had used nothing. Never gives back more than was charged for it."""
    return _correct(end_id, CorrectionKind.REVERSAL, _reversal, "End reversed")


@blueprint.post("/<uuid:end_id>/amendments")
@answers(CorrectionAnswer, body=_amendment, is_repeatable=True, refuses=CORRECTION_ERRORS)
def amend_run(end_id: UUID) -> Response:
    """Corrects what a run used. Priced as when the run was accepted."""
    return _correct(end_id, CorrectionKind.AMENDMENT, _amendment, "End amended")


@blueprint.get("/<uuid:end_id>/corrections")
@answers(ItemsOf(CorrectionAnswer))
def list_corrections(end_id: UUID) -> Response:
    """All corrections of an end, oldest first."""
    found = container().corrections.of_end(end_id)
    return success("Corrections", {"items": [correction_answer(correction) for correction in found]})


def corrected(outcome: Corrected, message: str) -> Response:
    """The answer to a correction, the same each time that it is repeated."""
    return repeatable(message, correction_answer(outcome), replayed=outcome.replayed)


def _correct(end_id: UUID, kind: CorrectionKind, schema: RequestSchema, message: str) -> Response:
    request = CorrectionRequest(end_id=end_id, kind=kind, **asked_by_operator(schema))
    return corrected(container().corrections.correct(request), message)
