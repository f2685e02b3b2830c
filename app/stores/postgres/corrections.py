"""What corrections read and write: a run's account in ledger and inbox, and each correction with its answer.

Functions that change something expect the caller to have locked the wallet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.corrections import CorrectionKind, Figures
from app.domain.ends import EndState
from app.domain.reasons import FailureReason
from app.domain.usage import Usage
from app.domain.wallets import WalletId
from app.stores.postgres.tables import corrections, end_inbox

_USAGE = [field.name for field in fields(Usage)]

_WALLET_OF = sa.text("""
    SELECT wallet_id FROM token_transactions WHERE kind = 'usage' AND end_id = :id
    UNION ALL SELECT wallet_id FROM end_inbox WHERE id = :id
    LIMIT 1
""")

_RUN = """
    SELECT {id} AS id, user_id, kind, feature_endpoint_id, model, process_id, price_id, profit_rule_id, accepted_at,
        extract(epoch FROM now() - accepted_at) AS age_seconds,
        EXISTS (SELECT 1 FROM token_transactions AS w WHERE w.kind = 'write_off' AND w.end_id = :id) AS is_written_off
    FROM {table} WHERE {condition}
"""
_FIND_RUN = sa.text(
    _RUN.format(id="end_id", table="token_transactions", condition="kind = 'usage' AND end_id = :id")
    + " UNION ALL "
    + _RUN.format(id="id", table="end_inbox", condition="id = :id")
    + " LIMIT 1"
)

# A charge that was written off counts as if it had never been made: neither of its two entries is summed.
_TAKEN = sa.text("""
    WITH entries AS MATERIALIZED (
        SELECT * FROM token_transactions WHERE kind = 'usage' AND end_id = :id
        UNION ALL SELECT * FROM token_transactions WHERE corrects = :id
    )
    SELECT coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
        coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens,
        coalesce(sum(cache_write_tokens), 0) AS cache_write_tokens,
        coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens,
        -- Ends from before usage was recorded by kind have no `requests`; each was one request.
        coalesce(sum(coalesce(requests, CASE WHEN kind = 'usage' THEN 1 END)), 0) AS requests,
        coalesce(sum(base_cost_micros), 0) AS base_cost_micros, coalesce(sum(profit_micros), 0) AS profit_micros
    FROM entries AS e
    WHERE kind <> 'write_off'
        AND NOT EXISTS (SELECT 1 FROM entries AS w WHERE w.kind = 'write_off' AND w.end_id = e.end_id)
""")

_COSTS_BY_NOW = sa.text("""
    SELECT DISTINCT ON (end_id) end_id, cost_after_micros FROM corrections
    WHERE end_id = ANY(CAST(:ids AS uuid[])) ORDER BY end_id, id DESC
""")

_OPEN = "SELECT * FROM end_inbox WHERE id = :id OR corrects = :id ORDER BY id"
_LOCK_OPEN = sa.text(f"{_OPEN} FOR UPDATE")


@dataclass(frozen=True, slots=True)
class Run:
    """An accepted end, billed already or not."""

    id: UUID
    user_id: str
    kind: str
    feature_endpoint_id: str
    model: str | None
    process_id: str | None
    price_id: int | None
    profit_rule_id: int | None
    accepted_at: datetime | None
    age_seconds: float | None
    is_written_off: bool


@dataclass(frozen=True, slots=True)
class Correction:
    """A correction and its result. `usage` and the costs are the run's; a chargeback has none."""

    id: int
    kind: str
    user_id: str
    end_id: UUID | None
    reference: str
    reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    requests: int | None
    price_id: int | None
    profit_rule_id: int | None
    cost_before_micros: int | None
    cost_after_micros: int | None
    amount_micros: int
    posted_change_micros: int
    debt_change_micros: int
    charge_id: UUID | None
    transaction_ids: Sequence[int]
    actor: str | None
    request_id: str | None
    created_at: datetime

    @property
    def usage(self) -> Usage:
        """The run's usage according to this correction."""
        return Usage(*(getattr(self, name) for name in _USAGE))


_COLUMNS = [corrections.c[field.name] for field in fields(Correction)]


