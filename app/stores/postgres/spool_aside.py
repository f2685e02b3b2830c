"""Entries of the spool that couldn't be made into inbox rows, as the bytes they were.

Each is an end that was answered 200. It is out of Redis, which may be flushed, and out of the way of its neighbours;
it is tried again now and then, as a newer version, or a repaired database, may take it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from app.domain.reasons import FailureReason
from app.stores.spool_entry import SpoolEntry

REASON_LENGTH_MAX = 500


@dataclass(frozen=True, slots=True)
class Aside:
    """Why an entry can't be recorded, and what whoever refused it said."""

    reason: FailureReason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason.value


def put(connection: sa.Connection, entries: Mapping[SpoolEntry, Aside]) -> None:
    """Keep entries, each with the reason why it can't be recorded. One that is kept already counts another try."""
    connection.execute(
        sa.text("""
            INSERT INTO spool_aside AS s (field, entry, reason)
            SELECT * FROM unnest(CAST(:fields AS bytea[]), CAST(:entries AS bytea[]), CAST(:reasons AS text[]))
            ON CONFLICT (field) DO UPDATE SET
                entry = excluded.entry, reason = excluded.reason, attempts = s.attempts + 1, tried_at = now()
        """),
        {
            "fields": [entry.field for entry in entries],
            "entries": [entry.text for entry in entries],
            "reasons": [_text(str(aside)) for aside in entries.values()],
        },
    )


def due(connection: sa.Connection, after_seconds: float, limit: int) -> list[SpoolEntry]:
    """Entries whose last try is so long ago, the longest first."""
    rows = connection.execute(
        sa.text("""
            SELECT field, entry FROM spool_aside
            WHERE tried_at <= now() - make_interval(secs => :seconds) ORDER BY tried_at LIMIT :limit
        """),
        {"seconds": after_seconds, "limit": limit},
    )
    return [SpoolEntry(bytes(row.field), bytes(row.entry)) for row in rows]


def remove(connection: sa.Connection, entries: Collection[SpoolEntry]) -> None:
    """Forget entries that are recorded now."""
    connection.execute(
        sa.text("DELETE FROM spool_aside WHERE field = ANY(CAST(:fields AS bytea[]))"),
        {"fields": [entry.field for entry in entries]},
    )


def holding(connection: sa.Connection, end_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these ends are kept here."""
    rows = connection.execute(
        sa.text("SELECT field FROM spool_aside WHERE field = ANY(CAST(:fields AS bytea[]))"),
        {"fields": [str(end_id).encode() for end_id in end_ids]},
    )
    return {UUID(bytes(row.field).decode()) for row in rows}


def size(connection: sa.Connection) -> int:
    """How many entries are kept."""
    return int(connection.execute(sa.text("SELECT count(*) FROM spool_aside")).scalar_one())


def _text(reason: str) -> str:
    """What Postgres takes of a reason, in which the entry may be quoted."""
    return reason.replace("\0", "").encode(errors="backslashreplace").decode()[:REASON_LENGTH_MAX]
