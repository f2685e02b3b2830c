"""Answers that are tables: chooses the format that the caller accepts, and streams it.

A table has no pages and no limit. A failure half-way cuts the answer off, which HTTP clients recognise as incomplete.
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
    """The format of table that the request asks for. None: JSON, also if no available format is accepted.

    Raises NotAcceptable for a format that this installation can't write.
    """
    best = request.accept_mimetypes.best_match([JSON, *_FORMATS], JSON)
    format = _FORMATS.get(best)
    if format is not None:
        check_available(format)
    return format


def refuse_pages() -> None:
    """Raises ValidationError if a table is asked for in pages."""
    errors = {name: ["A table has no pages."] for name in ("limit", "cursor") if name in request.args}
    if errors:
        raise ValidationError(errors)


def respond(name: str, columns: Mapping[str, Kind], lines: Iterable[bytes], format: Format) -> Response:
    """Stream lines of CSV, given without a header, in this format."""
    response = Response(stream(columns, lines, format), content_type=content_type(format))
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name(name, format)}"'
    response.headers["Vary"] = "Accept"
    return response
