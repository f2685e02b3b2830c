"""Answers that are tables: which form the caller accepts, and streaming it.

A table has no pages and no limit. What fails half-way cuts the answer off, which no HTTP client takes for its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from flask import Response, request
from marshmallow import ValidationError

from app.domain.tables import Kind
from app.wire.tables import MEDIA_TYPES, Format, check_available, header, parquet

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
    data = parquet(columns, lines) if format is Format.PARQUET else chain([header(columns)], lines)
    file_name = f"{name.lower().replace(' ', '-')}.{format}"
    response = Response(_closing(data, lines), content_type=_content_type(format))
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name}"'
    response.headers["Vary"] = "Accept"
    return response


def _content_type(format: Format) -> str:
    media_type = MEDIA_TYPES[format]
    return f"{media_type}; charset=utf-8; header=present" if format is Format.CSV else media_type


def _closing(data: Iterator[bytes], source: Iterable[bytes]) -> Iterator[bytes]:
    """The same; whoever stops reading stops the source."""
    try:
        yield from data
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
