"""Usage and earnings by any grouping, summed up from the daily roll-ups and from summaries of whole days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from operator import ge, lt
from typing import Any

import sqlalchemy as sa

from app.domain.inputs import ID_LENGTH_MAX, identifier
from app.domain.reports import EntryKind, Group, Usage
from app.stores.postgres import usage_summaries as summaries
from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.rollups import COSTS, COUNTS
from app.stores.postgres.tables import usage_daily, usage_summaries, wallets

# Values that mean "none" in the roll-ups, whose key columns can't be null.
_NONE: dict[Group, Any] = {Group.MODEL: "", Group.PRICE: 0, Group.FEATURE: ""}

_OF_USAGE = (*COUNTS, *COSTS)
_COUNTED = {
    EntryKind.USAGE: _OF_USAGE,
    EntryKind.REVERSAL: ("reversed_micros",),
    EntryKind.AMENDMENT: ("amended_micros",),
    EntryKind.WRITE_OFF: ("written_off_micros",),
}


@dataclass(frozen=True, slots=True)
class UsageRow:
    """`key` has the values of the requested groups, as the roll-ups store them. Amounts are micro-tokens."""

    key: tuple[Any, ...]
    runs: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    requests: int
    base_cost_micros: int
    profit_micros: int
    cost_micros: int
    corrected_micros: int
    written_off_micros: int

    @property
    def net_micros(self) -> int:
        """What the runs brought after corrections and write-offs."""
        return self.cost_micros - self.corrected_micros - self.written_off_micros


def report(
    connection: sa.Connection, usage: Usage, after: Sequence[Any] | None, limit: int, seconds: float
) -> list[UsageRow]:
    """A page, in the order of the groups; `after` is the key to continue from."""
    allow_seconds(connection, seconds)
    statement = select_usage(usage)
    if after is not None:
        if not usage.groups:
            return []
        columns = sa.tuple_(*statement.selected_columns[: len(usage.groups)])
        statement = statement.where(columns > sa.tuple_(*after))
    width = len(usage.groups)
    return [UsageRow(tuple(row[:width]), *map(int, row[width:])) for row in connection.execute(statement.limit(limit))]


def select_usage(usage: Usage) -> sa.Select[Any]:
    """The requested sums: the groups' columns, then those of `UsageRow`."""
    source = _source(usage)
    columns = [source.c[group] for group in usage.groups]
    summed = {name: _sum(source, name, usage.kind) for name in (*_OF_USAGE, "reversed_micros", "amended_micros")}
    corrected = summed.pop("reversed_micros") + summed.pop("amended_micros")
    statement = sa.select(
        *columns,
        *(column.label(name) for name, column in summed.items()),
        corrected.label("corrected_micros"),
        _sum(source, "written_off_micros", usage.kind).label("written_off_micros"),
    )
    return statement.where(*_conditions(source, usage)).group_by(*columns).order_by(*columns)


def group_value(group: Group, value: Any) -> Any:
    """The value of a group for a value of the roll-ups: None where that means "none"."""
    return None if group in _NONE and value == _NONE[group] else value


def group_column(group: Group, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The same in SQL: null where the column's value means "none"."""
    return sa.func.nullif(column, _NONE[group]) if group in _NONE else column


def key_from(groups: Sequence[Group], values: Any) -> tuple[Any, ...]:
    """Parse a key from JSON. Raises ValueError where it doesn't fit these groups."""
    if not isinstance(values, list) or len(values) != len(groups):
        raise ValueError(values)
    return tuple(map(_key_value, groups, values))


def _key_value(group: Group, value: Any) -> Any:
    if group is Group.PRICE:
        if type(value) is not int or not 0 <= value < 2**63:
            raise ValueError(value)
        return value
    if group is Group.DAY and isinstance(value, str):
        return date.fromisoformat(value)
    return value if value == _NONE.get(group) else identifier(value, ID_LENGTH_MAX)


def _source(usage: Usage) -> sa.FromClause:
    """The roll-ups; or, where no single user or package is asked for, the summaries of the days that have them."""
    if usage.user_id is not None or usage.package_id is not None or Group.USER in usage.groups:
        return usage_daily
    names = [*summaries.KEY, *summaries.SUMS]
    bounds = (("since", ge), ("until", lt))

    def of(table: sa.Table, is_of_it: sa.ColumnElement[bool]) -> sa.Select[Any]:
        # The bounds are repeated in each part, so that each part uses its own index.
        days = [compare(table.c.day, day) for name, compare in bounds if (day := getattr(usage, name)) is not None]
        return sa.select(*(table.c[name] for name in names)).where(is_of_it, *days)

    return sa.union_all(
        of(usage_summaries, usage_summaries.c.day < summaries.MADE_BEFORE),
        of(usage_daily, usage_daily.c.day >= summaries.MADE_BEFORE),
    ).subquery("used")


def _sum(source: sa.FromClause, name: str, kind: EntryKind | None) -> sa.ColumnElement[Any]:
    if kind is not None and name not in _COUNTED[kind]:
        return sa.literal(0, sa.Numeric)
    return sa.func.coalesce(sa.func.sum(source.c[name]), 0)


def _conditions(source: sa.FromClause, usage: Usage) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if usage.since is not None:
        found.append(source.c.day >= usage.since)
    if usage.until is not None:
        found.append(source.c.day < usage.until)
    for name in ("feature_endpoint_id", "model", "user_id", "price_id"):
        value = getattr(usage, name)
        if value is not None:
            found.append(source.c[name] == value)
    if usage.package_id is not None:
        of_package = sa.select(wallets.c.wallet_id).where(wallets.c.package_id == usage.package_id)
        found.append(source.c.wallet_id.in_(of_package))
    if usage.kind is not None:
        found.append(sa.or_(*(source.c[name] != 0 for name in _COUNTED[usage.kind])))
    return found
