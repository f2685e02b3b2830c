"""What service servers call: start, end, end/batch, cancel and hold/extend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, g, request
from marshmallow import ValidationError

from app.billing.holds import ExtendRequest
from app.billing.start import StartRequest
from app.domain.amounts import token_number
from app.domain.ends import EndAnswer, EndRequest
from app.domain.moments import moment_text
from app.domain.wallets import Access
from app.http.errors import domain_failure, messages_of, validation_failure
from app.http.headers import SERVER_ACTOR, actor_of_call, header_text
from app.http.json import read_object
from app.http.routes import container, success
from app.http.schemas import RequestSchema
from app.http.schemas.fields import IDEMPOTENCY_KEY_LENGTH_MAX, check_text
from app.http.schemas.token_process import CancelSchema, EndSchema, ExtendSchema, StartSchema

blueprint = Blueprint("token_process", __name__, url_prefix="/api/token-process")

BATCH_BYTES_MAX = 1024 * 1024
BATCH_ENDS_MAX = 1_000
IDEMPOTENCY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"

_start = StartSchema()
_end = EndSchema()
_cancel = CancelSchema()
_extend = ExtendSchema()


@blueprint.post("/start")
def start() -> Response:
    asked: StartRequest
    asked, key = _with_key(read_object(), header_text(IDEMPOTENCY_HEADER), IDEMPOTENCY_HEADER, _start)
    answer = container().start.start(replace(asked, idempotency_key=key))
    data: dict[str, Any] = {
        "user_id": answer.user_id,
        "token": token_number(answer.spendable_micros),
        "status": answer.access,
    }
    if answer.process_id is not None:
        data["process_id"] = answer.process_id
    if answer.expires_at is not None:
        data["hold_token"] = token_number(answer.hold_micros)
        data["expires_at"] = moment_text(answer.expires_at)
    response = success("Token process started", data)
    if answer.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response


@blueprint.post("/end")
def end() -> Response:
    body = read_object()
    who = actor_of_call(SERVER_ACTOR)
    accepted = container().end.end(_end_request(body, header_text(IDEMPOTENCY_HEADER), IDEMPOTENCY_HEADER, who))
    response = success("Token process ended", _end_data(accepted))
    if accepted.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response


@blueprint.post("/end/batch")
def end_batch() -> Response:
    request.max_content_length = BATCH_BYTES_MAX
    ends = read_object().get("ends")
    if not isinstance(ends, list) or not 1 <= len(ends) <= BATCH_ENDS_MAX:
        raise ValidationError({"ends": [f"Must be a list of 1 to {BATCH_ENDS_MAX} ends."]})
    who = actor_of_call(SERVER_ACTOR)
    results: list[dict[str, Any] | None] = [None] * len(ends)
    valid: dict[int, EndRequest] = {}
    for i, body in enumerate(ends):
        try:
            valid[i] = _end_of_batch(body, who)
        except ValidationError as error:
            results[i] = validation_failure(messages_of(error))
    answers = container().end.end_all(list(valid.values()))
    for i, answered in zip(valid, answers, strict=True):
        results[i] = _batch_result(answered)
    return success("Token processes ended", {"results": results})


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
    asked, key = _with_key(read_object(), header_text(IDEMPOTENCY_HEADER), IDEMPOTENCY_HEADER, _extend)
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


def _with_key(body: Any, key: Any, key_field: str, schema: RequestSchema) -> tuple[Any, str | None]:
    """What a body asks for, and its key; what is wrong with either is said together. Raises ValidationError."""
    errors: dict[str, Any] = {}
    parsed = None
    if key is not None:
        try:
            check_text(key, IDEMPOTENCY_KEY_LENGTH_MAX)
        except ValidationError as error:
            errors[key_field] = error.messages
    try:
        parsed = schema.load(body)
    except ValidationError as error:
        errors.update(messages_of(error))
    if errors:
        raise ValidationError(errors)
    return parsed, key


def _end_request(body: Any, key: Any, key_field: str, actor: str) -> EndRequest:
    parsed, key = _with_key(body, key, key_field, _end)
    asked: EndRequest = replace(parsed, idempotency_key=key, request_id=g.request_id, actor=actor)
    return asked


def _end_of_batch(body: Any, actor: str) -> EndRequest:
    if not isinstance(body, dict):
        raise ValidationError({"end": ["Must be a JSON object."]})
    return _end_request(body, body.get("idempotency_key"), "idempotency_key", actor)


def _batch_result(answered: EndAnswer | Exception) -> dict[str, Any]:
    if isinstance(answered, Exception):
        return domain_failure(answered)
    result: dict[str, Any] = {
        "success": True,
        "status": 200,
        "message": "Token process ended",
        "data": _end_data(answered),
    }
    if answered.replayed:
        result["idempotent_replayed"] = True
    return result


def _end_data(answered: EndAnswer) -> dict[str, Any]:
    return {
        "user_id": answered.user_id,
        "token": token_number(answered.spendable_micros),
        "cost": token_number(answered.cost_micros),
        "status": answered.deduction,
    }
