"""Failed ends and debts, summed up by user, feature endpoint, model, error, age and so on.

Debts are what wallets owe: every failed end, and replayed ends that count as debt until a worker has tried them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.domain.failed_ends import AGE_SECONDS_MAX, AgeBand, Filter, Group
from app.domain.inputs import ID_LENGTH_MAX, identifier
from app.stores.postgres.failed_ends import NOT_ACCEPTED, ago, condition
from app.stores.postgres.tables import end_inbox, wallets

OWED = sa.or_(NOT_ACCEPTED, sa.and_(end_inbox.c.state == sa.literal_column("'accepted'"), end_inbox.c.is_debt))

_AGE = sa.case(
    *((end_inbox.c.accepted_at > ago(seconds), band.value) for band, seconds in AGE_SECONDS_MAX.items()),
    else_=AgeBand.OVER_30D.value,
)
_COLUMNS: dict[Group, sa.ColumnElement[Any]] = {
    **{group: end_inbox.c[group.value] for group in Group if group not in (Group.AGE, Group.PACKAGE)},
    Group.AGE: _AGE,
    Group.PACKAGE: wallets.c.package_id,
}


@dataclass(frozen=True, slots=True)
class FailedEndGroup:
    """`key` has the values of the requested groups, in their order; a value is None where ends have none. Without ends,
    `oldest_accepted_at` and `newest_accepted_at` are None.
    """

    key: tuple[str | None, ...]
    ends: int
    users: int
    cost_micros: int
    retrying: int
    retrying_micros: int
    dead: int
    dead_micros: int
    oldest_accepted_at: datetime | None
    newest_accepted_at: datetime | None

    @property
    def position(self) -> list[Any]:
        """The cursor for groups after this one."""
        return [self.cost_micros, *(value or "" for value in self.key)]


def add_up(
    connection: sa.Connection,
    matching: Filter,
    groups: Sequence[Group],
    *,
    are_debts: bool,
    after: Sequence[Any] | None = None,
    limit: int | None = None,
) -> list[FailedEndGroup]:
    """Groups, largest sums first; `after` is the position to continue from. With no `groups` one row for all that
    match.
    """
    keys = [_COLUMNS[group] for group in groups]
    source = end_inbox
    if Group.PACKAGE in groups:
        source = end_inbox.outerjoin(wallets, wallets.c.wallet_id == end_inbox.c.wallet_id)  # type: ignore[assignment]
    cost_micros = sa.func.coalesce(sa.func.sum(end_inbox.c.cost_micros), 0)
    statement = (
        sa.select(
            *keys,
            sa.func.count(),
            # Compared byte by byte (collation C), which is several times as fast as by a language's rules.
            sa.func.count(end_inbox.c.user_id.collate("C").distinct()),
            cost_micros,
            *_of_state("retrying"),
            *_of_state("dead"),
            sa.func.min(end_inbox.c.accepted_at),
            sa.func.max(end_inbox.c.accepted_at),
        )
        .select_from(source)
        .where(condition(matching, OWED if are_debts else NOT_ACCEPTED))
        .group_by(*keys)
    )
    # Nulls can't be compared, so they become empty: no real value is empty.
    sortable = [sa.func.coalesce(key, "").collate("C") for key in keys]
    if after is not None:
        if not groups:
            return []
        behind = sa.tuple_(*sortable) > sa.tuple_(*(sa.cast(value, sa.Text) for value in after[1:]))
        statement = statement.having(sa.or_(cost_micros < after[0], sa.and_(cost_micros == after[0], behind)))
    if groups:
        statement = statement.order_by(cost_micros.desc(), *sortable)
    return [_group(row, len(groups)) for row in connection.execute(statement.limit(limit))]


def overview(connection: sa.Connection, matching: Filter, groups: Sequence[Group]) -> dict[Group, list[FailedEndGroup]]:
    """Sums by each of these groups alone, all in one pass over the ends, largest first. The number of users isn't
    counted (0).
    """
    keys = [_COLUMNS[group].label(group.value) for group in groups]
    inner = sa.select(*keys, end_inbox.c.state.label("of_state"), end_inbox.c.cost_micros, end_inbox.c.accepted_at)
    ends = inner.where(condition(matching)).subquery()
    columns = [ends.c[group.value] for group in groups]
    retrying, dead = ends.c.of_state == "retrying", ends.c.of_state == "dead"
    micros = sa.func.coalesce(sa.func.sum(ends.c.cost_micros), 0)
    statement = (
        sa.select(
            sa.func.grouping(*columns),
            *columns,
            sa.func.count(),
            micros,
            *(aggregate for is_it in (retrying, dead) for aggregate in (
                sa.func.count().filter(is_it), sa.func.coalesce(sa.func.sum(ends.c.cost_micros).filter(is_it), 0)
            )),
            sa.func.min(ends.c.accepted_at),
            sa.func.max(ends.c.accepted_at),
        )
        .group_by(sa.func.grouping_sets(*(sa.tuple_(column) for column in columns)))
        .order_by(micros.desc(), *columns)
    )  # fmt: skip
    found: dict[Group, list[FailedEndGroup]] = {group: [] for group in groups}
    for level, *row in connection.execute(statement):
        # Of a row's `grouping` bits all are set except that of its own group; the first group has the highest bit.
        place = next(i for i in range(len(groups)) if not level >> (len(groups) - 1 - i) & 1)
        ends_count, cost, retrying_count, retrying_micros, dead_count, dead_micros, oldest, newest = row[len(groups) :]
        found[groups[place]].append(
            FailedEndGroup(
                (row[place],),
                ends_count,
                0,
                int(cost),
                retrying_count,
                int(retrying_micros),
                dead_count,
                int(dead_micros),
                oldest,
                newest,
            )
        )
    return found


def position_from(groups: Sequence[Group], values: Any) -> list[Any]:
    """Parse a position from JSON. Raises ValueError where it doesn't fit these groups."""
    if not isinstance(values, list) or len(values) != len(groups) + 1:
        raise ValueError(values)
    if type(values[0]) is not int or not 0 <= values[0] < 10**30:
        raise ValueError(values)
    return [values[0], *(value if value == "" else identifier(value, ID_LENGTH_MAX) for value in values[1:])]


def _of_state(state: str) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    """Number and cost of a group's ends in this state."""
    is_it = end_inbox.c.state == state
    return (
        sa.func.count().filter(is_it),
        sa.func.coalesce(sa.func.sum(end_inbox.c.cost_micros).filter(is_it), 0),
    )


def _group(row: Any, width: int) -> FailedEndGroup:
    ends, users, cost, retrying, retrying_micros, dead, dead_micros, oldest, newest = row[width:]
    return FailedEndGroup(
        tuple(row[:width]),
        ends,
        users,
        int(cost),
        retrying,
        int(retrying_micros),
        dead,
        int(dead_micros),
        oldest,
        newest,
    )
