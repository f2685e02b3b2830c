"""JSON without floats: numbers with a point or an exponent are read as Decimals and written from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NoReturn

from flask import Response, request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from app.wire.json import write

MEDIA_TYPE = "application/json"


class BadBody(BadRequest):
    """The body isn't a JSON object, or not an unambiguous one."""

    def __init__(self, reason: str) -> None:
        super().__init__("Invalid JSON body")
        self.reason = reason


def read_object(parse_body: Callable[[bytes], Any] | None = None) -> dict[str, Any]:
    """The request's body. Raises BadBody (400), UnsupportedMediaType (415) or RequestEntityTooLarge (413).

    `parse_body` is used instead of the strict `parse`; it has to raise BadBody too.
    """
    if not request.is_json:
        raise UnsupportedMediaType("Content-Type must be application/json")
    data = request.get_data(cache=False)
    if request.content_length is None:
        # A body without a length is silently cut off at the limit. Reading on raises if there is more.
        request.stream.read(1)
    return parse_object(data, parse_body)


def parse_object(data: bytes, parse_body: Callable[[bytes], Any] | None = None) -> dict[str, Any]:
    """Parse a JSON object, by the strict `parse` unless another parser is given. Raises BadBody."""
    body = (parse_body or parse)(data)
    if not isinstance(body, dict):
        raise BadBody("Must be a JSON object.")
    return body


def parse(data: bytes) -> Any:
    """Parse JSON strictly: UTF-8, no key twice, no NaN or Infinity. Raises BadBody."""
    try:
        return _decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadBody("Must be UTF-8.") from None
    except RecursionError:
        raise BadBody("Nested too deeply.") from None
    except (ValueError, ArithmeticError) as error:
        # ArithmeticError: an exponent too large for Decimal. ValueError: not JSON, or an integer with too many digits.
        raise BadBody(error.args[0] if isinstance(error, _Refused) else "Not valid JSON.") from None


def respond(body: Mapping[str, Any], status: int = 200) -> Response:
    return Response(write(body), status=status, mimetype=MEDIA_TYPE)


class _Refused(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON number.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Refused("A key appears twice.")
    return result


_decoder = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_unique)
