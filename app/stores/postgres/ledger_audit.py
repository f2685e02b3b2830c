"""What an audit of the ledger reads: each wallet's entries after its checkpoint, in slices of bounded size.

A checkpoint states that a wallet's entries up to an id follow from each other and end at a balance. It only moves past
entries that were found right. An entry that is changed before the checkpoint is found by a full audit only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.domain.wallets import WalletId
from app.stores.postgres.engine import allow_seconds

# A checkpoint whose own entry has changed isn't used: the audit starts again where the archived entries end.
_POSITIONS = sa.text("""
    SELECT w.wallet_id, coalesce(t.id, a.entry_id, 0) AS entry_id,
        coalesce(t.balance_after_micros, a.balance_micros, 0) AS balance_micros
    FROM wallets AS w
    LEFT JOIN archived_balances AS a ON a.wallet_id = w.wallet_id
    LEFT JOIN ledger_checkpoints AS c ON c.wallet_id = w.wallet_id AND NOT :is_full
    LEFT JOIN token_transactions AS t
        ON t.id = c.entry_id AND t.wallet_id = c.wallet_id AND t.balance_after_micros = c.balance_micros
            AND t.id > coalesce(a.entry_id, 0)
    WHERE w.wallet_id > :after ORDER BY w.wallet_id LIMIT :limit
""")

# One statement is one snapshot of the wallets and their entries. Sums are numeric, so that they don't overflow whatever
# somebody wrote directly into the database.
_SLICES = sa.text("""
    SELECT w.wallet_id, w.posted_micros, w.overdraft_limit_micros, s.entries, s.last_entry, s.amount_micros,
        s.breaks, s.first_break
    FROM unnest(CAST(:wallet_ids AS text[]), CAST(:entry_ids AS bigint[]), CAST(:balances AS numeric[]))
        AS p (wallet_id, entry_id, balance_micros)
    JOIN wallets AS w USING (wallet_id)
    CROSS JOIN LATERAL (
        SELECT count(*) AS entries, max(ARRAY[id, balance_after_micros]) AS last_entry,
            coalesce(sum(CAST(amount_micros AS numeric)), 0) AS amount_micros,
            count(*) FILTER (WHERE balance_after_micros <> expected_micros) AS breaks,
            min(ARRAY[id, expected_micros, balance_after_micros])
                FILTER (WHERE balance_after_micros <> expected_micros) AS first_break
        FROM (
            SELECT id, amount_micros, balance_after_micros, amount_micros
                + lag(CAST(balance_after_micros AS numeric), 1, p.balance_micros) OVER (ORDER BY id) AS expected_micros
            FROM (
                SELECT id, amount_micros, balance_after_micros FROM token_transactions AS t
                WHERE t.wallet_id = p.wallet_id AND t.id > p.entry_id ORDER BY t.id LIMIT :entries_max
            ) AS entries
        ) AS chained
    ) AS s
    ORDER BY w.wallet_id
""")

_SET = sa.text("""
    INSERT INTO ledger_checkpoints AS c (wallet_id, entry_id, balance_micros)
    SELECT * FROM unnest(CAST(:wallet_ids AS text[]), CAST(:entry_ids AS bigint[]), CAST(:balances AS bigint[]))
        AS moved (wallet_id, entry_id, balance_micros) ORDER BY wallet_id
    ON CONFLICT (wallet_id) DO UPDATE SET entry_id = excluded.entry_id, balance_micros = excluded.balance_micros
""")

# One snapshot again: an end becomes debt in the same transaction that adds it to its wallet's sum. The wallets are a
# range, so that their ends are read in one pass, whatever the statistics say about a wallet that has most of them.
_WRONG_DEBTS = sa.text("""
    SELECT w.wallet_id, w.debt_micros, coalesce(owed_micros, 0) AS owed_micros
    FROM wallets AS w LEFT JOIN (
        SELECT wallet_id, sum(CAST(cost_micros AS numeric)) AS owed_micros FROM (
            SELECT wallet_id, cost_micros FROM end_inbox
            WHERE wallet_id BETWEEN :first_id AND :last_id AND state <> 'accepted' AND is_debt
            UNION ALL
            -- Replayed dead letters stay debt until they are settled.
            SELECT wallet_id, cost_micros FROM end_inbox
            WHERE wallet_id BETWEEN :first_id AND :last_id AND state = 'accepted' AND is_debt
        ) AS debts GROUP BY wallet_id
    ) AS owed USING (wallet_id)
    WHERE w.wallet_id BETWEEN :first_id AND :last_id AND w.debt_micros <> coalesce(owed_micros, 0)
    ORDER BY w.wallet_id
