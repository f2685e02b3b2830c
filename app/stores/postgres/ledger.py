"""The ledger: one entry for every change of a balance, never changed again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa

from app.domain.postings import Posting, PostingKind
from app.stores.postgres.tables import token_transactions


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    id: int
    user_id: str
    kind: str
    amount_micros: int
    balance_after_micros: int
    base_cost_micros: int | None
    profit_micros: int | None
    cost_micros: int | None
    input_tokens: int | None
    output_tokens: int | None
    model: str | None
    feature_endpoint_id: str | None
    profit_rule_id: int | None
    process_id: str | None
    reference: str | None
    reason: str | None
    created_at: datetime


_COLUMNS = [token_transactions.c[field.name] for field in fields(LedgerEntry)]


def insert_posting(connection: sa.Connection, posting: Posting, balance_after_micros: int) -> LedgerEntry:
    """Enter a posting whose reference is new. The wallet must be locked already."""
    row = connection.execute(
        sa.insert(token_transactions)
        .values(
            user_id=posting.user_id,
            kind=posting.kind,
            amount_micros=posting.amount_micros,
            balance_after_micros=balance_after_micros,
            reference=posting.reference,
            reason=posting.reason,
        )
        .returning(*_COLUMNS)
    ).one()
    return LedgerEntry(*row)


def find_posting(connection: sa.Connection, user_id: str, reference: str) -> LedgerEntry | None:
    """The posting to a wallet under this reference. Ends and write-offs have references of their own."""
    row = connection.execute(
        sa.select(*_COLUMNS).where(
            token_transactions.c.user_id == user_id,
            token_transactions.c.reference == reference,
            token_transactions.c.kind.in_([kind.value for kind in PostingKind]),
        )
    ).one_or_none()
    return None if row is None else LedgerEntry(*row)


def list_entries(connection: sa.Connection, user_id: str, before_id: int, limit: int) -> list[LedgerEntry]:
    """Newest first."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(token_transactions.c.user_id == user_id, token_transactions.c.id < before_id)
        .order_by(token_transactions.c.id.desc())
        .limit(limit)
    )
    return [LedgerEntry(*row) for row in rows]
