"""Puts every failure into the same envelope. `app/wire/statuses.py` has the HTTP status of each error."""

from __future__ import annotations

import math
from typing import Any

import structlog
from flask import Flask, Response
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException

from app import logs
from app.domain.amounts import token_number
from app.domain.errors import DomainError, TooManyWrongKeys, Unavailable
from app.http.json import BadBody, respond
from app.wire.statuses import STATUS_OF_CODE

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = "1"


def failure(
    status: int,
    message: str,
    *,
    code: str,
    errors: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of a failure."""
    body: dict[str, Any] = {"success": False, "status": status, "message": message, "code": code}
    if errors:
        body["errors"] = errors
    if data:
        body["data"] = data
    body["request_id"] = logs.request_id.get()
    return body


def domain_failure(error: Exception) -> dict[str, Any]:
    """The body for an error of a use case, expected or not."""
    if not isinstance(error, DomainError):
        log.error("unexpected_error", exc_info=error)
        return failure(500, "Internal server error", code="internal_error")
    return failure(
        STATUS_OF_CODE[error.code],
        error.message,
        code=error.code,
        errors=dict(error.errors) if error.errors else None,
        data=_on_the_wire(error.data) if error.data else None,
    )


def messages_of(error: ValidationError) -> dict[Any, Any]:
    """marshmallow's messages by field."""
    messages: dict[Any, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
    return messages


def validation_failure(messages: dict[Any, Any]) -> dict[str, Any]:
    return failure(400, "Validation failed", code="validation_failed", errors=_reasons(messages))


def register(app: Flask) -> None:
    """Answer every exception that leaves a route."""

    @app.errorhandler(DomainError)
    def _domain(error: DomainError) -> Response:
        response = answer(domain_failure(error))
        if isinstance(error, TooManyWrongKeys):
            response.headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
        return response

    @app.errorhandler(ValidationError)
    def _validation(error: ValidationError) -> Response:
        return answer(validation_failure(messages_of(error)))

    @app.errorhandler(HTTPException)
    def _http(error: HTTPException) -> Response:
        status = error.code or 500
        # Werkzeug's name of the status becomes the code that clients know. Python's own names differ between versions.
        name_of_status = error.name
        response = answer(
            failure(
                status,
                str(error.description) if isinstance(error, BadBody) else name_of_status,
                code="invalid_json" if isinstance(error, BadBody) else name_of_status.lower().replace(" ", "_"),
                errors={"body": [error.reason]} if isinstance(error, BadBody) else None,
            )
        )
        # Such as Allow, after a wrong method.
        for name, value in error.get_headers():
            if name.lower() not in ("content-type", "content-length"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def _unexpected(error: Exception) -> Response:
        return answer(domain_failure(error))


def answer(body: dict[str, Any]) -> Response:
    response = respond(body, body["status"])
    response.headers.extend(extra_headers(body["status"]))
    return response


def extra_headers(status: int) -> list[tuple[str, str]]:
    """Headers that an answer of this status has besides those of its body."""
    return [("Retry-After", RETRY_AFTER_SECONDS)] if status == STATUS_OF_CODE[Unavailable.code] else []


def _on_the_wire(data: Any) -> dict[str, Any]:
    return {
        name.replace("spendable_micros", "token"): token_number(value) if name.endswith("_micros") else value
        for name, value in data.items()
    }


def _reasons(messages: dict[Any, Any]) -> dict[str, Any]:
    """marshmallow's messages as field -> list of reasons. Names of nested fields are joined by dots."""
    reasons: dict[str, Any] = {}
    for name, value in messages.items():
        if isinstance(value, dict):
            reasons.update({f"{name}.{inner}": texts for inner, texts in _reasons(value).items()})
        else:
            reasons[str(name)] = value
    return reasons