""")

# One index lookup for each wallet, however many ends it has.
_ORPHANS = sa.text("""
    WITH RECURSIVE payers (wallet_id) AS (
        (SELECT wallet_id FROM end_inbox ORDER BY wallet_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT i.wallet_id FROM end_inbox AS i WHERE i.wallet_id > payers.wallet_id ORDER BY i.wallet_id LIMIT 1
        )
        FROM payers WHERE payers.wallet_id IS NOT NULL
    ), orphaned AS (
        SELECT wallet_id FROM payers
        WHERE wallet_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM wallets AS w WHERE w.wallet_id = payers.wallet_id)
        ORDER BY wallet_id LIMIT :limit
    )
    SELECT wallet_id, count(*) AS ends, sum(cost_micros) AS cost_micros
    FROM end_inbox JOIN orphaned USING (wallet_id) GROUP BY wallet_id ORDER BY wallet_id
""")


@dataclass(frozen=True, slots=True)
class Position:
    """The last entry up to which a wallet's ledger is known to be right, and the balance there."""

    wallet_id: WalletId
    entry_id: int
    balance_micros: int


@dataclass(frozen=True, slots=True)
class ChainBreak:
    entry_id: int
    expected_micros: int
    found_micros: int


@dataclass(frozen=True, slots=True)
class Slice:
    """At most `entries_max` entries after a position, and the wallet at the same moment."""

    wallet_id: WalletId
    posted_micros: int
    overdraft_limit_micros: int
    entries: int
    end: Position
    """The position after these entries, with the balance that the last of them states."""
    amount_micros: int
    breaks: int
    first_break: ChainBreak | None


@dataclass(frozen=True, slots=True)
class WrongDebt:
    """A wallet whose debt isn't the sum of its debts in the inbox."""

    wallet_id: WalletId
    debt_micros: int
    owed_micros: int


@dataclass(frozen=True, slots=True)
class Orphans:
    """Unsettled ends whose wallet doesn't exist."""

    wallet_id: WalletId
    ends: int
    cost_micros: int


def positions_after(connection: sa.Connection, after_id: str, limit: int, *, is_full: bool) -> list[Position]:
    """Where the audit of each wallet continues, in the order of wallet ids; with `is_full` at the start."""
    rows = connection.execute(_POSITIONS, {"after": after_id, "limit": limit, "is_full": is_full})
    return [Position(*row) for row in rows]


def slices(
    connection: sa.Connection, positions: Sequence[Position], entries_max: int, timeout_seconds: float
) -> list[Slice]:
    """The next entries of each of these wallets. Only reads, and blocks nobody."""
    allow_seconds(connection, timeout_seconds)
    rows = connection.execute(
        _SLICES,
        {
            "wallet_ids": [position.wallet_id for position in positions],
            "entry_ids": [position.entry_id for position in positions],
            "balances": [position.balance_micros for position in positions],
            "entries_max": entries_max,
        },
    )
    starts = {position.wallet_id: position for position in positions}
    return [
        Slice(
            row.wallet_id,
            row.posted_micros,
            row.overdraft_limit_micros,
            row.entries,
            starts[row.wallet_id] if row.last_entry is None else Position(row.wallet_id, *row.last_entry),
            int(row.amount_micros),
            row.breaks,
            None if row.first_break is None else ChainBreak(*map(int, row.first_break)),
        )
        for row in rows
    ]


def set_checkpoints(connection: sa.Connection, positions: Sequence[Position]) -> None:
    """Store up to where these wallets' ledgers are right, even if that is less far than before."""
    connection.execute(
        _SET,
        {
            "wallet_ids": [position.wallet_id for position in positions],
            "entry_ids": [position.entry_id for position in positions],
            "balances": [position.balance_micros for position in positions],
        },
    )


def wrong_debts(connection: sa.Connection, first_id: str, last_id: str, timeout_seconds: float) -> list[WrongDebt]:
    """Wallets in this range of ids whose debt isn't the sum of their failed ends."""
    allow_seconds(connection, timeout_seconds)
    rows = connection.execute(_WRONG_DEBTS, {"first_id": first_id, "last_id": last_id})
    return [WrongDebt(row.wallet_id, row.debt_micros, int(row.owed_micros)) for row in rows]


def orphans(connection: sa.Connection, limit: int, timeout_seconds: float) -> list[Orphans]:
    """Unsettled ends whose wallet doesn't exist."""
    allow_seconds(connection, timeout_seconds)
    rows = connection.execute(_ORPHANS, {"limit": limit})
    return [Orphans(row.wallet_id, row.ends, int(row.cost_micros)) for row in rows]
