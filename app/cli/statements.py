"""Commands on how one wallet's balance came about."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from typing import Any

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.exports import FORMATS, MONTH, TABLE, in_range, output, write
from app.cli.support import as_json, echo_object, echo_page, echo_table, page_size, with_services
from app.domain import reports
from app.domain.pages import NEWEST
from app.domain.reports import Entries
from app.operations.exports import Export
from app.operations.reports import PricedEntry
from app.stores.postgres.exports.columns import Style
from app.wire.answers import transaction_answer
from app.wire.statements import day_balance_answer, statement_answer, statement_lines
from app.wire.tables import Format

DAY = support.Checked("day", reports.day)

user_id = click.argument("user_id", type=support.ID)


@click.command("statement")
@user_id
@click.option("--from", "since", type=support.MOMENT_OR_DAY, help="A day (UTC), or a moment with its offset.")
@click.option("--to", "until", type=support.MOMENT_OR_DAY, help="The first day or moment after the range.")
@click.option("--month", type=MONTH, help="A month, such as 2030-01, instead of --from and --to.")
@click.option("--format", "format", type=click.Choice([TABLE, *FORMATS]), default=TABLE, show_default=True)
@output
@page_size
@click.option("--after", type=click.IntRange(0, NEWEST), default=0, help="Start after this entry (tables only).")
@as_json
@with_services
def statement(
    services: Container,
    *,
    user_id: str,
    since: datetime | None,
    until: datetime | None,
    month: tuple[date, date] | None,
    format: str,
    output: Any,
    limit: int,
    after: int,
    as_json: bool,
) -> None:
    """All entries of a wallet between two days, oldest first, with opening and closing balance.

    \b
    flask wallets statement alice --month 2030-01
    flask wallets statement alice --month 2030-01 --format csv --output january.csv
    """
    of_month = None if month is None else (reports.midnight(month[0]), reports.midnight(month[1]))
    wanted = Entries(*in_range(since, until, of_month))
    if format != TABLE:
        write(output, Format(format), lambda style: _export(services, user_id, wanted, style))
        return
    found = services.statements.page(user_id, wanted, limit, after)
    answer: dict[str, Any] = {**statement_answer(found)}
    if as_json:
        del answer["next_cursor"]
        echo_object({**answer, "next": found.entries.next_key}, as_json=True)
        return
    echo_object({name: answer[name] for name in ("opening_token", "closing_token")}, as_json=False)
    click.echo()
    columns = ("id", "created_at", "kind", "token", "balance_after", "model", "reference", "actor")
    echo_page(found.entries, _entry, columns, as_json=False, more="--after")


@click.command("balances")
@user_id
@click.option("--from", "since", type=DAY, help="First day, such as 2030-01-31 (UTC).")
@click.option("--to", "until", type=DAY, help="The day after the last one.")
@as_json
@with_services
def balances(services: Container, user_id: str, since: date | None, until: date | None, as_json: bool) -> None:
    """The posted balance of a wallet at the end of each day, by default for the last 30 days.

    \b
    flask wallets balances alice --from 2030-01-01 --to 2030-02-01
    """
    answers = [day_balance_answer(found) for found in services.statements.balances(user_id, since, until)]
    if as_json:
        echo_object({"items": answers}, as_json=True)
    else:
        echo_table(("day", "balance_token"), answers)


def _export(services: Container, user_id: str, wanted: Entries, style: Style) -> Export:
    told, export = services.statements.export(user_id, wanted, style)
    return replace(export, blocks=statement_lines(told, export))


def _entry(priced: PricedEntry) -> Any:
    return transaction_answer(priced.entry, priced.card)
