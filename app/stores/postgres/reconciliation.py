"""What reconciliations read of wallets and ledger, and what they leave behind of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import reconciliations

# Any constant of our own: it only has to differ from other advisory locks on this database.
RECONCILIATION_LOCK = 7_236_501_119
KEPT_MAX = 1_000

# One statement is one snapshot of a page of wallets and all their entries. Sums are numeric: whatever somebody
# wrote past the server, they don't overflow.
_WALLETS = sa.text("""
    WITH page AS MATERIALIZED (
        SELECT user_id, posted_micros, overdraft_limit_micros FROM wallets
        WHERE user_id > :after ORDER BY user_id LIMIT :limit
    ), chained AS (
        SELECT t.user_id, t.id, t.amount_micros, t.balance_after_micros,
            t.amount_micros + lag(CAST(t.balance_after_micros AS numeric), 1, 0)
                OVER (PARTITION BY t.user_id ORDER BY t.id) AS expected_micros
        FROM page JOIN token_transactions AS t USING (user_id)
    ), added AS (
        SELECT user_id, sum(CAST(amount_micros AS numeric)) AS ledger_micros,
            count(*) FILTER (WHERE balance_after_micros <> expected_micros) AS breaks,
            min(ARRAY[id, expected_micros, balance_after_micros])
                FILTER (WHERE balance_after_micros <> expected_micros) AS first_break
        FROM chained GROUP BY user_id
    )
    SELECT user_id, posted_micros, overdraft_limit_micros, coalesce(ledger_micros, 0) AS ledger_micros,
        coalesce(breaks, 0) AS breaks, first_break
    FROM page LEFT JOIN added USING (user_id) ORDER BY user_id
""")

_ORPHANS = sa.text("""
    SELECT user_id, count(*) AS ends, sum(cost_micros) AS cost_micros FROM end_inbox AS i
    WHERE NOT EXISTS (SELECT 1 FROM wallets AS w WHERE w.user_id = i.user_id)
    GROUP BY user_id ORDER BY user_id LIMIT :limit
""")


class DriftKind(StrEnum):
    LEDGER_SUM = "ledger_sum"
    """The posted balance isn't the sum of the ledger's amounts."""
    LEDGER_CHAIN = "ledger_chain"
    """An entry's balance doesn't follow from the one before."""
    BELOW_LIMIT = "below_limit"
    """More is overdrawn than the wallet may."""
    WALLET_MISSING = "wallet_missing"
    """Unsettled ends of a user who has no wallet."""
    CACHE = "cache"
    """The cached copy isn't what Postgres knows, or doesn't add up in itself."""


class State(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Drift:
    """Of a chain the balance after the first wrong entry, of the cache what can be spent, else the posted balance."""

    user_id: str
    kind: DriftKind
    expected_micros: int
    found_micros: int
    detail: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Reconciliation:
    id: int
    state: State
    started_at: datetime
    finished_at: datetime | None
    checked: int
    cache_checked: bool
    drifted_count: int
    repaired: int
    drifted: Sequence[Drift]

    @property
    def adds_up(self) -> bool:
        """Did it look at everything, and is nothing wrong left?"""
        return self.state is State.DONE and self.drifted_count == self.repaired


@dataclass(frozen=True, slots=True)
class ChainBreak:
    entry_id: int
    expected_micros: int
    found_micros: int
    breaks: int


@dataclass(frozen=True, slots=True)
class WalletSums:
    user_id: str
    posted_micros: int
    overdraft_limit_micros: int
    ledger_micros: int
    first_break: ChainBreak | None


@dataclass(frozen=True, slots=True)
class Orphans:
    """A user's unsettled ends without a wallet."""

    user_id: str
    ends: int
    cost_micros: int


_COLUMNS = [reconciliations.c[field.name] for field in fields(Reconciliation)]


def wallets_after(connection: sa.Connection, after_id: str, limit: int, timeout_seconds: int) -> list[WalletSums]:
    """Wallets in the order of user ids, each with what its ledger adds up to."""
    # A wallet with millions of entries takes longer than a request may; this reads and blocks nobody.
    allow_seconds(connection, timeout_seconds)
    return [
        WalletSums(
            row.user_id,
            row.posted_micros,
            row.overdraft_limit_micros,
            int(row.ledger_micros),
            None if row.first_break is None else ChainBreak(*map(int, (*row.first_break, row.breaks))),
        )
        for row in connection.execute(_WALLETS, {"after": after_id, "limit": limit})
    ]


def orphans(connection: sa.Connection, limit: int) -> list[Orphans]:
    rows = connection.execute(_ORPHANS, {"limit": limit})
    return [Orphans(row.user_id, row.ends, int(row.cost_micros)) for row in rows]


def try_lock(connection: sa.Connection) -> bool:
    """Be the only reconciliation, for as long as this connection lives or until `unlock`."""
    statement = sa.select(sa.func.pg_try_advisory_lock(RECONCILIATION_LOCK))
    return bool(connection.execute(statement).scalar_one())


def unlock(connection: sa.Connection) -> None:
    connection.execute(sa.select(sa.func.pg_advisory_unlock(RECONCILIATION_LOCK)))


def begin(connection: sa.Connection) -> int:
    """Note that a reconciliation has begun; its id. Those before it that never finished have died."""
    died = sa.update(reconciliations).where(reconciliations.c.state == State.RUNNING)
    connection.execute(died.values(state=State.FAILED, finished_at=sa.func.now()))
    begun = sa.insert(reconciliations).values(state=State.RUNNING).returning(reconciliations.c.id)
    number: int = connection.execute(begun).scalar_one()
    connection.execute(sa.delete(reconciliations).where(reconciliations.c.id <= number - KEPT_MAX))
    return number


def finish(
    connection: sa.Connection,
    number: int,
    *,
    state: State,
    checked: int,
    cache_checked: bool,
    drifted_count: int,
    repaired: int,
    drifted: Sequence[Drift],
) -> Reconciliation:
    statement = sa.update(reconciliations).where(reconciliations.c.id == number)
    row = connection.execute(
        statement.values(
            state=state,
            finished_at=sa.func.clock_timestamp(),
            checked=checked,
            cache_checked=cache_checked,
            drifted_count=drifted_count,
            repaired=repaired,
            drifted=[asdict(drift) for drift in drifted],
        ).returning(*_COLUMNS)
    ).one()
    return _reconciliation(row)


def find(connection: sa.Connection, number: int) -> Reconciliation | None:
    row = connection.execute(sa.select(*_COLUMNS).where(reconciliations.c.id == number)).one_or_none()
    return None if row is None else _reconciliation(row)


def _reconciliation(row: Any) -> Reconciliation:
    found = row._asdict()
    found["state"] = State(found["state"])
    found["drifted"] = [Drift(**{**drift, "kind": DriftKind(drift["kind"])}) for drift in found["drifted"]]
    return Reconciliation(**found)
