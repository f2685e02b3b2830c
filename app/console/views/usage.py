"""Usage and revenue: the reports as charts and tables, and as files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, url_for
from werkzeug.exceptions import BadRequest

from app.console import text
from app.console.access import needs, services
from app.console.charts import Bar, LineChart, Series, bars, line_chart
from app.console.downloads import download, is_available
from app.console.filters import Filtered, Filters
from app.console.forms import Choice, Field, Kind, identifier, plain, whole
from app.console.pages import page
from app.console.paging import paged
from app.console.scopes import feature_field, package_choices
from app.domain import reports
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.keys import KeyScope
from app.domain.pages import FIRST_ID
from app.domain.reports import RUN_KINDS, EntryKind, Group, Usage, midnight, next_month
from app.operations.reports import check_key
from app.stores.postgres.exports.columns import Style
from app.stores.postgres.usage import UsageRow, group_value
from app.wire.cursors import Order
from app.wire.tables import Format, check_available

blueprint = Blueprint("usage", __name__, url_prefix="/usage")

DAYS_DEFAULT = 30
BARS_MAX = 10
DAYS_CHARTED_MAX = 400
# Upper bound of rows, by day, feature and model, that the charts are made from. Charts of more would be unreadable.
CHART_ROWS_MAX = 50_000
_LABELS = {
    Group.DAY: "Day",
    Group.FEATURE: "Feature endpoint",
    Group.MODEL: "Model",
    Group.USER: "User",
    Group.PRICE: "Price",
}
_GROUPS: Sequence[Choice] = [(group, _LABELS[group]) for group in Group]
_KINDS: Sequence[Choice] = [(kind, text.words(kind)) for kind in RUN_KINDS]

FILTERS = Filters(
    Field("from", "From", reports.day, Kind.DAY, is_required=False),
    Field("to", "Up to, not including", reports.day, Kind.DAY, is_required=False),
    feature_field(),
    Field("model", "Model", identifier(), is_required=False),
    Field("user_id", "User", identifier(), is_required=False),
    Field("package_id", "Package", plain, Kind.CHOICE, is_required=False, choices=package_choices),
    Field("price_id", "Price", whole(0, 2**63 - 1), is_required=False, help="0: the default rule."),
    Field("kind", "Kind", plain, Kind.CHOICE, is_required=False, choices=_KINDS),
    Field("group_by", "In the table, by", Group, Kind.MANY, is_required=False, choices=_GROUPS),
)


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums behind a point of a chart, a bar or a row."""

    runs: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    base_cost_micros: int = 0
    profit_micros: int = 0
    cost_micros: int = 0
    corrected_micros: int = 0
    written_off_micros: int = 0

    @classmethod
    def of(cls, rows: Sequence[UsageRow]) -> Sums:
        return cls(*(sum(getattr(row, name) for row in rows) for name in cls.__dataclass_fields__))

    @property
    def net_micros(self) -> int:
        return self.cost_micros - self.corrected_micros - self.written_off_micros


@blueprint.get("")
@needs(KeyScope.READ)
def show() -> Response:
    filtered = FILTERS.read()
    today = services().clock.now().date()
    address = url_for("usage.show")
    values: dict[str, Any] = {
        "filtered": filtered,
        "spans": [
            (label, address + filtered.query(**{"from": since, "to": until}), _is_span(filtered, since, until))
            for label, since, until in _spans(today)
        ],
    }
    if not filtered.is_valid:
        return page("usage.html", filtered.status, paged=None, **values)
    wanted = _wanted(filtered, today)
    service = services().reports
    order = Order(FIRST_ID, lambda typed: check_key(wanted, typed))
    found = paged(order, lambda limit, after: service.usage(wanted, limit, after))
    by_days = service.usage(replace(wanted, groups=(Group.DAY, Group.FEATURE, Group.MODEL)), CHART_ROWS_MAX).items
    return page(
        "usage.html",
        paged=found,
        wanted=wanted,
        labels=[_LABELS[group] for group in wanted.groups],
        cells=lambda row: _cells(wanted.groups, row),
        total=Sums.of(by_days),
        charts=_charts(by_days, *_charted(filtered, today)),
        by_feature=_bars(by_days, 1, Group.FEATURE, filtered),
        by_model=_bars(by_days, 2, Group.MODEL, filtered),
        downloads=[
            (format, url_for("usage.table", format=format) + _query(wanted))
            for format in Format
            if is_available(format)
        ],
        **values,
    )


@blueprint.get("/usage.<any(csv, parquet):format>")
@needs(KeyScope.READ)
def table(format: str) -> Response:
    """The whole report as a file."""
    filtered = FILTERS.read()
    if not filtered.is_valid:
        raise BadRequest("A filter of this table is wrong. Open the page that it is of, which says which one.")
    chosen = Format(format)
    check_available(chosen)
    wanted = _wanted(filtered, services().clock.now().date())
    style = Style.SHEET if chosen is Format.CSV else Style.EXACT
    export = services().exports.usage(wanted, style)
    return download("usage", export.columns, export.blocks, chosen)


