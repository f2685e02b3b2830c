"""Wallets: the list, and one wallet's balance with its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from flask import Blueprint, Response, url_for
from werkzeug.exceptions import BadRequest

from app.console import text
from app.console.access import may, needs, services
from app.console.charts import LineChart, Series, bars, line_chart
from app.console.downloads import download, is_available
from app.console.filters import Filtered, Filters
from app.console.forms import Choice, Field, Kind, amount, identifier, plain
from app.console.pages import page
from app.console.paging import paged
from app.console.scopes import feature_field, package_choices
from app.domain import reports
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.audit import AuditEntry, AuditFilter
from app.domain.errors import Archived, Unavailable
from app.domain.keys import KeyScope
from app.domain.pages import FIRST_ID, Page
from app.domain.reports import Entries, EntryKind, WalletOrder, Wallets, WalletSort, midnight
from app.domain.wallets import Balance, WalletStatus, wallet_of
from app.operations.reports import PricedEntry
from app.operations.wallets import check_position
from app.stores.postgres.exports.columns import Style
from app.wire.cursors import BY_EXPIRY, OLDEST_NUMBER_FIRST, Order
from app.wire.statements import statement_lines
from app.wire.tables import Format, check_available

blueprint = Blueprint("wallets", __name__, url_prefix="/wallets")

LATEST = 10
CHANGES_TOLD = 10
TONES = {WalletStatus.ACTIVE: "good", WalletStatus.SUSPENDED: "warn", WalletStatus.CLOSED: "bad"}

_STATUSES: Sequence[Choice] = [(status, str(status)) for status in WalletStatus]
_YES_OR_NO: Sequence[Choice] = (("yes", "yes"), ("no", "no"))
_SORTS: Sequence[Choice] = (
    (f"-{WalletSort.BALANCE}", "highest balance"),
    (WalletSort.BALANCE, "lowest balance"),
    (f"-{WalletSort.DEBT}", "largest debt"),
    (f"-{WalletSort.ACTIVITY}", "latest activity"),
    (WalletSort.ACTIVITY, "longest idle"),
)


def _yes(given: str) -> bool:
    return given == "yes"


FILTERS = Filters(
    Field("search", "User id has", identifier(), is_required=False),
    Field("package_id", "Package", plain, Kind.CHOICE, is_required=False, choices=package_choices),
    Field("status", "Status", plain, Kind.CHOICE, is_required=False, choices=_STATUSES),
    Field("in_debt", "Owes", _yes, Kind.CHOICE, is_required=False, choices=_YES_OR_NO),
    Field("with_holds", "Holds", _yes, Kind.CHOICE, is_required=False, choices=_YES_OR_NO),
    Field(
        "balance_below",
        "Posted below",
        amount(allow_negative=True, allow_zero=True),
        Kind.NUMBER,
        is_required=False,
        unit="tokens",
    ),
    Field(
        "balance_above",
        "Posted above",
        amount(allow_negative=True, allow_zero=True),
        Kind.NUMBER,
        is_required=False,
        unit="tokens",
    ),
    Field("sort", "Sorted by", WalletOrder.named, Kind.CHOICE, is_required=False, choices=_SORTS, unchosen="user id"),
)
_KINDS: Sequence[Choice] = [(kind, text.words(kind)) for kind in EntryKind]
STATEMENT = Filters(
    Field("from", "From", reports.day, Kind.DAY, is_required=False),
    Field("to", "Up to, not including", reports.day, Kind.DAY, is_required=False),
    Field("kind", "Kind", plain, Kind.CHOICE, is_required=False, choices=_KINDS),
    feature_field(),
    Field("model", "Model", identifier(), is_required=False),
)
_NO_FILTERS = Filters()


@dataclass(frozen=True, slots=True)
class Row:
    """A ledger entry as shown. `refund_url` is the form that refunds the run, or None if it can't be refunded."""

    priced: PricedEntry
    is_corrected: bool
    refund_url: str | None


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    filtered = FILTERS.read()
    found = None
    if filtered.is_valid:
        wanted, order, wallets = _wanted(filtered), _order(filtered), services().wallet_admin
        found = paged(
            Order(FIRST_ID, lambda typed: check_position(order, typed)),
            lambda limit, after: wallets.list(limit, after, wanted, order),
        )
    return page("wallets/index.html", filtered.status, filtered=filtered, paged=found, tones=TONES)


@blueprint.get("/show/<id:user_id>")
@needs(KeyScope.READ)
def show(user_id: str) -> Response:
    _NO_FILTERS.read()
    found = services().wallet_admin.get(user_id)
    latest = services().reports.transactions(Entries(), LATEST, user_id=user_id)
    return page(
        "wallets/show.html",
        found=found,
        tone=TONES[found.wallet.status],
        parts=bars(_parts(found.balance), text.amount),
        holds=_holds(user_id),
        chart=_chart(user_id),
        rows=_rows(latest.items),
        has_more=latest.next_key is not None,
        changes=_changes(user_id),
        statuses=[status for status in WalletStatus if status is not found.wallet.status],
    )


