"""Writes tables as CSV or as Parquet, row group by row group, for the API and the commands.

Parquet needs pyarrow, which the server does without unless it is installed (`pip install tokentill-server[parquet]`).
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Any

from app.domain.errors import NotAcceptable
from app.domain.tables import Kind, guarded
from app.wire import json

if TYPE_CHECKING:
    import pyarrow as pa

# The size of a row group. pyarrow keeps one in memory at a time.
GROUP_BYTES = 16 * 1024 * 1024
# The decimal type of amounts of tokens in Parquet, exact: 32 digits before the point, 6 behind it.
AMOUNT_PRECISION, AMOUNT_SCALE = 38, 6


class Format(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES = {Format.CSV: "text/csv", Format.PARQUET: "application/vnd.apache.parquet"}


def check_available(format: Format) -> None:
    """Raises NotAcceptable if this installation can't write the format."""
    if format is Format.PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise NotAcceptable("Parquet needs pyarrow, which this server is installed without")


def header(names: Iterable[str]) -> bytes:
    return (",".join(names) + "\n").encode()


def csv_of_rows(kinds: Mapping[str, Kind], rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Answers as lines of CSV without a header. Lists become JSON; texts are guarded against spreadsheets' formulas."""
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(_cell(row[name], kind) for name, kind in kinds.items())
        yield buffer.getvalue().encode()


def parquet(kinds: Mapping[str, Kind], blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Convert blocks of whole CSV lines, without a header, to Parquet. An empty field is null, "" is an empty text."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    schema = pa.schema([(name, _type(kind)) for name, kind in kinds.items()])
    sink = _Sink()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for group in _groups(blocks):
            writer.write_table(_table(schema, group))
            yield from sink.taken()
    yield from sink.taken()


def stream(kinds: Mapping[str, Kind], lines: Iterable[bytes], format: Format) -> Iterator[bytes]:
    """A whole file, with its header, of lines of CSV given without one. Closing the file closes `lines`."""
    data = parquet(kinds, lines) if format is Format.PARQUET else chain([header(kinds)], lines)
    try:
        yield from data
    finally:
        close = getattr(lines, "close", None)
        if close is not None:
            close()


def content_type(format: Format) -> str:
    media_type = MEDIA_TYPES[format]
    return f"{media_type}; charset=utf-8; header=present" if format is Format.CSV else media_type


def file_name(name: str, format: Format) -> str:
    return f"{name.lower().replace(' ', '-')}.{format}"


class _Sink(io.RawIOBase):
    """A file for pyarrow to write to, which keeps only the bytes that haven't been taken yet."""

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written = bytes(data)
        self._written.append(written)
        self._size += len(written)
        return len(written)

    def tell(self) -> int:
        return self._size

    def taken(self) -> Iterator[bytes]:
        written, self._written = self._written, []
        if written:
            yield b"".join(written)


def _groups(blocks: Iterable[bytes]) -> Iterator[bytes]:
    group = bytearray()
    for block in blocks:
        group += block
        if len(group) >= GROUP_BYTES:
            yield bytes(group)
            group.clear()
    if group:
        yield bytes(group)


def _table(schema: pa.Schema, lines: bytes) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv as reader  # noqa: PLC0415

    return reader.read_csv(
        pa.py_buffer(lines),
        read_options=reader.ReadOptions(column_names=schema.names),
        # No value has a line break, as inputs refuse control characters.
        parse_options=reader.ParseOptions(newlines_in_values=False),
        convert_options=reader.ConvertOptions(
            column_types=schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _type(kind: Kind) -> pa.DataType:
    import pyarrow as pa  # noqa: PLC0415

    match kind:
        case Kind.COUNT:
            return pa.int64()
        case Kind.AMOUNT:
            return pa.decimal128(AMOUNT_PRECISION, AMOUNT_SCALE)
        case Kind.MOMENT:
            return pa.timestamp("ms", "UTC")
        case Kind.DAY:
            return pa.date32()
    return pa.string()


def _cell(value: Any, kind: Kind) -> Any:
    if isinstance(value, (list, dict)):
        value = json.write(value).decode()
    if value is None:
        return ""
    return guarded(value) if kind is Kind.TEXT else value
