"""The routes, one file per audience."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, current_app
from marshmallow import ValidationError

from app.bootstrap import EXTENSION, Container
from app.http.auth import caller_of_call
from app.http.errors import messages_of
from app.http.headers import REPLAYED_HEADER
from app.http.json import read_object, respond
from app.http.schemas import RequestSchema


def container() -> Container:
    """The services of the running application."""
    found: Container = current_app.extensions[EXTENSION]
    return found


def success(message: str, data: Mapping[str, Any], status: int = 200) -> Response:
    return respond({"success": True, "message": message, "data": data}, status)


def repeatable(message: str, data: Mapping[str, Any], *, replayed: bool) -> Response:
    """The answer to an idempotent call: 201 the first time, 200 with a header for a repeat."""
    response = success(message, data, 200 if replayed else 201)
    if replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response


def asked_by_operator(schema: RequestSchema) -> dict[str, Any]:
    """The body loaded by the schema, with the `caller`. Raises ValidationError with the errors of both."""
    asked: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    try:
        asked |= schema.load(read_object())
    except ValidationError as error:
        errors |= messages_of(error)
    try:
        asked["caller"] = caller_of_call()
    except ValidationError as error:
        errors |= messages_of(error)
    if errors:
        raise ValidationError(errors)
    return asked
