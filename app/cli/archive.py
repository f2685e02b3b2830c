"""Commands that move old months of the ledger into files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import chain
from pathlib import Path

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_page, with_services
from app.domain import reports
from app.domain.keys import Caller
from app.domain.pages import Page
from app.operations.exports import Export
from app.stores.postgres.archives import Archive
from app.wire.reports import archive_answer
from app.wire.tables import Format, check_available, header, parquet

MONTH = support.Checked("month", lambda text: reports.month(text)[0])


@click.command("archive")
@click.option("--before", type=MONTH, required=True, help="The first month to keep, such as 2030-01.")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder of all archives.",
)
@click.option(
    "--format", "format", type=click.Choice([format.value for format in Format]), default="csv", show_default=True
)
@support.by
@with_services
def archive(services: Container, before: date, folder: Path, format: str, caller: Caller) -> None:
    """Move the ledger's entries of all months before one into files. After an interruption, run it again to continue.

    Each month becomes a file, which is sealed with its hash; then its entries leave the ledger. What stays are every
    wallet's balance behind them, all postings, keys and roll-ups. Keep the files: they are the only copy.

    \b
    flask archive --before 2030-01 --to /var/archives
    """
    if not folder.is_dir():
        raise click.UsageError(f"There is no folder {folder}.")
    chosen = Format(format)
    check_available(chosen)
    done = 0
    archived_months = services.archives.archive(
        before, folder, lambda export: _shaped(export, chosen), chosen.value, caller
    )
    for archived in archived_months:
        done += 1
        click.echo(f"{archived.month:%Y-%m}  {archived.entries} entries  {archived.file_name}  {archived.sha256}")
    if not done:
        click.echo("Nothing to archive.", err=True)


@click.command("archives")
@as_json
@with_services
def archives(services: Container, as_json: bool) -> None:
    """List the months of the ledger that are in files, with the hash of each.

    \b
    flask archives
    """
    found: Page[Archive, int] = Page(services.archives.list(), None)
    columns = ("month", "entries", "last_entry_id", "file_name", "sha256", "sealed_at", "removed_at")
    echo_page(found, archive_answer, columns, as_json=as_json, more="")


def _shaped(export: Export, format: Format) -> Iterator[bytes]:
    if format is Format.PARQUET:
        yield from parquet(export.columns, export.blocks)
    else:
        yield from chain([header(export.columns)], export.blocks)