def _wanted(filtered: Filtered, today: date) -> Usage:
    given = dict(filtered.values)
    since, until = _days(given.pop("from", None), given.pop("to", None), today)
    groups = tuple(given.pop("group_by", ())) or (Group.DAY,)
    if "kind" in given:
        given["kind"] = EntryKind(given["kind"])
    return Usage(since, until, groups, **given)


def _days(since: date | None, until: date | None, today: date) -> tuple[date, date]:
    """The first day of a report, and the day after its last one."""
    until = until or today + timedelta(days=1)
    return since or until - timedelta(days=DAYS_DEFAULT), until


def _spans(today: date) -> list[tuple[str, date, date]]:
    month = today.replace(day=1)
    before = (month - timedelta(days=1)).replace(day=1)
    tomorrow = today + timedelta(days=1)
    return [
        ("Today", today, tomorrow),
        ("7 days", tomorrow - timedelta(days=7), tomorrow),
        ("30 days", tomorrow - timedelta(days=30), tomorrow),
        ("This month", month, next_month(month)),
        ("Last month", before, month),
    ]


def _is_span(filtered: Filtered, since: date, until: date) -> bool:
    return (filtered.values.get("from"), filtered.values.get("to")) == (since, until)


def _charted(filtered: Filtered, today: date) -> tuple[date, date]:
    """The first day of the charts, and the day after their last one, which isn't in the future."""
    since, until = _days(filtered.values.get("from"), filtered.values.get("to"), today)
    return since, min(until, today + timedelta(days=1))


def _charts(rows: Sequence[UsageRow], since: date, until: date) -> Sequence[LineChart]:
    """Charts of all days asked for, including those without runs. If these are very many, from the first run on."""
    by_day: dict[date, list[UsageRow]] = defaultdict(list)
    for row in rows:
        by_day[row.key[0]].append(row)
    days: list[date] = []
    if by_day:
        first = since if (until - since).days <= DAYS_CHARTED_MAX else min(by_day)
        last = max(until - timedelta(days=1), *by_day)
        days = [first + timedelta(days=i) for i in range((last - first).days + 1)]
    sums = [Sums.of(by_day[day]) for day in days]

    def label(at: Any) -> str:
        return text.day(at.date())

    def of(title: str, write: Callable[[int], str], unit: int, **lines: Callable[[Sums], int]) -> LineChart:
        exact = text.amount if unit == MICROS_PER_TOKEN else None
        series = [Series(text.words(name), [value(each) for each in sums]) for name, value in lines.items()]
        moments = [midnight(day) for day in days]
        return line_chart(
            title, moments, series, write, label=label, unit=unit, exact=exact, empty="Nothing was used in these days."
        )

    return [
        of(
            "Revenue a day, tokens",
            text.rounded,
            MICROS_PER_TOKEN,
            net=lambda each: each.net_micros,
            profit=lambda each: each.profit_micros,
        ),
        of("Runs a day", text.count, 1, runs=lambda each: each.runs),
        of(
            "Tokens of models a day",
            text.count,
            1,
            input=lambda each: each.input_tokens,
            output=lambda each: each.output_tokens,
        ),
        of(
            "Given back a day, tokens",
            text.rounded,
            MICROS_PER_TOKEN,
            corrected=lambda each: each.corrected_micros,
            written_off=lambda each: each.written_off_micros,
        ),
    ]


def _bars(rows: Sequence[UsageRow], place: int, group: Group, filtered: Filtered) -> Sequence[Bar]:
    """Bars of the values with the highest net revenue."""
    found: dict[str, list[UsageRow]] = defaultdict(list)
    for row in rows:
        found[row.key[place]].append(row)
    sums = sorted(((name, Sums.of(of_it).net_micros) for name, of_it in found.items()), key=lambda item: -item[1])
    address = url_for("usage.show")
    return bars(
        [
            (name or "none", net, address + filtered.query(**{group: name}) if name else None)
            for name, net in sums[:BARS_MAX]
        ],
        text.amount,
    )


def _cells(groups: Sequence[Group], row: UsageRow) -> list[str]:
    return [_cell(group, group_value(group, value)) for group, value in zip(groups, row.key, strict=True)]


def _cell(group: Group, value: Any) -> str:
    if value is None:
        return "default rule" if group is Group.PRICE else "none"
    return str(value)


def _query(wanted: Usage) -> str:
    pairs: list[tuple[str, Any]] = [
        ("from", wanted.since),
        ("to", wanted.until),
        *(("group_by", group) for group in wanted.groups),
    ]
    for name in ("package_id", "feature_endpoint_id", "model", "user_id", "price_id", "kind"):
        value = getattr(wanted, name)
        if value is not None:
            pairs.append((name, value))
    return f"?{urlencode(pairs)}"
