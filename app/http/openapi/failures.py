"""The failures of a call: error statuses, each with its codes."""

from __future__ import annotations

from collections.abc import Iterable

from app.domain.errors import DomainError, InvalidApiKey, KeyNotAllowed, TooManyWrongKeys, Unavailable
from app.http.json import MEDIA_TYPE
from app.http.openapi.components import Components, reference
from app.http.request_context import REQUEST_ID_HEADER
from app.http.schemas.shapes import Shape
from app.wire.statuses import STATUS_OF_CODE

FAILURE = "Failure"

_WHAT = {
    400: "Something is wrong with the request: `errors` names what",
    401: "The key is missing or wrong",
    403: "Not allowed",
    404: "There is no such thing",
    406: "This form can't be answered",
    409: "It contradicts what there is",
    413: "The body is too large",
    415: "The body isn't JSON",
    429: "Too many",
    500: "A mistake of the server's; the log has it under the request's id",
    503: "It could not be taken now, and nothing was recorded: send the same call again",
}

Failures = dict[int, list[str]]


def usual(
    *, has_key: bool, has_optional_key: bool, has_body: bool, has_path_parameters: bool, has_table: bool
) -> Failures:
    """The failures that every call of such a route can have."""
    found: Failures = {}
    if has_key:
        found[400] = ["validation_failed"]
    if has_key or has_optional_key:
        found[401] = [InvalidApiKey.code]
        found[403] = [KeyNotAllowed.code]
        found[429] = [TooManyWrongKeys.code]
    if has_body:
        found[400] = ["validation_failed", "invalid_json"]
        found[413] = ["request_entity_too_large"]
        found[415] = ["unsupported_media_type"]
    if has_path_parameters:
        found[404] = ["not_found"]
    if has_table:
        found[406] = ["not_acceptable"]
    found[500] = ["internal_error"]
    if has_key:
        found[503] = [Unavailable.code]
    return found


def with_own(failures: Failures, refuses: Iterable[type[DomainError]]) -> Failures:
    """These failures, and those of a route's own errors."""
    found = {status: list(codes) for status, codes in failures.items()}
    for error in refuses:
        codes = found.setdefault(STATUS_OF_CODE[error.code], [])
        if error.code not in codes:
            codes.append(error.code)
    return dict(sorted(found.items()))


def failure_schema() -> Shape:
    """The envelope of every failure."""
    return {
        "type": "object",
        "description": "Every failure looks like this one.",
        "required": ["success", "status", "message", "code", "request_id"],
        "properties": {
            "success": {"const": False, "description": "It was refused."},
            "status": {"type": "integer", "description": "The HTTP status."},
            "message": {"type": "string", "description": "For people to read."},
            "code": {"type": "string", "description": "Stable, for programs to read."},
            "errors": {
                "type": "object",
                "description": "Of a 400, and of some others: field or parameter -> what is wrong with it. What is "
                "nested is named with dots.",
                "additionalProperties": {"type": "array", "items": {"type": "string"}},
            },
            "data": {
                "type": "object",
                "description": "What start would have answered, of a 403 to start.",
                "properties": {
                    "user_id": {"type": "string", "description": "Whose wallet it is."},
                    "token": {**reference("Tokens"), "description": "What can be spent now."},
                    "status": {"type": "string", "enum": ["not-access-able"], "description": "Nothing may start."},
                },
            },
            "request_id": {"type": "string", "description": "Stands in the server's log too."},
        },
    }


def failure_response(components: Components, status: int, codes: list[str]) -> Shape:
    """A reference to the response of this status with one of these codes."""
    name = ".".join([str(status), *codes])
    if name not in components.responses:
        shape = {
            "allOf": [reference(FAILURE)],
            "properties": {"status": {"const": status}, "code": {"enum": codes}},
        }
        headers = {REQUEST_ID_HEADER: reference("RequestId", "headers")}
        if status == STATUS_OF_CODE[Unavailable.code] or codes == [TooManyWrongKeys.code]:
            headers["Retry-After"] = reference("RetryAfter", "headers")
        components.responses[name] = {
            "description": f"{_WHAT.get(status, 'Refused')} ({', '.join(f'`{code}`' for code in codes)}).",
            "headers": headers,
            "content": {MEDIA_TYPE: {"schema": shape}},
        }
    return reference(name, "responses")


def add_schema(components: Components) -> None:
    if components.reserve(FAILURE, FAILURE):
        components.schemas[FAILURE].update(failure_schema())
