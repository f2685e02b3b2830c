"""Wallets as Postgres knows them, with everything unsettled: the cache is filled from these."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.wallets import UntoldEnd, Wallet, WalletBalance, WalletId
from app.stores.postgres.wallets import from_row

# One statement is one snapshot: each end is either included in its wallet's row, as settled or as debt, or it is in
# `ids` from the inbox.
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
    SELECT wallets.wallet_id, wallets.user_id, package_id, status, posted_micros, debt_micros, overdraft_limit_micros,
        version, changed_at, coalesce(pending_micros, 0) AS pending_micros,
        coalesce(untold_debt_micros, 0) AS untold_debt_micros
    FROM wallets LEFT JOIN LATERAL (
        -- Numeric: a sum beyond 64 bits must fail for that wallet only, not the statement for all.
        SELECT sum(cost_micros) FILTER (WHERE state = 'accepted') AS pending_micros,
            sum(cost_micros) FILTER (WHERE state <> 'accepted') AS untold_debt_micros
        FROM end_inbox AS i WHERE i.wallet_id = wallets.wallet_id AND NOT is_debt
    ) AS unsettled ON true
    WHERE wallets.wallet_id = ANY(CAST(:wallet_ids AS text[]))
""")


@dataclass(frozen=True, slots=True)
class LoadedWallet:
    wallet: Wallet
    cache_epoch: int
    untold: dict[UUID, UntoldEnd]
    told_suspects: frozenset[UUID]


def load(
    connection: sa.Connection, wallet_ids: Collection[WalletId], suspects: Collection[UUID]
) -> dict[WalletId, LoadedWallet]:
    """Wallets, each with the ends that its row doesn't include. `told_suspects` are those of the `suspects` that a row
    does include.
    """
    rows = connection.execute(_LOAD, {"wallet_ids": list(wallet_ids), "suspects": list(suspects)})
    return {
        row.wallet_id: LoadedWallet(
            from_row(row),
            row.cache_epoch,
            {end_id: UntoldEnd(*end) for end_id, *end in zip(row.ids, row.costs, row.failed, strict=True)},
            frozenset(row.told_suspects),
        )
        for row in rows
    }


def balances(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> dict[WalletId, WalletBalance]:
    """Wallets with the sums of their unsettled ends."""
    rows = connection.execute(_BALANCES, {"wallet_ids": list(wallet_ids)})
    return {row.wallet_id: balance_of(row) for row in rows}


def balance_of(row: Any) -> WalletBalance:
    """The wallet in a row that has its columns, `changed_at`, and the sums of its unsettled ends."""
    wallet = from_row(row)
    balance = wallet.balance(pending_micros=int(row.pending_micros), untold_debt_micros=int(row.untold_debt_micros))
    return WalletBalance(row.user_id, wallet, balance, row.changed_at)
