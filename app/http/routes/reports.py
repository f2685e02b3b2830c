"""Reports over all wallets, and the ledger as a list: as JSON by the page, or as a table."""

from __future__ import annotations

from flask import Blueprint, Response

from app.domain.errors import WalletNotFound
from app.domain.pages import FIRST_ID
from app.domain.reports import Entries
from app.http import filters, tables
from app.http.openapi.describe import PageOf, answers
from app.http.paging import Listing, newest_first
from app.http.query import PAGE, takes
from app.http.routes import container, success
from app.operations.reports import check_key
from app.stores.postgres.exports.columns import Style
from app.wire.answers import TransactionAnswer, transaction_answer
from app.wire.cursors import Order
from app.wire.reports import TotalsAnswer, UsageRowAnswer, totals_answer, usage_row_answer
from app.wire.tables import Format

blueprint = Blueprint("reports", __name__, url_prefix="/api/admin")


@blueprint.get("/usage")
@takes(*PAGE, *filters.USAGE)
@answers(PageOf(UsageRowAnswer))
def report_usage() -> Response:
    """Usage and revenue for a range of days, summed up by any grouping. Days are UTC."""
    wanted = filters.usage()
    format = tables.wanted()
    if format is not None:
        tables.refuse_pages()
        export = container().exports.usage(wanted, _style(format))
        return tables.respond("usage", export.columns, export.blocks, format)
    reports = container().reports
    listing = Listing(
        Order(FIRST_ID, lambda text: check_key(wanted, text)),
        lambda limit, after: reports.usage(wanted, limit, after),
        lambda row: usage_row_answer(wanted.groups, row),
    )
    return success("Usage", listing.page())


@blueprint.get("/totals")
@answers(TotalsAnswer)
def report_totals() -> Response:
    """What all wallets together have, owe and hold."""
    return success("Totals", totals_answer(container().reports.totals()))


@blueprint.get("/transactions")
@takes(*PAGE, *filters.ENTRIES)
@answers(PageOf(TransactionAnswer))
def list_transactions() -> Response:
    """The ledger over all wallets, newest first."""
    return _transactions(filters.entries(), None)


@blueprint.get("/wallets/<id:user_id>/transactions")
@takes(*PAGE, *filters.ENTRIES_OF_WALLET)
@answers(PageOf(TransactionAnswer), refuses=(WalletNotFound,))
def list_wallet_transactions(user_id: str) -> Response:
    """The ledger of one wallet, newest first."""
    return _transactions(filters.entries(), user_id)


def _transactions(wanted: Entries, user_id: str | None) -> Response:
    format = tables.wanted()
    if format is not None:
        tables.refuse_pages()
        export = container().exports.transactions(wanted, _style(format), user_id=user_id)
        return tables.respond("transactions", export.columns, export.blocks, format)
    reports = container().reports
    listing = newest_first(
        lambda limit, before_id: reports.transactions(wanted, limit, before_id, user_id=user_id),
        lambda priced: transaction_answer(priced.entry, priced.card),
    )
    return success("Transactions", listing.page())


def _style(format: Format) -> Style:
    return Style.SHEET if format is Format.CSV else Style.EXACT
