"""Wallets as Postgres knows them, with everything that is unsettled: what the cache is filled from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from app.domain.wallets import WalletId

# One statement is one snapshot: an end is told of by its wallet's row, as settled or as debt, or stands in the inbox.
_LOAD = sa.text("""
    SELECT wallets.wallet_id, package_id, status, posted_micros, debt_micros, overdraft_limit_micros, version,
        (SELECT cache_epoch FROM system_state) AS cache_epoch,
        ARRAY(SELECT id FROM end_inbox AS i WHERE i.wallet_id = wallets.wallet_id AND NOT is_debt ORDER BY id) AS ids,
        ARRAY(SELECT cost_micros FROM end_inbox AS i WHERE i.wallet_id = wallets.wallet_id AND NOT is_debt ORDER BY id)
            AS costs,
        ARRAY(SELECT state <> 'accepted' FROM end_inbox AS i WHERE i.wallet_id = wallets.wallet_id AND NOT is_debt
            ORDER BY id) AS failed,
        ARRAY(
            SELECT end_id FROM token_transactions AS t
            WHERE kind = 'usage' AND end_id = ANY(CAST(:suspects AS uuid[])) AND t.wallet_id = wallets.wallet_id
            UNION ALL
            SELECT id FROM end_inbox AS i
            WHERE id = ANY(CAST(:suspects AS uuid[])) AND i.wallet_id = wallets.wallet_id AND is_debt
        ) AS told_suspects
    FROM wallets WHERE wallet_id = ANY(CAST(:wallet_ids AS text[]))
""")

_BALANCES = sa.text("""
    SELECT wallets.wallet_id, wallets.user_id, package_id, status, posted_micros, overdraft_limit_micros, version,
        coalesce(pending_micros, 0) AS pending_micros, debt_micros + coalesce(untold_micros, 0) AS debt_micros
    FROM wallets LEFT JOIN LATERAL (
        -- Numeric: what adds up past 64 bits is one wallet's trouble, and nobody else's.
        SELECT sum(cost_micros) FILTER (WHERE state = 'accepted') AS pending_micros,
            sum(cost_micros) FILTER (WHERE state <> 'accepted') AS untold_micros
        FROM end_inbox AS i WHERE i.wallet_id = wallets.wallet_id AND NOT is_debt
    ) AS unsettled ON true
    WHERE wallets.wallet_id = ANY(CAST(:wallet_ids AS text[]))
""")


@dataclass(frozen=True, slots=True)
class LoadedWallet:
    wallet_id: WalletId
    package_id: str | None
    status: str
    posted_micros: int
    debt_micros: int
    overdraft_limit_micros: int
    version: int
    cache_epoch: int
    untold: dict[UUID, tuple[int, bool]]
    """Ends that the wallet's row doesn't tell of: end id -> (cost in micro-tokens, has it failed)."""
    told_suspects: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class WalletBalance:
    wallet_id: WalletId
    user_id: str
    package_id: str | None
    status: str
    posted_micros: int
    overdraft_limit_micros: int
    version: int
    pending_micros: int
    debt_micros: int


def load(
    connection: sa.Connection, wallet_ids: Collection[WalletId], suspects: Collection[UUID]
) -> dict[WalletId, LoadedWallet]:
    """Wallets with each end that their rows don't tell of; `suspects` are ends of which to say whether they do."""
    rows = connection.execute(_LOAD, {"wallet_ids": list(wallet_ids), "suspects": list(suspects)})
    return {
        row.wallet_id: LoadedWallet(
            row.wallet_id,
            row.package_id,
            row.status,
            row.posted_micros,
            row.debt_micros,
            row.overdraft_limit_micros,
            row.version,
            row.cache_epoch,
            {end_id: (cost, failed) for end_id, cost, failed in zip(row.ids, row.costs, row.failed, strict=True)},
            frozenset(row.told_suspects),
        )
        for row in rows
    }


def balances(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> dict[WalletId, WalletBalance]:
    """Wallets with the sums of what is unsettled."""
    rows = connection.execute(_BALANCES, {"wallet_ids": list(wallet_ids)})
    return {
        row.wallet_id: WalletBalance(
            row.wallet_id,
            row.user_id,
            row.package_id,
            row.status,
            row.posted_micros,
            row.overdraft_limit_micros,
            row.version,
            int(row.pending_micros),
            int(row.debt_micros),
        )
        for row in rows
    }
