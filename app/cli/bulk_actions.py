"""Commands on bulk actions, which `failed-ends replay` and `failed-ends write-off` make."""

from __future__ import annotations

from uuid import UUID

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.bulk_runs import echo, follow
from app.cli.support import as_json, echo_page, page_size, with_services
from app.domain.bulk_actions import BulkOutcome
from app.domain.keys import Caller
from app.domain.pages import NEWEST
from app.operations.failed_ends import FIRST_END
from app.wire.bulk_actions import bulk_action_head_answer, bulk_end_answer

number = click.argument("number", type=click.IntRange(1, NEWEST))


@click.group("bulk-actions")
def bulk_actions() -> None:
    """Bulk actions: failed ends that are replayed or written off together."""


@bulk_actions.command("list")
@page_size
@support.before_number
@as_json
@with_services
def list_bulk_actions(services: Container, limit: int, before: int | None, as_json: bool) -> None:
    """List bulk actions, newest first.

    \b
    flask bulk-actions list --limit 20
    """
    columns = ("id", "created_at", "action", "state", "ends", "cost", "reference", "actor", "confirmed_by")
    page = services.bulk_actions.list(limit, before or NEWEST)
    echo_page(page, bulk_action_head_answer, columns, as_json=as_json, more="--before")


@bulk_actions.command("show")
@number
@as_json
@with_services
def show(services: Container, number: int, as_json: bool) -> None:
    """Print a bulk action: its ends, and the outcomes so far.

    \b
    flask bulk-actions show 3
    """
    echo(services.bulk_actions.get(number), as_json=as_json)


@bulk_actions.command("ends")
@number
@click.option("--outcome", type=click.Choice([outcome.value for outcome in BulkOutcome]))
@page_size
@click.option("--after", type=click.UUID, help="Start after this one.")
@as_json
@with_services
def list_ends(
    services: Container, /, *, number: int, outcome: str | None, limit: int, after: UUID | None, as_json: bool
) -> None:
    """List the ends of a bulk action with their outcomes.

    \b
    flask bulk-actions ends 3 --outcome failed_again
    """
    wanted = None if outcome is None else BulkOutcome(outcome)
    page = services.bulk_actions.ends(number, limit, FIRST_END if after is None else str(after), outcome=wanted)
    columns = ("end_id", "user_id", "cost", "state", "last_error", "outcome", "detail")
    echo_page(page, bulk_end_answer, columns, as_json=as_json, more="--after")


@bulk_actions.command("confirm")
@number
@click.option("--ends", type=click.IntRange(0), required=True, help="The number of ends in the draft.")
@click.option(
    "--cost",
    "cost_micros",
    type=support.LIMIT,
    required=True,
    help="The total cost of the ends in the draft, in tokens.",
)
@support.by
@as_json
@with_services
def confirm(services: Container, /, *, number: int, ends: int, cost_micros: int, caller: Caller, as_json: bool) -> None:
    """Confirm and process a draft. After an interruption, workers continue.

    \b
    flask bulk-actions confirm 3 --ends 193 --cost 184214.25
    """
    services.bulk_actions.confirm(number, ends=ends, cost_micros=cost_micros, caller=caller)
    follow(services, number, as_json=as_json)


@bulk_actions.command("cancel")
@number
@support.by
@as_json
@with_services
def cancel(services: Container, number: int, caller: Caller, as_json: bool) -> None:
    """Cancel a bulk action: its remaining ends stay as they are.

    \b
    flask bulk-actions cancel 3
    """
    echo(services.bulk_actions.cancel(number, caller=caller), as_json=as_json)
