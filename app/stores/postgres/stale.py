"""Wallets whose cached copy may be old: noted with the change, struck off once Redis has it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from app.domain.wallets import WalletId

# Newer than any version: what is noted so only a refresh strikes off. A wallet that is noted already becomes such a
# one, as the change before may have died on its way to Redis, and the next one's arrival wouldn't tell.
ANY_VERSION = 2**63 - 1

# Rows are written and struck off in wallet_id order, and a row in use is left for the next time: no deadlocks.
_MARK = sa.text("""
    INSERT INTO stale_wallets AS s (wallet_id, version)
    SELECT wallet_id, coalesce(CAST(:version AS bigint), version) FROM wallets
    WHERE wallet_id = ANY(CAST(:wallet_ids AS text[])) ORDER BY wallet_id
    ON CONFLICT (wallet_id) DO UPDATE SET version = 9223372036854775807, changed_at = clock_timestamp()
""")

_KEPT_BY_OTHERS = sa.text("""
    WITH free AS MATERIALIZED (
        SELECT wallet_id FROM stale_wallets WHERE wallet_id = ANY(CAST(:wallet_ids AS text[]))
        ORDER BY wallet_id FOR UPDATE SKIP LOCKED
    )
    SELECT wallet_id FROM stale_wallets
    WHERE wallet_id = ANY(CAST(:wallet_ids AS text[])) AND wallet_id NOT IN (SELECT wallet_id FROM free)
""")

_CLEAR = sa.text("""
    DELETE FROM stale_wallets AS s USING (
        SELECT wallet_id FROM stale_wallets
        JOIN unnest(CAST(:wallet_ids AS text[]), CAST(:versions AS bigint[])) AS done (wallet_id, version)
            USING (wallet_id)
        WHERE stale_wallets.version <= done.version
        ORDER BY wallet_id FOR UPDATE OF stale_wallets SKIP LOCKED
    ) AS fresh
    WHERE s.wallet_id = fresh.wallet_id
""")

_CLEAR_REFRESHED = sa.text("""
    DELETE FROM stale_wallets AS s USING (
        SELECT wallet_id FROM stale_wallets
        JOIN unnest(CAST(:wallet_ids AS text[]), CAST(:moments AS timestamptz[])) AS done (wallet_id, changed_at)
            USING (wallet_id, changed_at)
        ORDER BY wallet_id FOR UPDATE OF stale_wallets SKIP LOCKED
    ) AS fresh
    WHERE s.wallet_id = fresh.wallet_id
""")


@dataclass(frozen=True, slots=True)
class StaleWallet:
    wallet_id: WalletId
    changed_at: datetime


def mark(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> None:
    """Note wallets whose version was raised: bringing that version to Redis is enough."""
    connection.execute(_MARK, {"wallet_ids": list(wallet_ids), "version": None})


def demand_refresh(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> None:
    """Note wallets of which something changed that their version doesn't tell, such as the state of an end."""
    connection.execute(_MARK, {"wallet_ids": list(wallet_ids), "version": ANY_VERSION})


def kept_by_others(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> set[WalletId]:
    """Those of these wallets whose note somebody else has locked: noting them again would have to wait for that."""
    return set(connection.execute(_KEPT_BY_OTHERS, {"wallet_ids": list(wallet_ids)}).scalars())


def clear(connection: sa.Connection, versions: Mapping[WalletId, int]) -> None:
    """Strike off wallets that Redis has in at least these versions."""
    connection.execute(_CLEAR, {"wallet_ids": list(versions), "versions": list(versions.values())})


def clear_refreshed(connection: sa.Connection, refreshed: Sequence[StaleWallet]) -> None:
    """Strike off wallets that were refreshed, unless they were noted again since."""
    connection.execute(
        _CLEAR_REFRESHED,
        {
            "wallet_ids": [wallet.wallet_id for wallet in refreshed],
            "moments": [wallet.changed_at for wallet in refreshed],
        },
    )


def older_than(connection: sa.Connection, seconds: float, limit: int) -> list[StaleWallet]:
    """Wallets that have been stale for longer than `seconds`, or of which only a refresh tells."""
    rows = connection.execute(
        sa.text("""
            SELECT wallet_id, changed_at FROM stale_wallets
            WHERE version = :any_version OR changed_at <= now() - make_interval(secs => :seconds)
            ORDER BY changed_at LIMIT :limit
        """),
        {"seconds": seconds, "limit": limit, "any_version": ANY_VERSION},
    )
    return [StaleWallet(row.wallet_id, row.changed_at) for row in rows]
