"""Shared by commands that write tables of any size: the options for the file and the days, and the streaming."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any, TypeVar

import click

from app.cli import support
from app.domain import reports
from app.operations.exports import Export
from app.stores.postgres.exports.columns import Style
from app.wire.tables import Format, check_available, header, parquet

T = TypeVar("T", date, datetime)

MONTH = support.Checked("month", reports.month)
TABLE = "table"
FORMATS = [format.value for format in Format]

output = click.option(
    "--output", type=click.File("wb", lazy=True), default="-", help="File to write to.  [standard output]"
)


def in_range(since: T | None, until: T | None, month: tuple[T, T] | None) -> tuple[T | None, T | None]:
    """The range of days that the options give. Raises UsageError."""
    if month is not None:
        if since is not None or until is not None:
            raise click.UsageError("--month excludes --from and --to.")
        return month
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--to must be later than --from.")
    return since, until


def write(output: Any, format: Format, export_for: Callable[[Style], Export]) -> None:
    """Write an export to a file or to standard output. Raises NotAcceptable."""
    check_available(format)
    export = export_for(Style.SHEET if format is Format.CSV else Style.EXACT)
    columns: Mapping[str, Any] = export.columns
    blocks = parquet(columns, export.blocks) if format is Format.PARQUET else export.blocks
    if format is Format.CSV:
        output.write(header(columns))
    try:
        for block in blocks:
            output.write(block)
        output.flush()
    except BrokenPipeError:
        # The reading end of the pipe was closed.
        sys.exit(1)
    finally:
        export.blocks.close()  # type: ignore[attr-defined]
