"""Statements: one wallet's ledger entries between two moments, and the balance at each end.

The ledger's order is that of its ids: each entry's balance follows from the entry before. An entry carries the time at
which its transaction began, so one that waited for the wallet may come after an entry with a later time. A statement is
therefore cut at the first entry that reaches a moment. That way statements follow each other without a gap and add up;
an entry with an earlier time that comes after the cut belongs to the next statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa

from app.domain.reports import Entries
from app.domain.wallets import WalletId
from app.stores.postgres.ledger import ENTRY_COLUMNS, LedgerEntry
from app.stores.postgres.ledger_lists import ENTERED_WITHIN, attributes
from app.stores.postgres.tables import token_transactions as entries

# The wallet's first entry with this time or a later one; the highest id where there is none. Ids rise with time except
# for entries that waited, so one lookup in the index on created_at gives an id from which to search.
_CUT = """
    coalesce((
        SELECT id FROM token_transactions AS t
        WHERE t.wallet_id = :wallet_id AND t.created_at >= {moment} AND t.id > coalesce((
            SELECT id FROM token_transactions AS before WHERE before.created_at < {moment} - {within}
            ORDER BY before.created_at DESC LIMIT 1
        ), 0)
        ORDER BY t.id LIMIT 1
    ), 9223372036854775807)
"""
_BALANCE_BEFORE = """
    coalesce((
        SELECT balance_after_micros FROM token_transactions AS t
        WHERE t.wallet_id = :wallet_id AND t.id < {id} ORDER BY t.id DESC LIMIT 1
    ), (SELECT balance_micros FROM archived_balances AS a WHERE a.wallet_id = :wallet_id), 0)
"""
_SPAN = """
    WITH bounds AS MATERIALIZED (
        SELECT CASE WHEN CAST(:since AS timestamptz) IS NULL
            THEN 1 + coalesce((SELECT entry_id FROM archived_balances AS a WHERE a.wallet_id = :wallet_id), 0)
            ELSE {since} END AS first_id,
            CASE WHEN CAST(:until AS timestamptz) IS NULL THEN 9223372036854775807 ELSE {until} END AS behind_id
    )
    SELECT first_id, coalesce((
            SELECT id FROM token_transactions AS t
            WHERE t.wallet_id = :wallet_id AND t.id < behind_id ORDER BY t.id DESC LIMIT 1
        ), 0) AS last_id,
        {opening} AS opening_micros, {closing} AS closing_micros
    FROM wallets, bounds WHERE wallets.wallet_id = :wallet_id
"""
_DAYS = """
    WITH ends AS MATERIALIZED (
        SELECT CAST(day AS date) AS day, {cut} AS behind_id
        FROM generate_series(
            CAST(:since AS timestamp), CAST(:until AS timestamp) - interval '1 day', interval '1 day'
        ) AS days (day)
    )
    SELECT day, {balance} AS balance_micros FROM ends ORDER BY day
"""


def _cut(moment: str) -> str:
    return _CUT.format(moment=moment, within=ENTERED_WITHIN)


_FIND_SPAN = sa.text(
    _SPAN.format(
        since=_cut("CAST(:since AS timestamptz)"),
        until=_cut("CAST(:until AS timestamptz)"),
        opening=_BALANCE_BEFORE.format(id="first_id"),
        closing=_BALANCE_BEFORE.format(id="behind_id"),
    )
)
_LIST_DAYS = sa.text(
    _DAYS.format(cut=_cut("timezone('UTC', day + interval '1 day')"), balance=_BALANCE_BEFORE.format(id="behind_id"))
)


@dataclass(frozen=True, slots=True)
class Span:
    """The entries of a wallet from `first_id` to `last_id`, and the balance before and after them."""

    wallet_id: WalletId
    first_id: int
    last_id: int
    opening_micros: int
    closing_micros: int


@dataclass(frozen=True, slots=True)
class DayBalance:
    """The posted balance at the end of a day, or now for a day that isn't over."""

    day: date
    balance_micros: int


def span(connection: sa.Connection, wallet_id: WalletId, since: datetime | None, until: datetime | None) -> Span | None:
    """Without `since` it begins at the first entry that isn't archived. None where the wallet doesn't exist."""
    row = connection.execute(_FIND_SPAN, {"wallet_id": wallet_id, "since": since, "until": until}).one_or_none()
    return None if row is None else Span(wallet_id, *row)


def list_entries(
    connection: sa.Connection, within: Span, wanted: Entries, after_id: int, limit: int
) -> list[LedgerEntry]:
    """Oldest first."""
    statement = sa.select(*ENTRY_COLUMNS).where(*conditions(within), entries.c.id > after_id, *attributes(wanted))
    return [LedgerEntry(*row) for row in connection.execute(statement.order_by(entries.c.id).limit(limit))]


def conditions(within: Span) -> list[sa.ColumnElement[bool]]:
    return [entries.c.wallet_id == within.wallet_id, entries.c.id.between(within.first_id, within.last_id)]


def balances_by_day(connection: sa.Connection, wallet_id: WalletId, since: date, until: date) -> Sequence[DayBalance]:
    """For each day from `since` up to, but without, `until`."""
    rows = connection.execute(_LIST_DAYS, {"wallet_id": wallet_id, "since": since, "until": until})
    return [DayBalance(*row) for row in rows]
