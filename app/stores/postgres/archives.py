"""Archived months of the ledger: sealing them, and then deleting the entries that are in files.

A seal states which entries a file has, and its hash. In the same transaction each wallet's balance after these entries
is stored, and every entry that isn't usage, so that a used reference stays used. Only after that does the ledger's
trigger allow these entries to be deleted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import ledger_archives, token_transactions

# Ids rise with time, except for entries that waited for their wallet around midnight: those stay until the next month
# is archived. The least id from `until` on is among the first two hours of entries, because an entry is inserted at
# most an hour after its time.
_LAST_ENTRY = sa.text("""
    SELECT coalesce(
        (SELECT min(id) - 1 FROM token_transactions WHERE created_at >= :until AND created_at < interval '2 hours' + (
            SELECT created_at FROM token_transactions WHERE created_at >= :until ORDER BY created_at LIMIT 1
        )),
        (SELECT max(id) FROM token_transactions)
    )
""")

_OLDEST = sa.text("SELECT created_at FROM token_transactions ORDER BY created_at LIMIT 1")

_BROKEN = sa.text("""
    SELECT moved.wallet_id FROM (
        SELECT wallet_id, sum(CAST(amount_micros AS numeric)) AS micros, max(ARRAY[id, balance_after_micros]) AS last
        FROM token_transactions WHERE id <= :last_entry_id GROUP BY wallet_id
    ) AS moved LEFT JOIN archived_balances AS a USING (wallet_id)
    WHERE moved.last[2] <> moved.micros + coalesce(a.balance_micros, 0)
    ORDER BY moved.wallet_id LIMIT 1
""")

_SEAL = sa.text("""
    INSERT INTO ledger_archives (month, last_entry_id, entries, file_name, sha256)
    SELECT :month, :last_entry_id, count(*), :file_name, :sha256 FROM token_transactions WHERE id <= :last_entry_id
    ON CONFLICT DO NOTHING RETURNING 1
""")

_KEEP_BALANCES = sa.text("""
    INSERT INTO archived_balances AS a (wallet_id, entry_id, balance_micros)
    SELECT wallet_id, last[1], last[2] FROM (
        SELECT wallet_id, max(ARRAY[id, balance_after_micros]) AS last
        FROM token_transactions WHERE id <= :last_entry_id GROUP BY wallet_id
    ) AS moved ORDER BY wallet_id
    ON CONFLICT (wallet_id) DO UPDATE SET entry_id = excluded.entry_id, balance_micros = excluded.balance_micros
""")

_KEEP_POSTINGS = sa.text("""
    INSERT INTO archived_postings (id, wallet_id, kind, reference, end_id, entry)
    SELECT id, wallet_id, kind, reference, end_id, to_jsonb(t) FROM token_transactions AS t
    WHERE id <= :last_entry_id AND kind <> 'usage'
""")

_REMOVE = sa.text("""
    DELETE FROM token_transactions WHERE id = ANY(ARRAY(
        SELECT id FROM token_transactions WHERE id <= :last_entry_id ORDER BY id LIMIT :limit
    ))
""")


@dataclass(frozen=True, slots=True)
class Archive:
    month: date
    last_entry_id: int
    entries: int
    file_name: str
    sha256: str
    sealed_at: datetime
    removed_at: datetime | None


_COLUMNS = [ledger_archives.c[field.name] for field in fields(Archive)]


def list_archives(connection: sa.Connection) -> list[Archive]:
    rows = connection.execute(sa.select(*_COLUMNS).order_by(ledger_archives.c.month))
    return [Archive(*row) for row in rows]


def archived_until(connection: sa.Connection) -> date | None:
    """The first day whose entries are all still in the ledger; None where nothing has been archived."""
    end = sa.cast(sa.func.max(ledger_archives.c.month) + sa.text("interval '1 month'"), sa.Date)
    return connection.execute(sa.select(end)).scalar_one()


def oldest_entry_at(connection: sa.Connection) -> datetime | None:
    return connection.execute(_OLDEST).scalar_one_or_none()


def last_entry_before(connection: sa.Connection, until: datetime, seconds: float) -> int:
    """Id of the last ledger entry before `until`; 0 where there is none."""
    allow_seconds(connection, seconds)
    return int(connection.execute(_LAST_ENTRY, {"until": until}).scalar_one() or 0)


def broken_wallet(connection: sa.Connection, last_entry_id: int, seconds: float) -> str | None:
    """A wallet whose entries up to this one don't add up to the balance that the last of them states; None if
    all do.
    """
    allow_seconds(connection, seconds)
    return connection.execute(_BROKEN, {"last_entry_id": last_entry_id}).scalar_one_or_none()


def seal(
    connection: sa.Connection,
    *,
    month: date,
    last_entry_id: int,
    file_name: str,
    sha256: str,
    ends_before: UUID,
    seconds: float,
) -> bool:
    """Record that a month's entries are in this file. False where this was done before."""
    allow_seconds(connection, seconds)
    values: dict[str, Any] = {"month": month, "last_entry_id": last_entry_id}
    sealed = connection.execute(_SEAL, {**values, "file_name": file_name, "sha256": sha256})
    if sealed.one_or_none() is None:
        return False
    connection.execute(_KEEP_BALANCES, {"last_entry_id": last_entry_id})
    connection.execute(_KEEP_POSTINGS, {"last_entry_id": last_entry_id})
    connection.execute(
        sa.text("UPDATE system_state SET archived_end_id = greatest(archived_end_id, :ends_before)"),
        {"ends_before": ends_before},
    )
    return True


def remove(connection: sa.Connection, last_entry_id: int, limit: int, seconds: float) -> int:
    """Delete up to `limit` of the oldest entries up to this one. Returns how many were deleted."""
    allow_seconds(connection, seconds)
    return connection.execute(_REMOVE, {"last_entry_id": last_entry_id, "limit": limit}).rowcount


def finish(connection: sa.Connection, month: date) -> None:
    """Record that a month's entries have been deleted from the ledger."""
    removed = sa.update(ledger_archives).where(ledger_archives.c.month == month)
    connection.execute(removed.values(removed_at=sa.func.now()))


def has_entries(connection: sa.Connection, last_entry_id: int) -> bool:
    """Whether the ledger has any entry with an id up to this one."""
    found = sa.exists().where(token_transactions.c.id <= last_entry_id)
    return connection.execute(sa.select(found)).scalar_one()


def now(connection: sa.Connection) -> datetime:
    return connection.execute(sa.select(sa.func.now())).scalar_one()
