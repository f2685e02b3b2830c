"""Text in request headers."""

from __future__ import annotations

from flask import request
from marshmallow import ValidationError

from app.domain.inputs import ACTOR_LENGTH_MAX
from app.http.schemas.fields import check_text

ACTOR_HEADER = "X-Actor"
IDEMPOTENCY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"


def header_text(name: str) -> str | None:
    """A header of the request as its sender wrote it."""
    return as_written(request.headers.get(name))


def as_written(value: str | None) -> str | None:
    """A header as its sender wrote it: in UTF-8, as in bodies, or in Latin-1, which older clients send."""
    if value is None or value.isascii():
        return value
    try:
        # WSGI hands over each byte as the character of its number.
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def person_of_call() -> str | None:
    """On whose behalf the caller says that it calls. Raises ValidationError."""
    return checked_person(header_text(ACTOR_HEADER))


def checked_person(given: str | None) -> str | None:
    """The text of that header, if it will do. Raises ValidationError."""
    if given is None:
        return None
    try:
        return check_text(given, ACTOR_LENGTH_MAX)
    except ValidationError as error:
        raise ValidationError({ACTOR_HEADER: error.messages}) from None