@blueprint.get("/statement/<id:user_id>")
@needs(KeyScope.READ)
def statement(user_id: str) -> Response:
    """A statement: the entries of a range of days, oldest first, with the balances before and after."""
    filtered = STATEMENT.read()
    if not filtered.is_valid or not _is_a_range(filtered):
        return page("wallets/statement.html", 400, user_id=user_id, filtered=filtered, paged=None)
    wanted, span = _entries(filtered), None

    def fetch(limit: int, after_id: int) -> Page[PricedEntry, int]:
        nonlocal span
        told = services().statements.page(user_id, wanted, limit, after_id)
        span = told.span
        return told.entries

    found = paged(OLDEST_NUMBER_FIRST, fetch)
    return page(
        "wallets/statement.html",
        user_id=user_id,
        filtered=filtered,
        paged=found,
        rows=_rows(found.items),
        span=span,
        downloads=[
            (format, url_for("wallets.download_statement", format=format, user_id=user_id) + filtered.query())
            for format in Format
            if is_available(format)
        ],
    )


@blueprint.get("/download/<any(csv, parquet):format>/<id:user_id>")
@needs(KeyScope.READ)
def download_statement(format: str, user_id: str) -> Response:
    filtered = STATEMENT.read()
    if not filtered.is_valid or not _is_a_range(filtered):
        raise BadRequest("A filter of this statement is wrong. Open the page that it is of, which says which one.")
    chosen = Format(format)
    check_available(chosen)
    style = Style.SHEET if chosen is Format.CSV else Style.EXACT
    told, export = services().statements.export(user_id, _entries(filtered), style)
    return download("statement", export.columns, statement_lines(told, export), chosen)


@blueprint.get("/holds/<id:user_id>")
@needs(KeyScope.READ)
def holds(user_id: str) -> Response:
    """All open holds, in the order they expire."""
    _NO_FILTERS.read()
    service = services().holds
    found = paged(BY_EXPIRY, lambda limit, after: service.list(user_id, limit, after))
    return page("wallets/holds.html", user_id=user_id, paged=found)


def _wanted(filtered: Filtered) -> Wallets:
    # Not `filtered.values`, which leaves out False: here False is a filter too.
    given = {name: value for name, value in filtered.filled.values.items() if value is not None}
    given.pop("sort", None)
    names = {"balance_below": "balance_below_micros", "balance_above": "balance_above_micros"}
    return Wallets(**{names.get(name, name): value for name, value in given.items()})


def _order(filtered: Filtered) -> WalletOrder:
    order: WalletOrder = filtered.values.get("sort") or WalletOrder()
    return order


def _entries(filtered: Filtered) -> Entries:
    given = dict(filtered.values)
    since: date | None = given.pop("from", None)
    until: date | None = given.pop("to", None)
    if "kind" in given:
        given["kind"] = EntryKind(given["kind"])
    return Entries(None if since is None else midnight(since), None if until is None else midnight(until), **given)


def _is_a_range(filtered: Filtered) -> bool:
    since, until = filtered.values.get("from"), filtered.values.get("to")
    return since is None or until is None or since < until


def _parts(balance: Balance) -> Sequence[tuple[str, int, str | None]]:
    """The posted balance, what is deducted from it, and what remains spendable."""
    return [
        ("Posted", balance.posted_micros, None),
        ("Pending", balance.pending_micros, None),
        ("Debt", balance.debt_micros, None),
        ("Held", balance.held_micros, None),
        ("Spendable", balance.spendable_micros, None),
    ]


def _holds(user_id: str) -> Any:
    """The first open holds. None while Redis, which keeps them, is away."""
    try:
        return services().holds.list(user_id, LATEST)
    except Unavailable:
        return None


def _chart(user_id: str) -> LineChart | None:
    """A chart of the balance of the last days. None if these were archived."""
    try:
        days = services().statements.balances(user_id)
    except Archived:
        return None
    return line_chart(
        "Posted balance at the end of each day, tokens",
        [midnight(each.day) for each in days],
        [Series("posted", [each.balance_micros for each in days])],
        text.rounded,
        label=lambda moment: text.day(moment.date()),
        unit=MICROS_PER_TOKEN,
        unit_name="tokens",
        exact=text.amount,
    )


def _rows(entries: Sequence[PricedEntry]) -> Sequence[Row]:
    runs = {id(priced): priced.entry.end_id for priced in entries if priced.entry.kind == EntryKind.USAGE}
    costs = services().statements.corrected([end_id for end_id in runs.values() if end_id is not None])
    rows = []
    for priced in entries:
        end_id = runs.get(id(priced))
        if end_id is None:
            rows.append(Row(priced, is_corrected=False, refund_url=None))
            continue
        is_refundable = may(KeyScope.WALLETS) and bool(costs.get(end_id, priced.entry.cost_micros or 0))
        url = url_for("wallet_changes.refund_run", end_id=end_id) if is_refundable else None
        rows.append(Row(priced, is_corrected=end_id in costs, refund_url=url))
    return rows


def _changes(user_id: str) -> Sequence[AuditEntry] | None:
    """The latest changes of the wallet. None if the session may not read the audit log."""
    if not may(KeyScope.AUDIT):
        return None
    wanted = AuditFilter(subject_kind="wallet", subject_id=wallet_of(user_id))
    return services().audit_log.list(wanted, CHANGES_TOLD).items
