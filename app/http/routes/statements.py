"""What operators call to see how one wallet's balance came about. Part of the admin API."""

from __future__ import annotations

from flask import Blueprint, Response

from app.domain.errors import Archived, WalletNotFound
from app.http import filters, tables
from app.http.openapi.describe import ItemsOf, OrTable, answers
from app.http.paging import position
from app.http.query import PAGE, read, takes
from app.http.routes import container, success
from app.stores.postgres.exports.columns import Style
from app.wire import columns
from app.wire.cursors import OLDEST_NUMBER_FIRST
from app.wire.statements import (
    DayBalanceAnswer,
    StatementAnswer,
    day_balance_answer,
    statement_answer,
    statement_lines,
)
from app.wire.tables import Format, csv_of_rows

blueprint = Blueprint("statements", __name__, url_prefix="/api/admin/wallets")


@blueprint.get("/<id:user_id>/statement")
@takes(*PAGE, *filters.ENTRIES_OF_WALLET)
@answers(OrTable(StatementAnswer), refuses=(WalletNotFound, Archived))
def show_statement(user_id: str) -> Response:
    """All entries between two moments, oldest first, with opening and closing balance."""
    wanted = filters.entries_of_wallet()
    format = tables.wanted()
    if format is not None:
        tables.refuse_pages()
        style = Style.SHEET if format is Format.CSV else Style.EXACT
        told, export = container().statements.export(user_id, wanted, style)
        return tables.respond("statement", export.columns, statement_lines(told, export), format)
    limit, after_id = position(OLDEST_NUMBER_FIRST)
    return success("Statement", statement_answer(container().statements.page(user_id, wanted, limit, after_id)))


@blueprint.get("/<id:user_id>/balances")
@takes(*filters.DAYS)
@answers(ItemsOf(DayBalanceAnswer, as_table=True), refuses=(WalletNotFound, Archived))
def list_balances(user_id: str) -> Response:
    """The posted balance at the end of each day, by default for the last 30 days."""
    days = read(filters.DAYS)
    found = container().statements.balances(user_id, days.get("from"), days.get("to"))
    answers = [day_balance_answer(each) for each in found]
    format = tables.wanted()
    if format is not None:
        return tables.respond("balances", columns.DAY_BALANCES, csv_of_rows(columns.DAY_BALANCES, answers), format)
    return success("Balances", {"items": answers})
