"""Everything known about one end: its inbox row, its failed tries, its place in the queue of debts, its ledger
entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.wallets import WalletId
from app.stores.postgres.ledger import ENTRY_COLUMNS, LedgerEntry
from app.stores.postgres.tables import end_attempts, end_inbox, end_keys, token_transactions

# The debts that `debts` collects before an end: the same queue in the same order.
_AHEAD = sa.text("""
    SELECT count(*) AS ends, coalesce(sum(cost_micros), 0) AS micros FROM end_inbox
    WHERE wallet_id = :wallet_id AND state <> 'accepted' AND last_error = 'insufficient_tokens' AND id < :id
""")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed try; the first one has number 1."""

    number: int
    attempted_at: datetime
    error: str


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The first answer to the end, in the guide's words."""

    deduction: str
    spendable_micros: int


def find_open(connection: sa.Connection, end_id: UUID) -> Any | None:
    """The row of an end that isn't settled."""
    return connection.execute(sa.select(end_inbox).where(end_inbox.c.id == end_id)).one_or_none()


def open_charges(connection: sa.Connection, end_id: UUID) -> Sequence[Any]:
    """Unpaid charges of an end's corrections, oldest first."""
    statement = sa.select(end_inbox).where(end_inbox.c.corrects == end_id).order_by(end_inbox.c.id)
    return connection.execute(statement).all()


def entries(connection: sa.Connection, end_id: UUID) -> list[LedgerEntry]:
    """The ledger entries of an end and of its corrections, oldest first. Those in archives are left out."""
    entry = token_transactions.c
    # Each condition has an index: usage, charges, write-offs, entries of corrections.
    conditions = (
        sa.and_(entry.kind == "usage", entry.end_id == end_id),
        sa.and_(entry.kind.in_(["amendment", "chargeback"]), entry.end_id == end_id),
        sa.and_(entry.kind == "write_off", entry.end_id == end_id),
        entry.corrects == end_id,
    )
    found = sa.union(*(sa.select(*ENTRY_COLUMNS).where(condition) for condition in conditions))
    return [LedgerEntry(*row) for row in connection.execute(found.order_by("id"))]


def attempts(connection: sa.Connection, end_id: UUID) -> list[Attempt]:
    """The failed tries that are still stored, oldest first."""
    columns = (end_attempts.c.number, end_attempts.c.attempted_at, end_attempts.c.error)
    statement = sa.select(*columns).where(end_attempts.c.end_id == end_id).order_by(end_attempts.c.number)
    return [Attempt(*row) for row in connection.execute(statement)]


def first_answer(
    connection: sa.Connection, end_id: UUID, idempotency_key: str | None, process_id: str | None
) -> FirstAnswer | None:
    """None for an end that came without a key: its answer isn't stored."""
    keys = []
    # Search by the keys, each of which has an index; `end_id` has none.
    if idempotency_key is not None:
        keys.append(end_keys.c.idempotency_key == idempotency_key)
    if process_id is not None:
        keys.append(end_keys.c.process_id == process_id)
    if not keys:
        return None
    statement = sa.select(end_keys.c.deduction, end_keys.c.spendable_micros)
    row = connection.execute(statement.where(sa.or_(*keys), end_keys.c.end_id == end_id)).first()
    return None if row is None else FirstAnswer(*row)


def ahead(connection: sa.Connection, wallet_id: WalletId, end_id: UUID) -> tuple[int, int]:
    """Number and cost (micro-tokens) of a wallet's debts that are paid before an end."""
    found = connection.execute(_AHEAD, {"wallet_id": wallet_id, "id": end_id}).one()
    return found.ends, int(found.micros)
