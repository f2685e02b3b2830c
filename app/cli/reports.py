"""Commands on all wallets together: usage and revenue, totals, the ledger as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, TypeVar

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.exports import FORMATS, MONTH, TABLE, in_range, output, write
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain import inputs, reports
from app.domain.reports import RUN_KINDS, Entries, EntryKind, Group, Usage
from app.operations.reports import check_key
from app.wire.reports import totals_answer, usage_row_answer
from app.wire.tables import Format

F = TypeVar("F", bound=Callable[..., Any])

DAY = support.Checked("day", reports.day)
GROUPS = support.Checked("groups", reports.groups)


def _moment(text: str) -> datetime:
    try:
        return reports.midnight(reports.day(text))
    except ValueError:
        return inputs.moment(text)


MOMENT = support.Checked("moment", _moment)


def _filters(kinds: Sequence[EntryKind]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(
            (
                click.option(
                    "--package", "package_id", type=support.ID, help="Only wallets that have this package now."
                ),
                click.option("--feature", "feature_endpoint_id", type=support.ID),
                click.option("--model", type=support.ID),
                click.option("--user", "user_id", type=support.ID),
                click.option("--price", "price_id", type=click.IntRange(0, 2**63 - 1), help="0: the default rule."),
                click.option("--kind", type=click.Choice([kind.value for kind in kinds])),
                click.option("--month", type=MONTH, help="A month, such as 2030-01, instead of --from and --to."),
            )
        ):
            command = option(command)
        return command

    return decorate


@click.group("reports")
def reports_group() -> None:
    """Reports over all wallets."""


@reports_group.command("usage")
@click.option("--from", "since", type=DAY, help="First day, such as 2030-01-31 (UTC).")
@click.option("--to", "until", type=DAY, help="The day after the last one.")
@click.option("--by", "groups", type=GROUPS, help=f"Some of {', '.join(Group)}, with commas.")
@_filters(RUN_KINDS)
@click.option("--format", "format", type=click.Choice([TABLE, *FORMATS]), default=TABLE, show_default=True)
@output
@page_size
@click.option("--after", "after", type=support.Checked("key", str), help="Start after this key (tables only).")
@as_json
@with_services
def usage(
    services: Container,
    /,
    *,
    since: date | None,
    until: date | None,
    groups: tuple[Group, ...] | None,
    month: tuple[date, date] | None,
    kind: str | None,
    format: str,
    output: Any,
    limit: int,
    after: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """Usage and revenue of a range of days, summed up.

    \b
    flask reports usage --month 2030-01 --by model
    flask reports usage --month 2030-01 --by day,user_id --format csv --output january.csv
    """
    since, until = in_range(since, until, month)
    groups = groups or ()
    wanted = Usage(since, until, groups, kind=None if kind is None else EntryKind(kind), **filters)
    if format != TABLE:
        write(output, Format(format), lambda style: services.exports.usage(wanted, style))
        return
    if after is not None:
        _check_after(wanted, after)
    page = services.reports.usage(wanted, limit, after or "")
    columns = (*groups, "runs", "input_token", "output_token", "base_cost", "profit", "cost", "corrected",
               "written_off", "net")  # fmt: skip
    echo_page(page, lambda row: usage_row_answer(groups, row), columns, as_json=as_json, more="--after")


@reports_group.command("totals")
@as_json
@with_services
def totals(services: Container, as_json: bool) -> None:
    """What all wallets together have, owe and hold.

    \b
    flask reports totals
    """
    answer = totals_answer(services.reports.totals())
    lines = {**answer, **{f"failed_ends_{state}": ends for state, ends in answer["failed_ends"].items()}}
    del lines["failed_ends"]
    echo_object(answer if as_json else lines, as_json=as_json)


@click.group("transactions")
def transactions() -> None:
    """The ledger over all wallets."""


@transactions.command("export")
@click.option("--from", "since", type=MOMENT, help="A day (UTC), or a moment with its offset.")
@click.option("--to", "until", type=MOMENT, help="The first day or moment after the range.")
@_filters(tuple(EntryKind))
@click.option("--format", "format", type=click.Choice(FORMATS), default=Format.CSV.value, show_default=True)
@output
@with_services
def export(
    services: Container,
    /,
    *,
    since: datetime | None,
    until: datetime | None,
    month: tuple[date, date] | None,
    kind: str | None,
    format: str,
    output: Any,
    **filters: Any,
) -> None:
    """Write all ledger entries to a file, oldest first.

    \b
    flask transactions export --month 2030-01 --format csv --output january.csv
    """
    if month is not None:
        since, until = in_range(since, until, (reports.midnight(month[0]), reports.midnight(month[1])))
    else:
        since, until = in_range(since, until, None)
    wanted = Entries(since, until, kind=None if kind is None else EntryKind(kind), **filters)
    write(output, Format(format), lambda style: services.exports.transactions(wanted, style))


def _check_after(wanted: Usage, after: str) -> None:
    try:
        check_key(wanted, after)
    except ValueError:
        raise click.UsageError("--after must be a key that this report has named.") from None
