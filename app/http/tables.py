"""Answers that are tables: which form the caller accepts, and streaming it.

A table has no pages and no limit. What fails half-way cuts the answer off, which no HTTP client takes for its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flask import Response, request
from marshmallow import ValidationError

from app.domain.tables import Kind
from app.wire.tables import MEDIA_TYPES, Format, check_available, content_type, file_name, stream

JSON = "application/json"
_FORMATS = {media_type: format for format, media_type in MEDIA_TYPES.items()}


def wanted() -> Format | None:
    """The form of table that is asked for, None for JSON, also where nothing that we have is accepted.

    Raises NotAcceptable for one that this installation can't write.
    """
    best = request.accept_mimetypes.best_match([JSON, *_FORMATS], JSON)
    format = _FORMATS.get(best)
    if format is not None:
        check_available(format)
    return format


def refuse_pages() -> None:
    """Raises ValidationError where a table is asked for in pages."""
    errors = {name: ["A table has no pages."] for name in ("limit", "cursor") if name in request.args}
    if errors:
        raise ValidationError(errors)


def respond(name: str, columns: Mapping[str, Kind], lines: Iterable[bytes], format: Format) -> Response:
    """Stream lines of CSV, which come without a header, in the form that is asked for."""
    response = Response(stream(columns, lines, format), content_type=content_type(format))
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name(name, format)}"'
    response.headers["Vary"] = "Accept"
    return response
