"""Notes that cached wallets may be stale: one for each transaction that changed wallets, deleted once Redis has the
change.

Each note belongs to one transaction, so no transaction waits for another's note, and a change whose process died on the
way to Redis isn't taken for done when the next change arrives. The sweep works off the notes that stay.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.domain.wallets import Wallet, WalletId
from app.stores.postgres.arrays import text_array

# The note of a change of several wallets is identified by the first wallet and its version, which is unique to this
# change. "First" is by byte order, as Python compares.
_MARK = sa.text("""
    INSERT INTO stale_notes (wallet_id, version, wallet_ids)
    SELECT wallet_id, version, ARRAY[wallet_id] FROM wallets WHERE wallet_id = :wallet_id
""")

_DEMAND_REFRESH = sa.text("""
    INSERT INTO stale_notes (wallet_ids)
    SELECT array_agg(wallet_id) FROM wallets WHERE wallet_id = ANY(CAST(:wallet_ids AS text[]))
    HAVING count(*) > 0
""")

# Without waiting for the disk: if a crash brings a deleted note back, it is worked off once more, which does no harm.
_CLEAR = sa.text("""
    WITH unhurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
    DELETE FROM stale_notes WHERE id = ANY(ARRAY(
        SELECT id FROM stale_notes, unhurried WHERE wallet_id = :wallet_id AND version = :version
        FOR UPDATE OF stale_notes SKIP LOCKED
    ))
""")

_CLEAR_REFRESHED = sa.text("""
    DELETE FROM stale_notes WHERE id = ANY(ARRAY(
        SELECT id FROM stale_notes WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE SKIP LOCKED
    ))
""")

_OLDER_THAN = sa.text("""
    SELECT id, wallet_ids FROM stale_notes
    WHERE version IS NULL OR noted_at <= now() - make_interval(secs => :seconds)
    ORDER BY id LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class StaleNote:
    id: int
    wallet_ids: Sequence[WalletId]


def mark(connection: sa.Connection, wallet_id: WalletId) -> None:
    """Note a wallet whose version was raised: sending that version to Redis is enough."""
    connection.execute(_MARK, {"wallet_id": wallet_id})


def demand_refresh(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> None:
    """Note wallets with a change that their version doesn't show, such as the state of an end: they have to be
    reloaded.
    """
    connection.execute(_DEMAND_REFRESH, {"wallet_ids": text_array(wallet_ids)})


def clear(connection: sa.Connection, changed: Collection[Wallet]) -> None:
    """Delete the note of the change that made these wallets what they are: Redis has it."""
    first = min(changed, key=lambda wallet: wallet.id)
    connection.execute(_CLEAR, {"wallet_id": first.id, "version": first.version})


def clear_refreshed(connection: sa.Connection, notes: Sequence[StaleNote]) -> None:
    """Delete notes whose wallets were refreshed."""
    connection.execute(_CLEAR_REFRESHED, {"ids": [note.id for note in notes]})


def older_than(connection: sa.Connection, seconds: float, limit: int) -> list[StaleNote]:
    """The oldest notes that are older than `seconds`, or that ask for a refresh."""
    rows = connection.execute(_OLDER_THAN, {"seconds": seconds, "limit": limit})
    return [StaleNote(row.id, row.wallet_ids) for row in rows]
