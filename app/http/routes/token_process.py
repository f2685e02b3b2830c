"""What service servers call: start, end, end/batch, end/reverse, estimate, cancel and hold/extend."""

from __future__ import annotations

from dataclasses import replace

from flask import Blueprint, Response, g, request

from app.billing.holds import ExtendRequest
from app.domain.corrections import OwnReversal
from app.domain.errors import (
    AlreadyEnded,
    FeatureNotAvailable,
    HoldNotFound,
    IdempotencyConflict,
    ModelNotPriced,
    ProcessOfAnotherUser,
    ReversalNotAllowed,
    TooManyHolds,
    WalletBusy,
    WalletNotFound,
)
from app.domain.wallets import Access
from app.http import calls
from app.http.auth import caller_of_call
from app.http.headers import (
    ACTOR_HEADER,
    IDEMPOTENCY_HEADER,
    REPLAYED_HEADER,
    header_text,
)
from app.http.json import read_object, respond
from app.http.openapi.describe import answers
from app.http.routes import container, success
from app.http.routes.corrections import CORRECTION_ERRORS, corrected
from app.http.schemas.token_process import (
    BatchSchema,
    CancelSchema,
    EndSchema,
    EstimateSchema,
    ExtendSchema,
    OwnReversalSchema,
    StartSchema,
)
from app.wire.answers import CorrectionAnswer
from app.wire.prices import EstimateAnswer, estimate_answer
from app.wire.token_process import (
    BatchAnswer,
    CancelledAnswer,
    EndedAnswer,
    ExtendedHoldAnswer,
    StartedAnswer,
    cancelled_answer,
    extended_hold_answer,
)

blueprint = Blueprint("token_process", __name__, url_prefix="/api/token-process")

_estimate = EstimateSchema()
_cancel = CancelSchema()
_extend = ExtendSchema()
_reversal = OwnReversalSchema()


@blueprint.post("/start")
@answers(
    StartedAnswer,
    body=StartSchema(),
    takes_key=True,
    refuses=(FeatureNotAvailable, ModelNotPriced, WalletNotFound, IdempotencyConflict, TooManyHolds),
)
def start() -> Response:
    """May this user run this feature now? Optionally reserves tokens for the run, in a hold."""
    return _answered(calls.start(container(), _call()))


@blueprint.post("/end")
@answers(
    EndedAnswer,
    body=EndSchema(),
    takes_key=True,
    takes_actor=True,
    refuses=(FeatureNotAvailable, WalletNotFound, IdempotencyConflict, ProcessOfAnotherUser, WalletBusy),
)
def end() -> Response:
    """The run has ended: bill what it used. `200` guarantees that it is billed exactly once, whatever fails next.

    An end is never refused because of what happened since start. Repeatable by `Idempotency-Key` or by `process_id`;
    with neither, each call is a run of its own.
    """
    return _answered(calls.end(container(), _call()))


@blueprint.post("/end/batch")
@answers(BatchAnswer, body=BatchSchema(), takes_actor=True, bytes_max=calls.BATCH_BYTES_MAX)
def end_batch() -> Response:
    """Many ends at once, each answered as if it had come alone: one bad end never fails its neighbours."""
    request.max_content_length = calls.BATCH_BYTES_MAX
    return _answered(calls.end_batch(container(), _call()))


@blueprint.post("/end/reverse")
@answers(
    CorrectionAnswer,
    body=_reversal,
    takes_actor=True,
    is_repeatable=True,
    refuses=(ReversalNotAllowed, *CORRECTION_ERRORS),
)
def reverse_own_run() -> Response:
    """Take back a run of one's own, within the feature's `reversal_seconds`.

    The run is named by `process_id`, `idempotency_key` or both.
    """
    asked: OwnReversal = _reversal.load(read_object())
    asked = replace(asked, caller=caller_of_call())
    return corrected(container().corrections.reverse_own(asked), "Token process reversed")


@blueprint.post("/estimate")
@answers(EstimateAnswer, body=_estimate, refuses=(FeatureNotAvailable, WalletNotFound, ProcessOfAnotherUser))
def estimate() -> Response:
    """What an end would answer now. Nothing is recorded and no hold given back."""
    estimated = container().estimate.estimate(_estimate.load(read_object()))
    return success("Token process estimated", estimate_answer(estimated))


@blueprint.post("/cancel")
@answers(CancelledAnswer, body=_cancel, refuses=(WalletNotFound, AlreadyEnded, ProcessOfAnotherUser))
def cancel() -> Response:
    """The feature failed: give its hold back. Repeating the call does nothing more."""
    body = _cancel.load(read_object())
    spendable_micros = container().holds.cancel(body["user_id"], body["process_id"])
    return success("Token process cancelled", cancelled_answer(**body, spendable_micros=spendable_micros))


@blueprint.post("/hold/extend")
@answers(
    ExtendedHoldAnswer,
    body=_extend,
    takes_key=True,
    refuses=(HoldNotFound, WalletNotFound, IdempotencyConflict, ProcessOfAnotherUser),
)
def extend_hold() -> Response:
    """The run takes longer or costs more: add tokens to its open hold, extend its life, or both."""
    asked: ExtendRequest
    asked, key = calls.with_key(read_object(), header_text(IDEMPOTENCY_HEADER), IDEMPOTENCY_HEADER, _extend.load)
    answer = container().holds.extend(replace(asked, idempotency_key=key))
    response = success(
        "Hold extended" if answer.access is Access.GRANTED else "Hold not extended",
        extended_hold_answer(asked.user_id, asked.process_id, answer),
    )
    if answer.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response


def _call() -> calls.Call:
    key, person = header_text(IDEMPOTENCY_HEADER), header_text(ACTOR_HEADER)
    return calls.Call(read_object(), g.request_id, g.caller.name, key, person)


def _answered(answer: calls.Answer) -> Response:
    response = respond(answer.body)
    if answer.is_replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response
