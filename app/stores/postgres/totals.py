"""What all wallets together have and owe, in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from app.stores.postgres.engine import allow_seconds

# One pass over the wallets and one over the inbox, which is mostly short.
_TOTALS = sa.text("""
    SELECT w.wallets, w.liability_micros, w.overdrawn_micros, i.pending_micros,
        w.debt_micros + i.untold_micros AS debt_micros, i.retrying, i.dead
    FROM (
        SELECT count(*) AS wallets,
            coalesce(sum(posted_micros) FILTER (WHERE posted_micros > 0), 0) AS liability_micros,
            coalesce(-sum(posted_micros) FILTER (WHERE posted_micros < 0), 0) AS overdrawn_micros,
            coalesce(sum(debt_micros), 0) AS debt_micros
        FROM wallets
    ) AS w, (
        SELECT coalesce(sum(cost_micros) FILTER (WHERE state = 'accepted' AND NOT is_debt), 0) AS pending_micros,
            coalesce(sum(cost_micros) FILTER (WHERE state <> 'accepted' AND NOT is_debt), 0) AS untold_micros,
            count(*) FILTER (WHERE state = 'retrying') AS retrying,
            count(*) FILTER (WHERE state = 'dead') AS dead
        FROM end_inbox
    ) AS i
""")


@dataclass(frozen=True, slots=True)
class PostgresTotals:
    """`liability_micros` is the sum of the positive balances (bought and not used), `overdrawn_micros` that of the
    negative ones.

    The first less the second is the sum of all ledger entries.
    """

    wallets: int
    liability_micros: int
    overdrawn_micros: int
    pending_micros: int
    debt_micros: int
    retrying: int
    dead: int


def of_postgres(connection: sa.Connection, seconds: float) -> PostgresTotals:
    allow_seconds(connection, seconds)
    return PostgresTotals(*map(int, connection.execute(_TOTALS).one()))