def wallet_of(connection: sa.Connection, end_id: UUID) -> WalletId | None:
    """The wallet that an end is billed to. None where the end is unknown."""
    return connection.execute(_WALLET_OF, {"id": end_id}).scalar_one_or_none()


def find_run(connection: sa.Connection, end_id: UUID) -> Run | None:
    row = connection.execute(_FIND_RUN, {"id": end_id}).one_or_none()
    return None if row is None else Run(*row)


def is_charge(connection: sa.Connection, end_id: UUID) -> bool:
    """Whether this id isn't an end's but that of a charge made by a correction."""
    return connection.execute(sa.select(sa.exists().where(corrections.c.charge_id == end_id))).scalar_one()


def taken(connection: sa.Connection, end_id: UUID) -> Figures:
    """What the ledger has taken for a run so far, corrections included."""
    row = connection.execute(_TAKEN, {"id": end_id}).one()
    usage = Usage(*(int(getattr(row, name)) for name in _USAGE))
    return Figures(usage, int(row.base_cost_micros), int(row.profit_micros))


def open_parts(connection: sa.Connection, end_id: UUID) -> list[Any]:
    """The unpaid parts of a run: inbox rows, oldest first."""
    return list(connection.execute(sa.text(_OPEN), {"id": end_id}))


def lock_open_parts(connection: sa.Connection, end_id: UUID) -> list[Any]:
    """The unpaid parts of a run, locked.

    A settlement may hold one of these rows for a moment, until it finds that we have locked the wallet.
    """
    return list(connection.execute(_LOCK_OPEN, {"id": end_id}))


def figures_of(part: Any) -> Figures:
    """The figures of an inbox row. Its accepted cost counts, even where somebody has changed its parts."""
    usage = Usage(*(getattr(part, name) for name in _USAGE))
    return Figures(usage, part.base_cost_micros, part.cost_micros - part.base_cost_micros)


def find(connection: sa.Connection, end_id: UUID, reference: str) -> Correction | None:
    """The correction of an end with this reference."""
    return _one(connection, corrections.c.end_id == end_id, corrections.c.reference == reference)


def find_last(connection: sa.Connection, end_id: UUID) -> Correction | None:
    """An end's latest correction."""
    statement = sa.select(*_COLUMNS).where(corrections.c.end_id == end_id).order_by(corrections.c.id.desc()).limit(1)
    row = connection.execute(statement).one_or_none()
    return None if row is None else Correction(*row)


def find_chargeback(connection: sa.Connection, wallet_id: WalletId, reference: str) -> Correction | None:
    """The chargeback to a wallet with this reference."""
    return _one(
        connection,
        corrections.c.wallet_id == wallet_id,
        corrections.c.reference == reference,
        corrections.c.kind == CorrectionKind.CHARGEBACK.value,
    )


def list_of_end(connection: sa.Connection, end_id: UUID) -> list[Correction]:
    """Oldest first."""
    rows = connection.execute(sa.select(*_COLUMNS).where(corrections.c.end_id == end_id).order_by(corrections.c.id))
    return [Correction(*row) for row in rows]


def costs_by_now(connection: sa.Connection, end_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Costs, since their last correction, of those of these ends that were corrected."""
    rows = connection.execute(_COSTS_BY_NOW, {"ids": list(end_ids)})
    return {row.end_id: row.cost_after_micros for row in rows}


def insert(connection: sa.Connection, usage: Usage | None, **values: Any) -> Correction:
    """Store a correction; `usage` is the run's usage according to it."""
    values |= asdict(usage) if usage is not None else {}
    row = connection.execute(sa.insert(corrections).values(**values).returning(*_COLUMNS)).one()
    return Correction(*row)


def insert_charge(connection: sa.Connection, **values: Any) -> None:
    """Add a charge to a wallet's debts, as an end that wasn't covered: settlement decides whether it can be paid."""
    connection.execute(
        sa.insert(end_inbox).values(
            state=EndState.RETRYING, last_error=FailureReason.INSUFFICIENT_TOKENS, is_debt=False, **values
        )
    )


def _one(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Correction | None:
    row = connection.execute(sa.select(*_COLUMNS).where(*conditions)).one_or_none()
    return None if row is None else Correction(*row)
