"""Wallets whose cached copy may be old: noted with the change, struck off once Redis has it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

# Rows are written and struck off in user_id order, and a row in use is left for the next time: no deadlocks.
_MARK = sa.text("""
    INSERT INTO stale_wallets AS s (user_id, version)
    SELECT user_id, version FROM wallets WHERE user_id = ANY(CAST(:user_ids AS text[])) ORDER BY user_id
    ON CONFLICT (user_id) DO UPDATE SET version = greatest(s.version, excluded.version), changed_at = now()
""")

_CLEAR = sa.text("""
    DELETE FROM stale_wallets AS s USING (
        SELECT user_id FROM stale_wallets
        JOIN unnest(CAST(:user_ids AS text[]), CAST(:versions AS bigint[])) AS done (user_id, version)
            USING (user_id)
        WHERE stale_wallets.version <= done.version
        ORDER BY user_id FOR UPDATE OF stale_wallets SKIP LOCKED
    ) AS fresh
    WHERE s.user_id = fresh.user_id
""")


def mark(connection: sa.Connection, user_ids: Collection[str]) -> None:
    connection.execute(_MARK, {"user_ids": list(user_ids)})


def clear(connection: sa.Connection, versions: Mapping[str, int]) -> None:
    """Strike off wallets that Redis has in at least these versions."""
    connection.execute(_CLEAR, {"user_ids": list(versions), "versions": list(versions.values())})


def older_than(connection: sa.Connection, seconds: float, limit: int) -> dict[str, int]:
    """Wallets that have been stale for longer than `seconds`, with the version that made them so."""
    rows = connection.execute(
        sa.text("""
            SELECT user_id, version FROM stale_wallets
            WHERE changed_at < now() - make_interval(secs => :seconds) ORDER BY changed_at LIMIT :limit
        """),
        {"seconds": seconds, "limit": limit},
    )
    return {row.user_id: row.version for row in rows}
