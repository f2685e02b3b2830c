"""The ledger: one entry for every change of a balance, never changed again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.postings import Posting, PostingKind
from app.domain.wallets import WalletId
from app.stores.postgres.tables import token_transactions


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    id: int
    wallet_id: WalletId
    user_id: str
    kind: str
    amount_micros: int
    balance_after_micros: int
    base_cost_micros: int | None
    profit_micros: int | None
    cost_micros: int | None
    input_tokens: int | None
    output_tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    requests: int | None
    model: str | None
    feature_endpoint_id: str | None
    price_id: int | None
    profit_rule_id: int | None
    end_id: UUID | None
    process_id: str | None
    reference: str | None
    reason: str | None
    request_id: str | None
    actor: str | None
    accepted_at: datetime | None
    created_at: datetime


_COLUMNS = [token_transactions.c[field.name] for field in fields(LedgerEntry)]


def insert_posting(
    connection: sa.Connection, wallet_id: WalletId, posting: Posting, balance_after_micros: int
) -> LedgerEntry:
    """Enter a posting whose reference is new. The wallet must be locked already."""
    row = connection.execute(
        sa.insert(token_transactions)
        .values(
            wallet_id=wallet_id,
            user_id=posting.user_id,
            kind=posting.kind,
            amount_micros=posting.amount_micros,
            balance_after_micros=balance_after_micros,
            reference=posting.reference,
            reason=posting.reason,
            actor=posting.actor,
            request_id=posting.request_id,
        )
        .returning(*_COLUMNS)
    ).one()
    return LedgerEntry(*row)


def find_posting(connection: sa.Connection, wallet_id: WalletId, reference: str) -> LedgerEntry | None:
    """The posting to a wallet under this reference. Ends and write-offs have references of their own."""
    row = connection.execute(
        sa.select(*_COLUMNS).where(
            token_transactions.c.wallet_id == wallet_id,
            token_transactions.c.reference == reference,
            token_transactions.c.kind.in_([kind.value for kind in PostingKind]),
        )
    ).one_or_none()
    return None if row is None else LedgerEntry(*row)


def insert_write_off(
    connection: sa.Connection, end: Any, *, posted_micros: int, reason: str, actor: str, request_id: str | None
) -> LedgerEntry:
    """Enter a failed end as written off and as billed: the balance ends where it was, and nothing can bill it again.

    `end` is its inbox row. The wallet must be locked already.
    """
    row = connection.execute(
        sa.insert(token_transactions)
        .values(
            wallet_id=end.wallet_id,
            user_id=end.user_id,
            kind="write_off",
            amount_micros=end.cost_micros,
            balance_after_micros=posted_micros + end.cost_micros,
            end_id=end.id,
            reason=reason,
            actor=actor,
            request_id=request_id,
        )
        .returning(*_COLUMNS)
    ).one()
    connection.execute(
        sa.insert(token_transactions).values(
            wallet_id=end.wallet_id,
            user_id=end.user_id,
            kind="usage",
            amount_micros=-end.cost_micros,
            balance_after_micros=posted_micros,
            # The cost that was promised counts, also where somebody changed its parts.
            base_cost_micros=end.base_cost_micros,
            profit_micros=end.cost_micros - end.base_cost_micros,
            cost_micros=end.cost_micros,
            input_tokens=end.input_tokens,
            output_tokens=end.output_tokens,
            cached_input_tokens=end.cached_input_tokens,
            cache_write_tokens=end.cache_write_tokens,
            reasoning_tokens=end.reasoning_tokens,
            requests=end.requests,
            model=end.model,
            feature_endpoint_id=end.feature_endpoint_id,
            price_id=end.price_id,
            profit_rule_id=end.profit_rule_id,
            end_id=end.id,
            process_id=end.process_id,
            reference=end.idempotency_key,
            actor=end.actor,
            request_id=end.request_id,
            accepted_at=end.accepted_at,
        )
    )
    return LedgerEntry(*row)


def find_write_off(connection: sa.Connection, end_id: UUID) -> LedgerEntry | None:
    row = connection.execute(
        sa.select(*_COLUMNS).where(token_transactions.c.end_id == end_id, token_transactions.c.kind == "write_off")
    ).one_or_none()
    return None if row is None else LedgerEntry(*row)


def is_billed(connection: sa.Connection, end_id: UUID) -> bool:
    usage = (token_transactions.c.end_id == end_id) & (token_transactions.c.kind == "usage")
    return connection.execute(sa.select(sa.exists().where(usage))).scalar_one()


def list_entries(connection: sa.Connection, wallet_id: WalletId, before_id: int, limit: int) -> list[LedgerEntry]:
    """Newest first."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(token_transactions.c.wallet_id == wallet_id, token_transactions.c.id < before_id)
        .order_by(token_transactions.c.id.desc())
        .limit(limit)
    )
    return [LedgerEntry(*row) for row in rows]
