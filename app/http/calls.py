"""The most frequent calls of service servers (start, end, end/batch), independent of Flask: each takes a decoded body
with the headers that matter, and returns the answer's body.

Both Flask's views and the hot routes in front of them (`hot.py`) use these. ValidationError is raised before anything
is done; services raise the errors of `app/domain/errors.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from marshmallow import ValidationError

from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.ends import EndAnswer, EndRequest
from app.domain.keys import actor_of
from app.http.errors import domain_failure, messages_of, validation_failure
from app.http.headers import IDEMPOTENCY_HEADER, checked_person
from app.http.schemas.compiled import compiled
from app.http.schemas.fields import IDEMPOTENCY_KEY_LENGTH_MAX, check_text
from app.http.schemas.token_process import BatchSchema, EndSchema, StartSchema
from app.wire.token_process import ended_answer, started_answer

BODY_BYTES_MAX = 64 * 1024
BATCH_BYTES_MAX = 1024 * 1024

_load_start = compiled(StartSchema())
_load_end = compiled(EndSchema())
_batch = BatchSchema()


class Call(NamedTuple):
    """A decoded call. The texts of its headers aren't checked yet."""

    body: dict[str, Any]
    request_id: str
    caller_name: str
    """The name of the caller's API key."""
    idempotency_key: str | None = None
    person: str | None = None


class Answer(NamedTuple):
    message: str
    data: Mapping[str, Any]
    is_replayed: bool = False

    @property
    def body(self) -> dict[str, Any]:
        return {"success": True, "message": self.message, "data": self.data}


def start(services: Container, call: Call) -> Answer:
    asked: StartRequest
    asked, key = with_key(call.body, call.idempotency_key, IDEMPOTENCY_HEADER, _load_start)
    answer = services.start.start(asked if key is None else replace(asked, idempotency_key=key))
    return Answer("Token process started", started_answer(answer), answer.replayed)


def end(services: Container, call: Call) -> Answer:
    who = actor_of(call.caller_name, checked_person(call.person))
    asked = _end_request(call, call.body, call.idempotency_key, IDEMPOTENCY_HEADER, who)
    accepted = services.end.end(asked)
    return Answer("Token process ended", ended_answer(accepted), accepted.replayed)


def end_batch(services: Container, call: Call) -> Answer:
    ends: list[Any] = _batch.load(call.body)["ends"]
    who = actor_of(call.caller_name, checked_person(call.person))
    results: list[dict[str, Any] | None] = [None] * len(ends)
    valid: dict[int, EndRequest] = {}
    for i, body in enumerate(ends):
        try:
            valid[i] = _end_of_batch(call, body, who)
        except ValidationError as error:
            results[i] = validation_failure(messages_of(error))
    answers = services.end.end_all(list(valid.values()))
    for i, answered in zip(valid, answers, strict=True):
        results[i] = _batch_result(answered)
    return Answer("Token processes ended", {"results": results})


def with_key(body: Any, key: Any, key_field: str, load: Callable[..., Any], **more: Any) -> tuple[Any, str | None]:
    """Load a body and check its idempotency key. Raises ValidationError with the errors of both.

    `more` is passed to a compiled schema, beside the body.
    """
    errors: dict[str, Any] = {}
    parsed = None
    if key is not None:
        try:
            check_text(key, IDEMPOTENCY_KEY_LENGTH_MAX)
        except ValidationError as error:
            errors[key_field] = error.messages
    try:
        parsed = load(body, **more)
    except ValidationError as error:
        errors.update(messages_of(error))
    if errors:
        raise ValidationError(errors)
    return parsed, key


def _end_request(call: Call, body: Any, key: Any, key_field: str, actor: str) -> EndRequest:
    asked: EndRequest
    asked, _ = with_key(body, key, key_field, _load_end, idempotency_key=key, request_id=call.request_id, actor=actor)
    return asked


def _end_of_batch(call: Call, body: Any, actor: str) -> EndRequest:
    if not isinstance(body, dict):
        raise ValidationError({"end": ["Must be a JSON object."]})
    return _end_request(call, body, body.get("idempotency_key"), "idempotency_key", actor)


def _batch_result(answered: EndAnswer | Exception) -> dict[str, Any]:
    if isinstance(answered, Exception):
        return domain_failure(answered)
    result: dict[str, Any] = {
        "success": True,
        "status": 200,
        "message": "Token process ended",
        "data": ended_answer(answered),
    }
    if answered.replayed:
        result["idempotent_replayed"] = True
    return result
