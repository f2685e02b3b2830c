"""Commands that top up all wallets of a package, once or by schedule."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date
from typing import Any, TypeVar

import click

from app.billing.top_up_schedules import ScheduleView
from app.billing.top_ups import TopUpView
from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.keys import Caller
from app.domain.pages import FIRST_ID, NEWEST
from app.domain.top_ups import (
    Calendar,
    CatchUp,
    Period,
    Rhythm,
    Target,
    TopUpAmount,
    TopUpMode,
    TopUpState,
    due_day,
)
from app.domain.wallets import WalletStatus
from app.stores.postgres.top_up_schedules import NewSchedule
from app.stores.postgres.top_ups import WAITING, NewBatch
from app.wire.top_ups import (
    OUTCOMES,
    outlook_answer,
    schedule_answer,
    schedule_head_answer,
    top_up_answer,
    top_up_wallet_answer,
)

INTERRUPTED = 130
F = TypeVar("F", bound=Callable[..., Any])

number = click.argument("number", type=click.IntRange(1, NEWEST))
reason = click.option("--reason", type=support.REASON, required=True)
DAY = support.Checked("day", due_day)
ANY = "any"


def _amount_options(command: F) -> F:
    for option in reversed(
        (
            click.option("--token", "add_micros", type=support.CREDIT, help="The tokens that each wallet gets."),
            click.option(
                "--fill-up-to-token",
                "fill_micros",
                type=support.CREDIT,
                help="Instead of --token: fill each wallet up to this balance.",
            ),
            click.option(
                "--status",
                type=click.Choice([*(status.value for status in WalletStatus), ANY]),
                default=WalletStatus.ACTIVE.value,
                show_default=True,
                help="Only wallets of this status.",
            ),
            click.option(
                "--reference",
                type=support.REFERENCE,
                required=True,
                help="Your own reference; repeating it does nothing more.",
            ),
            reason,
        )
    ):
        command = option(command)
    return command


def _amount(add_micros: int | None, fill_micros: int | None) -> TopUpAmount:
    if add_micros is not None and fill_micros is None:
        return TopUpAmount(TopUpMode.ADD, add_micros)
    if fill_micros is not None and add_micros is None:
        return TopUpAmount(TopUpMode.FILL, fill_micros)
    raise click.UsageError("Give either --token or --fill-up-to-token.")


def _target(package_id: str | None, user_id: str | None, status: str) -> Target:
    return Target(package_id, user_id, None if status == ANY else status)


@click.group("top-ups")
def top_ups() -> None:
    """Top-ups of all wallets of a package."""


@top_ups.command("create")
@click.option("--package", "package_id", type=support.ID, required=True)
@_amount_options
@click.option("--apply", "is_applied", is_flag=True, help="Apply the top-up immediately.")
@support.by
@as_json
@with_services
def create(
    services: Container,
    *,
    package_id: str,
    add_micros: int | None,
    fill_micros: int | None,
    status: str,
    reference: str,
    reason: str,
    is_applied: bool,
    caller: Caller,
    as_json: bool,
) -> None:
    """Select and freeze the wallets, and print their number and the tokens needed.

    \b
    flask top-ups create --package basic --token 100 --reference spring-2030 --reason "Spring gift"
    """
    new = NewBatch(
        reference=reference,
        target=_target(package_id, None, status),
        amount=_amount(add_micros, fill_micros),
        reason=reason,
        caller=caller,
    )
    made = services.top_ups.create(new, is_applied=is_applied)
    if made.replayed:
        click.echo("Asked for before, under the same reference.", err=True)
    _go_on(services, made)
    _echo(services, made.batch.id, as_json=as_json)


@top_ups.command("apply")
@number
@support.by
@as_json
@with_services
def apply(services: Container, number: int, caller: Caller, as_json: bool) -> None:
    """Top up the wallets of a dry run. After an interruption, workers continue.

    \b
    flask top-ups apply 3
    """
    _go_on(services, services.top_ups.apply(number, caller))
    _echo(services, number, as_json=as_json)


@top_ups.command("discard")
@number
@support.by
@with_services
def discard(services: Container, number: int, caller: Caller) -> None:
    """Discard a dry run: its reference may be used again.

    \b
    flask top-ups discard 3
    """
    services.top_ups.discard(number, caller)
    click.echo(f"Discarded {number}.")


@top_ups.command("show")
@number
@as_json
@with_services
def show(services: Container, number: int, as_json: bool) -> None:
    """Print a top-up and its progress.

    \b
    flask top-ups show 3
    """
    _echo(services, number, as_json=as_json)


@top_ups.command("list")
@click.option("--schedule", "schedule_id", type=click.IntRange(1, NEWEST), help="Only top-ups made by this schedule.")
@page_size
@support.before_number
@as_json
@with_services
def list_top_ups(services: Container, schedule_id: int | None, limit: int, before: int | None, as_json: bool) -> None:
    """List top-ups of many wallets, newest first.

    \b
    flask top-ups list --limit 20
    """
    columns = ("id", "created_at", "state", "reference", "package_id", "wallets", "topped_up", "skipped", "refused",
               "posted_token")  # fmt: skip
    page = services.top_ups.list(limit, before or NEWEST, schedule_id=schedule_id)
    echo_page(page, top_up_answer, columns, as_json=as_json, more="--before")


@top_ups.command("wallets")
@number
@click.option("--outcome", type=click.Choice([str(outcome) for outcome in (*OUTCOMES, WAITING)]))
@page_size
@support.after_id
@as_json
@with_services
def list_wallets(
    services: Container, *, number: int, outcome: str | None, limit: int, after: str | None, as_json: bool
) -> None:
    """List the wallets of a top-up by id, with their outcomes.

    \b
    flask top-ups wallets 3 --outcome balance_out_of_range
    """
    page = services.top_ups.wallets(number, limit, after or FIRST_ID, outcome=outcome)
    columns = ("user_id", "planned_token", "outcome", "posted_token", "transaction_id")
    echo_page(page, top_up_wallet_answer, columns, as_json=as_json, more="--after")


@click.group("top-up-schedules")
def top_up_schedules() -> None:
    """Schedules of top-ups: each day, week or month, for a package or one user."""


@top_up_schedules.command("create")
@click.option("--package", "package_id", type=support.ID, help="For all wallets of this package.")
@click.option("--user", "user_id", type=support.ID, help="Instead of --package: for this user's wallet.")
@_amount_options
@click.option("--period", type=click.Choice([period.value for period in Period]), required=True)
@click.option("--day", type=click.IntRange(1, 31), help="Weekly: 1 (Monday) to 7; monthly: 1 to 31.")
@click.option("--starts-on", type=DAY, help="The first day on which it may fall due, in UTC.  [today]")
@click.option("--ends-on", type=DAY, help="The last day on which it may fall due.")
@click.option(
    "--catch-up",
    type=click.Choice([choice.value for choice in CatchUp]),
    default=CatchUp.EACH.value,
    show_default=True,
    help="Which periods to make up for if no worker ran.",
)
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only print the due dates and the number of wallets.")
@support.by
@as_json
@with_services
def create_schedule(
    services: Container,
    *,
    package_id: str | None,
    user_id: str | None,
    add_micros: int | None,
    fill_micros: int | None,
    status: str,
    reference: str,
    reason: str,
    period: str,
    day: int | None,
    starts_on: date | None,
    ends_on: date | None,
    catch_up: str,
    is_dry_run: bool,
    caller: Caller,
    as_json: bool,
) -> None:
    """Create a schedule that tops up wallets each day, week or month.

    \b
    flask top-up-schedules create --package basic --token 100 --period monthly --day 31 --reference basic --reason Gift
    """
    if (package_id is None) == (user_id is None):
        raise click.UsageError("Give either --package or --user.")
    new = NewSchedule(
        reference=reference,
        target=_target(package_id, user_id, status),
        amount=_amount(add_micros, fill_micros),
        rhythm=Rhythm(Calendar(Period(period), day), ends_on, CatchUp(catch_up)),
        starts_on=starts_on,
        reason=reason,
        caller=caller,
    )
    if is_dry_run:
        echo_object(outlook_answer(services.top_up_schedules.dry_run(new)), as_json=as_json)
        return
    made = services.top_up_schedules.create(new)
    if made.replayed:
        click.echo("Created before, under the same reference.", err=True)
    echo_object(schedule_answer(made), as_json=as_json)


@top_up_schedules.command("list")
@page_size
@support.before_number
@as_json
@with_services
def list_schedules(services: Container, limit: int, before: int | None, as_json: bool) -> None:
    """List schedules, newest first.

    \b
    flask top-up-schedules list
    """
    columns = ("id", "state", "reference", "package_id", "user_id", "token", "fill_up_to_token", "period", "day",
               "next_on")  # fmt: skip
    page = services.top_up_schedules.list(limit, before or NEWEST)
    echo_page(page, schedule_head_answer, columns, as_json=as_json, more="--before")


@top_up_schedules.command("show")
@number
@as_json
@with_services
def show_schedule(services: Container, number: int, as_json: bool) -> None:
    """Print a schedule, its next due day and number of wallets. `top-ups list --schedule` has its history.

    \b
    flask top-up-schedules show 7
    """
    echo_object(schedule_answer(services.top_up_schedules.get(number)), as_json=as_json)


def _state_command(name: str, change: Callable[[Container], Callable[..., ScheduleView]], help: str) -> None:
    @top_up_schedules.command(name, help=help)
    @number
    @reason
    @support.by
    @as_json
    @with_services
    def command(services: Container, number: int, reason: str, caller: Caller, as_json: bool) -> None:
        changed = change(services)(number, reason=reason, caller=caller)
        echo_object(schedule_answer(changed), as_json=as_json)


_state_command(
    "pause",
    lambda services: services.top_up_schedules.pause,
    'Have a schedule fall due no more until it is resumed.\n\n\b\nflask top-up-schedules pause 7 --reason "Audit"',
)
_state_command(
    "resume",
    lambda services: services.top_up_schedules.resume,
    "Have it fall due again; what fell due before today meanwhile is left out.\n\n\b\n"
    'flask top-up-schedules resume 7 --reason "Audit is over"',
)
_state_command(
    "end",
    lambda services: services.top_up_schedules.end,
    'Have it never fall due again.\n\n\b\nflask top-up-schedules end 7 --reason "Price list changed"',
)


def _go_on(services: Container, view: TopUpView) -> None:
    if view.batch.state is not TopUpState.APPLYING:
        return
    try:
        with click.progressbar(length=view.batch.planned.wallets, label="Topping up", file=sys.stderr) as bar:
            services.top_ups.go_on(view.batch.id, lambda: True, bar.update)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. Workers go on with top-up {view.batch.id}.", err=True)
        sys.exit(INTERRUPTED)


def _echo(services: Container, number: int, *, as_json: bool) -> None:
    view = services.top_ups.get(number)
    echo_object(top_up_answer(view), as_json=as_json)
    if view.batch.state is TopUpState.READY:
        click.echo(f"Nothing is posted yet: flask top-ups apply {number}", err=True)
