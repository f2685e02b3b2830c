"""Comparing the daily roll-ups with the ledger, and rebuilding them from it.

A trigger writes roll-ups in the transaction of their ledger entries, so in one statement's snapshot both always agree,
unless somebody has changed one of them directly in the database. Of archived days only the roll-ups are left; they
aren't checked.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from app.domain.reports import RUN_KINDS
from app.domain.wallets import WalletId
from app.stores.postgres import archives, usage_summaries
from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import token_transactions as entries
from app.stores.postgres.tables import usage_daily

_KEY = ("day", "wallet_id", "user_id", "feature_endpoint_id", "model", "price_id")
_DAY = sa.cast(sa.func.timezone("UTC", entries.c.created_at), sa.Date)
# The columns summed up from usage entries.
COUNTS = (
    "runs",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "requests",
)
COSTS = ("base_cost_micros", "profit_micros", "cost_micros")


def _summed(name: str, kind: str) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(entries.c[name]).filter(entries.c.kind == kind), 0)


# The same sums as in the trigger (`roll_up_usage` in the migrations); a test compares the two.
_SUMS: dict[str, sa.ColumnElement[Any]] = {
    "runs": sa.func.count().filter(entries.c.kind == "usage"),
    **{name: _summed(name, "usage") for name in (*COUNTS[1:], *COSTS)},
    "reversed_micros": _summed("amount_micros", "reversal"),
    "amended_micros": _summed("amount_micros", "amendment"),
    "written_off_micros": _summed("amount_micros", "write_off"),
}

_GROUPS: dict[str, sa.ColumnElement[Any]] = {
    "day": _DAY,
    "wallet_id": entries.c.wallet_id,
    "user_id": entries.c.user_id,
    "feature_endpoint_id": sa.func.coalesce(entries.c.feature_endpoint_id, ""),
    "model": sa.func.coalesce(entries.c.model, ""),
    "price_id": sa.func.coalesce(entries.c.price_id, 0),
}

_KEPT_BY_OTHERS = sa.text("""
    WITH today AS (
        SELECT day, wallet_id, user_id, feature_endpoint_id, model, price_id FROM usage_daily
        WHERE day >= (now() AT TIME ZONE 'UTC')::date - 1 AND wallet_id = ANY(CAST(:wallet_ids AS text[]))
    ), free AS MATERIALIZED (
        SELECT day, wallet_id, user_id, feature_endpoint_id, model, price_id FROM usage_daily
        WHERE day >= (now() AT TIME ZONE 'UTC')::date - 1 AND wallet_id = ANY(CAST(:wallet_ids AS text[]))
        ORDER BY 1, 2, 3, 4, 5, 6 FOR UPDATE SKIP LOCKED
    )
    SELECT DISTINCT wallet_id FROM (TABLE today EXCEPT TABLE free) AS kept
""")


@dataclass(frozen=True, slots=True)
class WrongRollUp:
    """A roll-up that differs from the ledger: its runs and what they brought, by the ledger and as found."""

    day: date
    wallet_id: WalletId
    user_id: str
    feature_endpoint_id: str
    model: str
    price_id: int
    ledger_micros: int
    found_micros: int
    ledger_runs: int
    found_runs: int


def first_unarchived_day(connection: sa.Connection) -> date:
    """The first day whose ledger entries are all still there, so that roll-ups can be compared with them."""
    return archives.archived_until(connection) or date.min


def today(connection: sa.Connection) -> date:
    found: date = connection.execute(sa.select(sa.cast(sa.func.timezone("UTC", sa.func.now()), sa.Date))).scalar_one()
    return found


def next_day(connection: sa.Connection, since: date) -> date | None:
    """The first day from `since` on for which the ledger or the roll-ups have rows."""
    oldest = (
        sa.select(_DAY).where(entries.c.created_at >= _begin_of(since)).order_by(entries.c.created_at).limit(1)
    ).scalar_subquery()
    least = sa.select(sa.func.min(usage_daily.c.day)).where(usage_daily.c.day >= since).scalar_subquery()
    found: date | None = connection.execute(sa.select(sa.func.least(oldest, least))).scalar_one()
    return found


def wrong(connection: sa.Connection, day: date, limit: int, seconds: float) -> list[WrongRollUp]:
    """At most `limit` roll-ups of a day that differ from the sums of its entries, in the order of their keys."""
    allow_seconds(connection, seconds)
    ledger = _from_ledger(day).subquery("said")
    found = sa.select(usage_daily).where(usage_daily.c.day == day).subquery("found")
    joined = sa.join(ledger, found, sa.and_(*(ledger.c[name] == found.c[name] for name in _KEY)), full=True)
    key = [sa.func.coalesce(ledger.c[name], found.c[name]).label(name) for name in _KEY]
    differs = sa.or_(*(ledger.c[name].is_distinct_from(found.c[name]) for name in _SUMS))
    statement = (
        sa.select(
            *key,
            sa.func.coalesce(_net(ledger), 0),
            sa.func.coalesce(_net(found), 0),
            sa.func.coalesce(ledger.c.runs, 0),
            sa.func.coalesce(found.c.runs, 0),
        )
        .select_from(joined)
        .where(differs)
    )
    rows = connection.execute(statement.order_by(*key).limit(limit))
    return [WrongRollUp(*row[:6], *map(int, row[6:])) for row in rows]


def rebuild(connection: sa.Connection, day: date, wallet_id: WalletId) -> None:
    """Rebuild a wallet's roll-ups of a day from the ledger. The caller has locked the wallet."""
    connection.execute(sa.delete(usage_daily).where(usage_daily.c.day == day, usage_daily.c.wallet_id == wallet_id))
    ledger = _from_ledger(day).where(entries.c.wallet_id == wallet_id)
    connection.execute(sa.insert(usage_daily).from_select([*_KEY, *_SUMS], ledger))
    usage_summaries.forget(connection, day)


def rebuild_day(connection: sa.Connection, day: date) -> None:
    """Rebuild all roll-ups of a day. Nobody may write to its wallets meanwhile."""
    connection.execute(sa.delete(usage_daily).where(usage_daily.c.day == day))
    connection.execute(sa.insert(usage_daily).from_select([*_KEY, *_SUMS], _from_ledger(day)))
    usage_summaries.forget(connection, day)


def kept_by_others(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> set[WalletId]:
    """Those of these wallets for which another transaction has locked a current roll-up, so that adding to it would
    wait.
    """
    return set(connection.execute(_KEPT_BY_OTHERS, {"wallet_ids": list(wallet_ids)}).scalars())


def _begin_of(day: date) -> sa.ColumnElement[Any]:
    return sa.func.timezone("UTC", sa.cast(sa.literal(day, sa.Date), sa.TIMESTAMP))


def _from_ledger(day: date) -> sa.Select[Any]:
    return (
        sa.select(
            *(column.label(name) for name, column in _GROUPS.items()),
            *(column.label(name) for name, column in _SUMS.items()),
        )
        .where(
            entries.c.created_at >= _begin_of(day),
            entries.c.created_at < _begin_of(day + timedelta(days=1)),
            entries.c.kind.in_(RUN_KINDS),
            # A written-off chargeback isn't about a run.
            sa.or_(entries.c.kind != "write_off", entries.c.feature_endpoint_id.is_not(None)),
        )
        .group_by(*(_GROUPS.values()))
    )


def _net(of: sa.FromClause) -> sa.ColumnElement[Any]:
    return of.c.cost_micros - of.c.reversed_micros - of.c.amended_micros - of.c.written_off_micros
