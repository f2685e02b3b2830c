"""Spool entries that couldn't be recorded in the inbox, stored as the bytes they were.

Each is an end that was answered 200. Here it is safe from a flush of Redis and doesn't delay its neighbours. It is
retried from time to time, because a newer release or a repaired database may be able to record it.
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
    """Why an entry can't be recorded, and the text of the error."""

    reason: FailureReason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason.value


def put(connection: sa.Connection, entries: Mapping[SpoolEntry, Aside]) -> None:
    """Store entries, each with the reason why it can't be recorded. For a stored entry this counts another try."""
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
    """Entries whose last try is at least `after_seconds` ago, the oldest try first."""
    rows = connection.execute(
        sa.text("""
            SELECT field, entry FROM spool_aside
            WHERE tried_at <= now() - make_interval(secs => :seconds) ORDER BY tried_at LIMIT :limit
        """),
        {"seconds": after_seconds, "limit": limit},
    )
    return [SpoolEntry(bytes(row.field), bytes(row.entry)) for row in rows]


def remove(connection: sa.Connection, entries: Collection[SpoolEntry]) -> None:
    """Delete entries that have been recorded."""
    connection.execute(
        sa.text("DELETE FROM spool_aside WHERE field = ANY(CAST(:fields AS bytea[]))"),
        {"fields": [entry.field for entry in entries]},
    )


def holding(connection: sa.Connection, end_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these ends are stored here."""
    rows = connection.execute(
        sa.text("SELECT field FROM spool_aside WHERE field = ANY(CAST(:fields AS bytea[]))"),
        {"fields": [str(end_id).encode() for end_id in end_ids]},
    )
    return {UUID(bytes(row.field).decode()) for row in rows}


def size(connection: sa.Connection) -> int:
    """How many entries are stored."""
    return int(connection.execute(sa.text("SELECT count(*) FROM spool_aside")).scalar_one())


def _text(reason: str) -> str:
    """A reason without characters that Postgres refuses: it may quote the entry."""
    return reason.replace("\0", "").encode(errors="backslashreplace").decode()[:REASON_LENGTH_MAX]
