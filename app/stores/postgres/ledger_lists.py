"""Ledger entries by filter, of one wallet or of all.

Times are first converted to a range of entry ids, by one index lookup each. Ids rise with the time of their entries, so
a list or an export of some days reads only those.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.domain.pages import NEWEST
from app.domain.reports import Entries
from app.domain.wallets import WalletId
from app.stores.postgres.ledger import ENTRY_COLUMNS, LedgerEntry
from app.stores.postgres.tables import token_transactions as entries
from app.stores.postgres.tables import wallets

# Upper bound of the time between a transaction's start, which its entry carries, and the insert. None takes even a
# minute.
ENTERED_WITHIN = "interval '1 hour'"
_ENTERED_WITHIN: sa.ColumnElement[Any] = sa.literal_column(ENTERED_WITHIN)


def list_entries(
    connection: sa.Connection, wanted: Entries, wallet_id: WalletId | None, before_id: int, limit: int
) -> list[LedgerEntry]:
    """Newest first."""
    rows = connection.execute(
        sa.select(*ENTRY_COLUMNS)
        .where(entries.c.id < before_id, *conditions(wanted, wallet_id))
        .order_by(entries.c.id.desc())
        .limit(limit)
    )
    return [LedgerEntry(*row) for row in rows]


def conditions(wanted: Entries, wallet_id: WalletId | None) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wallet_id is not None:
        found.append(entries.c.wallet_id == wallet_id)
    if wanted.since is not None:
        found += [entries.c.created_at >= wanted.since, entries.c.id > _last_before(wanted.since)]
    if wanted.until is not None:
        found += [entries.c.created_at < wanted.until, entries.c.id < _first_after(wanted.until)]
    return found + attributes(wanted)


def attributes(wanted: Entries) -> list[sa.ColumnElement[bool]]:
    """Conditions on everything except the time of the entries."""
    found: list[sa.ColumnElement[bool]] = []
    for name in ("feature_endpoint_id", "model", "user_id", "price_id"):
        value = getattr(wanted, name)
        if value is not None:
            found.append(entries.c[name] == value)
    if wanted.kind is not None:
        # A literal instead of a parameter, so that the planner can use the partial index on everything that isn't
        # usage.
        found.append(entries.c.kind == sa.literal_column(f"'{wanted.kind.value}'"))
    if wanted.package_id is not None:
        of_package = sa.select(wallets.c.wallet_id).where(wallets.c.package_id == wanted.package_id)
        found.append(entries.c.wallet_id.in_(of_package))
    return found


def _last_before(moment: datetime) -> sa.ColumnElement[Any]:
    """An id below all entries since this moment."""
    probe = entries.alias("before")
    last = sa.select(probe.c.id).where(probe.c.created_at < _at(moment) - _ENTERED_WITHIN)
    return sa.func.coalesce(last.order_by(probe.c.created_at.desc()).limit(1).scalar_subquery(), 0)


def _first_after(moment: datetime) -> sa.ColumnElement[Any]:
    """An id above all entries before this moment."""
    probe = entries.alias("after")
    first = sa.select(probe.c.id).where(probe.c.created_at >= _at(moment) + _ENTERED_WITHIN)
    return sa.func.coalesce(first.order_by(probe.c.created_at).limit(1).scalar_subquery(), NEWEST)


def _at(moment: datetime) -> sa.ColumnElement[Any]:
    return sa.cast(moment, sa.TIMESTAMP(timezone=True))
