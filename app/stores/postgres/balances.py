"""Wallets as Postgres knows them, with everything that is unsettled: what the cache is filled from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

# One statement is one snapshot: an end stands either in the inbox or in the posted balance, never in both.
_LOAD = sa.text("""
    SELECT wallets.user_id, package_id, status, posted_micros, overdraft_limit_micros, version,
        (SELECT cache_epoch FROM system_state) AS cache_epoch,
        ARRAY(SELECT id FROM end_inbox AS i WHERE i.user_id = wallets.user_id ORDER BY id) AS unsettled_ids,
        ARRAY(SELECT cost_micros FROM end_inbox AS i WHERE i.user_id = wallets.user_id ORDER BY id) AS unsettled_costs,
        ARRAY(SELECT state <> 'accepted' FROM end_inbox AS i WHERE i.user_id = wallets.user_id ORDER BY id)
            AS unsettled_debts,
        ARRAY(
            SELECT end_id FROM token_transactions AS t
            WHERE kind = 'usage' AND end_id = ANY(CAST(:suspects AS uuid[])) AND t.user_id = wallets.user_id
        ) AS settled_suspects
    FROM wallets WHERE user_id = ANY(CAST(:user_ids AS text[]))
""")

_BALANCES = sa.text("""
    SELECT wallets.user_id, package_id, status, posted_micros, overdraft_limit_micros, version,
        coalesce(pending_micros, 0) AS pending_micros, coalesce(debt_micros, 0) AS debt_micros
    FROM wallets LEFT JOIN LATERAL (
        SELECT CAST(sum(cost_micros) FILTER (WHERE state = 'accepted') AS bigint) AS pending_micros,
            CAST(sum(cost_micros) FILTER (WHERE state <> 'accepted') AS bigint) AS debt_micros
        FROM end_inbox AS i WHERE i.user_id = wallets.user_id
    ) AS unsettled ON true
    WHERE wallets.user_id = ANY(CAST(:user_ids AS text[]))
""")


@dataclass(frozen=True, slots=True)
class LoadedWallet:
    user_id: str
    package_id: str | None
    status: str
    posted_micros: int
    overdraft_limit_micros: int
    version: int
    cache_epoch: int
    unsettled: dict[UUID, tuple[int, bool]]
    """End id -> (cost in micro-tokens, is it debt)."""
    settled_suspects: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class WalletBalance:
    user_id: str
    package_id: str | None
    status: str
    posted_micros: int
    overdraft_limit_micros: int
    version: int
    pending_micros: int
    debt_micros: int


def load(connection: sa.Connection, user_ids: Collection[str], suspects: Collection[UUID]) -> dict[str, LoadedWallet]:
    """Wallets with each unsettled end; `suspects` are end ids of which to tell whether they are settled."""
    rows = connection.execute(_LOAD, {"user_ids": list(user_ids), "suspects": list(suspects)})
    return {
        row.user_id: LoadedWallet(
            row.user_id,
            row.package_id,
            row.status,
            row.posted_micros,
            row.overdraft_limit_micros,
            row.version,
            row.cache_epoch,
            {
                end_id: (cost, debt)
                for end_id, cost, debt in zip(row.unsettled_ids, row.unsettled_costs, row.unsettled_debts, strict=True)
            },
            frozenset(row.settled_suspects),
        )
        for row in rows
    }


def balances(connection: sa.Connection, user_ids: Collection[str]) -> dict[str, WalletBalance]:
    """Wallets with the sums of what is unsettled."""
    rows = connection.execute(_BALANCES, {"user_ids": list(user_ids)})
    return {row.user_id: WalletBalance(*row) for row in rows}
