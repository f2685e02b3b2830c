"""Tables as files, streamed as the API streams them. What fails half-way cuts the file off visibly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flask import Response

from app.domain.errors import NotAcceptable
from app.domain.tables import Kind
from app.wire.tables import Format, check_available, content_type, file_name, stream


def download(name: str, columns: Mapping[str, Kind], lines: Iterable[bytes], format: Format) -> Response:
    """`lines` are CSV without a header, as `services().exports` or `csv_of_rows` give them."""
    response = Response(stream(columns, lines, format), content_type=content_type(format))
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name(name, format)}"'
    return response


def is_available(format: Format) -> bool:
    """Whether this installation can write it."""
    try:
        check_available(format)
    except NotAcceptable:
        return False
    return True
