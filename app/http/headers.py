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
    """The text of a request header, in the encoding in which its sender wrote it."""
    return as_written(request.headers.get(name))


def as_written(value: str | None) -> str | None:
    """Decode a header as UTF-8, as bodies are, or else as Latin-1, which older clients send."""
    if value is None or value.isascii():
        return value
    try:
        # WSGI passes headers decoded as Latin-1.
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def person_of_call() -> str | None:
    """The person that the request names in X-Actor. Raises ValidationError."""
    return checked_person(header_text(ACTOR_HEADER))


def checked_person(given: str | None) -> str | None:
    """Check the text of an X-Actor header. Raises ValidationError."""
    if given is None:
        return None
    try:
        return check_text(given, ACTOR_LENGTH_MAX)
    except ValidationError as error:
        raise ValidationError({ACTOR_HEADER: error.messages}) from None
