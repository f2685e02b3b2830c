"""Downloads of tables, streamed like those of the API. A failure half-way breaks the download off visibly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flask import Response

from app.domain.errors import NotAcceptable
from app.domain.tables import Kind
from app.wire.tables import Format, check_available, content_type, file_name, stream


def download(name: str, columns: Mapping[str, Kind], lines: Iterable[bytes], format: Format) -> Response:
    """A table as a file. `lines` are CSV without a header, as from `services().exports` or `csv_of_rows`."""
    response = Response(stream(columns, lines, format), content_type=content_type(format))
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name(name, format)}"'
    return response


def is_available(format: Format) -> bool:
    """Whether this installation can write this format."""
    try:
        check_available(format)
    except NotAcceptable:
        return False
    return True
