"""Commands that price past runs anew."""

from __future__ import annotations

import sys
from datetime import datetime

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.keys import Caller
from app.domain.pages import NEWEST, Page
from app.domain.repricings import RepricingFilter, RepricingState
from app.wire.answers import repricing_answer, repricing_group_answer

INTERRUPTED = 130

number = click.argument("number", type=click.IntRange(1, NEWEST))


@click.group()
def repricings() -> None:
    """Repricings: bill past runs by another price."""


@repricings.command("create")
@click.option("--price", "price_id", type=click.IntRange(1, NEWEST), required=True, help="The id of a price.")
@click.option("--reason", type=support.REASON, required=True)
@click.option("--feature", "feature_endpoint_id", type=support.ID, help="Only runs of this feature endpoint.")
@click.option("--model", type=support.ID, help="Only runs of this model, as it was sent.")
@click.option("--user", "user_id", type=support.ID, help="Only of this user.")
@click.option("--from", "accepted_from", type=support.MOMENT_OR_DAY, help="Only runs accepted at or after this time.")
@click.option("--to", "accepted_to", type=support.MOMENT_OR_DAY, help="Only runs accepted before this time.  [now]")
@support.by
@as_json
@with_services
def create(
    services: Container,
    *,
    price_id: int,
    reason: str,
    feature_endpoint_id: str | None,
    model: str | None,
    user_id: str | None,
    accepted_from: datetime | None,
    accepted_to: datetime | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Select runs and print what they would cost by another price. Nothing changes until it is applied.

    \b
    flask repricings create --price 7 --model large --from 2030-01-01T00:00:00Z --reason "Wrong price"
    """
    matching = RepricingFilter(feature_endpoint_id, model, user_id, accepted_from, accepted_to)
    created = services.repricings.create(price_id, matching, reason=reason, caller=caller)
    _go_on(services, created.repricing.id, "Selecting", None)
    _echo(services, created.repricing.id, as_json=as_json)


@repricings.command("show")
@number
@as_json
@with_services
def show(services: Container, number: int, as_json: bool) -> None:
    """Print a repricing, and what it changes by user and model.

    \b
    flask repricings show 3
    """
    _echo(services, number, as_json=as_json)


@repricings.command("list")
@page_size
@support.before_number
@as_json
@with_services
def list_repricings(services: Container, limit: int, before: int | None, as_json: bool) -> None:
    """List repricings, newest first.

    \b
    flask repricings list --limit 20
    """
    columns = ("id", "created_at", "state", "price_id", "runs", "old_cost", "new_cost", "amended", "refused", "reason")
    page = services.repricings.list(limit, before or NEWEST)
    echo_page(page, repricing_answer, columns, as_json=as_json, more="--before")


@repricings.command("apply")
@number
@support.by
@as_json
@with_services
def apply(services: Container, number: int, caller: Caller, as_json: bool) -> None:
    """Amend the runs of a repricing. After an interruption, run it again to continue.

    \b
    flask repricings apply 3
    """
    runs = services.repricings.apply(number, caller).sums.runs
    _go_on(services, number, "Applying", runs)
    _echo(services, number, as_json=as_json)


def _go_on(services: Container, number: int, label: str, runs: int | None) -> None:
    try:
        with click.progressbar(length=runs or 0, label=label, file=sys.stderr) as bar:
            services.repricings.go_on(number, lambda: True, bar.update)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. Workers go on with repricing {number}.", err=True)
        sys.exit(INTERRUPTED)


def _echo(services: Container, number: int, *, as_json: bool) -> None:
    view = services.repricings.get(number)
    answer = dict(repricing_answer(view))
    if as_json:
        echo_object(answer, as_json=True)
        return
    del answer["by_user_and_model"]
    echo_object(answer, as_json=False)
    if view.groups:
        click.echo()
        columns = ("user_id", "model", "runs", "old_cost", "new_cost", "difference")
        echo_page(Page(view.groups, None), repricing_group_answer, columns, as_json=False, more="")
    if view.repricing.state is RepricingState.READY:
        click.echo(f"Nothing is changed yet: flask repricings apply {number}", err=True)
