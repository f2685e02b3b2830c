"""Commands that read the audit log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_page, page_size, with_services
from app.domain.audit import AuditFilter
from app.domain.pages import NEWEST
from app.wire.columns import AUDIT_LOG
from app.wire.json import write
from app.wire.keys import audit_answer
from app.wire.tables import csv_of_rows, header

F = TypeVar("F", bound=Callable[..., Any])


def _filters(command: F) -> F:
    for option in reversed(
        (
            click.option("--from", "since", type=support.MOMENT_OR_DAY, help="A day (UTC), or a moment."),
            click.option("--to", "until", type=support.MOMENT_OR_DAY, help="The first day or moment after the range."),
            click.option("--action", type=support.ID, help="What was done, such as wallet.suspended."),
            click.option("--subject-kind", type=support.ID, help="The kind of changed object, such as wallet."),
            click.option("--subject", "subject_id", type=support.ID, help="The id of the changed object."),
            click.option("--actor", type=support.ID, help="A key's name, or a key's name and a person: admin/anna."),
            click.option("--key", "key_id", type=support.ID, help="The id of a key."),
            click.option("--address", type=support.ID, help="The client's IP address, or user@host of a command."),
            click.option("--request", "request_id", type=support.ID),
        )
    ):
        command = option(command)
    return command


@click.group("audit-log")
def audit_log() -> None:
    """The audit log: who changed what, when and from where."""


@audit_log.command("list")
@_filters
@page_size
@support.before_number
@as_json
@with_services
def list_entries(services: Container, /, *, limit: int, before: int | None, as_json: bool, **filters: Any) -> None:
    """List changes, newest first.

    \b
    flask audit-log list --subject-kind wallet --subject alice
    """
    page = services.audit_log.list(AuditFilter(**filters), limit, before or NEWEST)
    columns = ("id", "at", "actor", "action", "subject_kind", "subject_id", "before", "after", "address")
    # In text output the changed fields are JSON, too, as they differ from entry to entry.
    echo_page(page, audit_answer if as_json else _flat, columns, as_json=as_json, more="--before")


@audit_log.command("export")
@_filters
@click.option("--output", type=click.File("wb", lazy=True), default="-", help="File to write to.  [standard output]")
@with_services
def export(services: Container, /, *, output: Any, **filters: Any) -> None:
    """Write all changes as CSV, newest first.

    \b
    flask audit-log export --from 2030-01-01 --to 2030-02-01 --output january.csv
    """
    rows = map(audit_answer, services.audit_log.all(AuditFilter(**filters)))
    try:
        output.write(header(AUDIT_LOG))
        for line in csv_of_rows(AUDIT_LOG, rows):
            output.write(line)
        output.flush()
    except BrokenPipeError:
        # The reading end of the pipe was closed.
        sys.exit(1)


def _flat(entry: Any) -> dict[str, Any]:
    answer = audit_answer(entry)
    return {name: write(value).decode() if isinstance(value, dict) else value for name, value in answer.items()}
