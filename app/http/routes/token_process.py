"""What service servers call: start, end, end/batch, end/reverse, estimate, cancel and hold/extend."""

from __future__ import annotations

from dataclasses import replace

from flask import Blueprint, Response, g, request

from app.billing.holds import ExtendRequest
from app.domain.amounts import token_number
from app.domain.corrections import OwnReversal
from app.domain.moments import moment_text
from app.domain.wallets import Access
from app.http import calls
from app.http.headers import (
    ACTOR_HEADER,
    IDEMPOTENCY_HEADER,
    REPLAYED_HEADER,
    SERVER_ACTOR,
    actor_of_call,
    header_text,
)
from app.http.json import read_object, respond
from app.http.routes import container, success
from app.http.routes.corrections import corrected
from app.http.schemas.token_process import CancelSchema, EstimateSchema, ExtendSchema, OwnReversalSchema
from app.wire.prices import estimate_answer

blueprint = Blueprint("token_process", __name__, url_prefix="/api/token-process")

_estimate = EstimateSchema()
_cancel = CancelSchema()
_extend = ExtendSchema()
_reversal = OwnReversalSchema()


@blueprint.post("/start")
def start() -> Response:
    return _answered(calls.start(container(), _call()))


@blueprint.post("/end")
def end() -> Response:
    return _answered(calls.end(container(), _call()))


@blueprint.post("/end/batch")
def end_batch() -> Response:
    request.max_content_length = calls.BATCH_BYTES_MAX
    return _answered(calls.end_batch(container(), _call()))


@blueprint.post("/end/reverse")
def reverse_end() -> Response:
    asked: OwnReversal = _reversal.load(read_object())
    asked = replace(asked, actor=actor_of_call(SERVER_ACTOR), request_id=g.request_id)
    return corrected(container().corrections.reverse_own(asked), "Token process reversed")


@blueprint.post("/estimate")
def estimate() -> Response:
    """What an end would answer now. Nothing is recorded and no hold given back."""
    estimated = container().estimate.estimate(_estimate.load(read_object()))
    return success("Token process estimated", estimate_answer(estimated))


@blueprint.post("/cancel")
def cancel() -> Response:
    body = _cancel.load(read_object())
    spendable_micros = container().holds.cancel(body["user_id"], body["process_id"])
    return success(
        "Token process cancelled",
        {
            "user_id": body["user_id"],
            "process_id": body["process_id"],
            "token": token_number(spendable_micros),
        },
    )


@blueprint.post("/hold/extend")
def extend_hold() -> Response:
    asked: ExtendRequest
    asked, key = calls.with_key(read_object(), header_text(IDEMPOTENCY_HEADER), IDEMPOTENCY_HEADER, _extend.load)
    answer = container().holds.extend(replace(asked, idempotency_key=key))
    response = success(
        "Hold extended" if answer.access is Access.GRANTED else "Hold not extended",
        {
            "user_id": asked.user_id,
            "process_id": asked.process_id,
            "token": token_number(answer.spendable_micros),
            "hold_token": token_number(answer.hold_micros),
            "expires_at": moment_text(answer.expires_at),
            "status": answer.access,
        },
    )
    if answer.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response


def _call() -> calls.Call:
    return calls.Call(read_object(), g.request_id, header_text(IDEMPOTENCY_HEADER), header_text(ACTOR_HEADER))


def _answered(answer: calls.Answer) -> Response:
    response = respond(answer.body)
    if answer.is_replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response
