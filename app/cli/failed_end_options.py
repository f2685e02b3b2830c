"""Shared by commands on failed ends and debts: the options that select ends, and the printing of sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import click

from app.cli import support
from app.cli.support import echo_object, echo_page
from app.domain import failed_ends as failed
from app.domain.ends import EndState
from app.domain.failed_ends import AgeBand, Filter, Group
from app.domain.pages import Page
from app.domain.reasons import FailureReason
from app.domain.reports import CHARGE_KINDS
from app.operations.failed_end_sums import check_position

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_REASONS = [reason.value for reason in FailureReason]

# Each option's parameter has the name of the filter's field that it fills.
_OPTIONS = (
    click.option("--state", type=click.Choice([EndState.RETRYING.value, EndState.DEAD.value])),
    click.option("--user", "user_id", type=support.ID, help="Only of this user."),
    click.option("--feature", "feature_endpoint_id", type=support.ID),
    click.option("--model", type=support.ID),
    click.option("--package", "package_id", type=support.ID, help="Only wallets that have this package now."),
    click.option("--kind", type=click.Choice([kind.value for kind in CHARGE_KINDS]), help="The kind of charge."),
    click.option("--error", "last_error", type=click.Choice(_REASONS), help="Why it failed."),
    click.option("--from", "since", type=support.MOMENT_OR_DAY, help="Accepted at or after this time."),
    click.option("--to", "until", type=support.MOMENT_OR_DAY, help="Accepted before this time."),
    click.option("--age", type=click.Choice([band.value for band in AgeBand])),
    click.option(
        "--older-than", "older_than_seconds", type=support.DURATION, help="A duration such as 15m, 24h or 7d."
    ),
    click.option("--younger-than", "younger_than_seconds", type=support.DURATION),
    click.option("--min-cost", "cost_min_micros", type=support.LIMIT, help="In tokens."),
    click.option("--max-cost", "cost_max_micros", type=support.LIMIT),
)


def filters(command: Command) -> Command:
    """Decorates a command that takes a `matching: Filter` with the options that make one."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in Filter.__dataclass_fields__}
        age = given.pop("age")
        return command(*args, matching=Filter(**given, age=None if age is None else AgeBand(age)), **kwargs)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run  # type: ignore[return-value]


def _groups(text: str) -> tuple[Group, ...]:
    return failed.groups(text) if text else ()


by_groups = click.option(
    "--by",
    "groups",
    type=support.Checked("groups", _groups),
    default="",
    help=f"Some of {', '.join(Group)}, with commas.",
)
after_position = click.option("--after", default="", help="Start after this position.")


def checked_position(groups: Sequence[Group], text: str) -> str:
    try:
        return check_position(groups, text) if text else text
    except ValueError:
        raise click.BadParameter("Must be what the last page ended with.", param_hint="--after") from None


def echo_sums(
    groups: Sequence[Group],
    page: Page[T, str],
    total: T,
    answer: Callable[[Sequence[Group], T], Mapping[str, Any]],
    sums: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Print sums by group, then the total. The text output has only the columns in `sums`."""
    in_all = answer((), total)
    if as_json:
        items = [answer(groups, item) for item in page.items]
        echo_object({"items": items, "next": page.next_key, "total": in_all}, as_json=True)
        return
    if groups:
        columns = (*(group.value for group in groups), *sums)
        echo_page(page, lambda item: answer(groups, item), columns, as_json=False, more="--after")
        click.echo()
    echo_object({name: in_all[name] for name in sums}, as_json=False)
