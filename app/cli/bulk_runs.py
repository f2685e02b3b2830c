"""Runs a bulk action for a command: drafts it by the options, has the user confirm it, and follows it to its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar
from uuid import UUID

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.failed_end_options import filters
from app.cli.support import as_json, echo_object, echo_table
from app.domain.bulk_actions import BulkKind, BulkOutcome, BulkState
from app.domain.failed_ends import Filter
from app.domain.keys import Caller
from app.operations.bulk_actions import Asked, BulkView
from app.wire.bulk_actions import bulk_action_answer, selection_answer

INTERRUPTED = 130
USERS_PRINTED_MAX = 20

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--all", "is_all", is_flag=True, help="All failed ends that match the filters (all if there are none)."
    ),
    click.option("--reference", type=support.REFERENCE, help="Your own reference, unique per bulk action."),
    click.option("--dry-run", "is_dry", is_flag=True, help="Freeze the selection, print it, and do nothing."),
    click.option("--yes", "is_sure", is_flag=True, help="Confirm without asking."),
    support.by,
    as_json,
)


@dataclass(frozen=True, slots=True)
class BulkOptions:
    is_all: bool
    reference: str | None
    is_dry: bool
    is_sure: bool
    caller: Caller
    as_json: bool

    def asked(self, action: BulkKind, end_ids: Sequence[UUID], matching: Filter, reason: str | None) -> Asked:
        """Raises click.UsageError."""
        if self.reference is None or reason is None:
            raise click.UsageError("A bulk action needs --reference and --reason.")
        which = matching if self.is_all else sorted(set(end_ids))
        return Asked(action, which, selection_answer(which), self.reference, reason, self.caller)


def bulk_options(command: Command) -> Command:
    """Decorates a command that takes `bulk: BulkOptions` and `matching: Filter`."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in BulkOptions.__dataclass_fields__}
        return command(*args, bulk=BulkOptions(**given), **kwargs)

    decorated = filters(run)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[return-value]


def check_selection(end_ids: Sequence[UUID], bulk: BulkOptions, matching: Filter) -> None:
    """Raises click.UsageError."""
    if bulk.is_all == bool(end_ids):
        raise click.UsageError("Give the ids of failed ends, or --all.")
    if not bulk.is_all and matching != Filter():
        raise click.UsageError("Filters go with --all.")
    if bulk.is_dry and bulk.reference is None:
        raise click.UsageError("--dry-run makes a bulk action: it needs --reference.")


def run(services: Container, asked: Asked, options: BulkOptions) -> None:
    """Draft a bulk action, have it confirmed, and process it."""
    view, _ = services.bulk_actions.draft(asked)
    if view.action.state is not BulkState.DRAFT:
        click.echo("Confirmed before, under the same reference.", err=True)
    elif options.is_dry or not _is_meant(view, options):
        echo(view, as_json=options.as_json)
        return
    else:
        action = view.action
        services.bulk_actions.confirm(
            action.id, ends=action.ends, cost_micros=action.cost_micros, caller=options.caller
        )
    follow(services, view.action.id, as_json=options.as_json)


def follow(services: Container, number: int, *, as_json: bool) -> None:
    """Process an action, taking turns with the workers, and print the outcomes of its ends."""
    ends = services.bulk_actions.get(number).action.ends
    done = 0
    try:
        with click.progressbar(length=ends, label="Working", file=sys.stderr) as bar:

            def on_step(view: BulkView) -> None:
                nonlocal done
                now = view.action.ends - view.figures.open
                bar.update(now - done)
                done = now

            view = services.bulk_actions.go_on(number, on_step)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. Workers go on with bulk action {number}.", err=True)
        sys.exit(INTERRUPTED)
    echo(view, as_json=as_json)


def echo(view: BulkView, *, as_json: bool) -> None:
    """Print an action: its ends, their users, and the outcomes."""
    answer: dict[str, Any] = dict(bulk_action_answer(view))
    if as_json:
        echo_object(answer, as_json=True)
        return
    lists = {name: answer.pop(name) for name in ("by_state", "by_error", "by_user", "outcomes")}
    [(kind, which)] = answer.pop("selection").items()
    answer["selection"] = which if kind == "ids" else " ".join(f"{name}={value}" for name, value in which.items())
    echo_object(answer, as_json=False)
    if view.action.state is BulkState.DRAFT:
        del lists["outcomes"]
    for name, rows in lists.items():
        if rows:
            click.echo()
            echo_table(list(rows[0]), rows[:USERS_PRINTED_MAX])
            if len(rows) > USERS_PRINTED_MAX and name == "by_user":
                click.echo(f"... of {view.figures.users} users")
    if view.action.state is BulkState.DRAFT:
        cost = answer["cost"]
        click.echo(
            f"Nothing is done yet: flask bulk-actions confirm {view.action.id} --ends {view.action.ends} --cost {cost}",
            err=True,
        )
    failed = sum(each.ends for each in view.figures.outcomes if each.key == BulkOutcome.FAILED_AGAIN)
    if failed:
        click.echo(f"{failed} failed again: flask bulk-actions ends {view.action.id} --outcome failed_again", err=True)


def _is_meant(view: BulkView, options: BulkOptions) -> bool:
    if options.is_sure:
        return True
    action, cost = view.action, bulk_action_answer(view)["cost"]
    what = "Write off" if action.action is BulkKind.WRITE_OFF else "Replay"
    return click.confirm(f"{what} {action.ends} ends of {view.figures.users} users, {cost} tokens?", err=True)
