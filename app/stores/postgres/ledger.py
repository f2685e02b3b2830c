"""The ledger: one entry for every change of a balance, never changed afterwards."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.postings import PostingKind
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres.arrays import is_any
from app.stores.postgres.tables import archived_postings, token_transactions


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
    corrects: UUID | None
    process_id: str | None
    reference: str | None
    reason: str | None
    request_id: str | None
    actor: str | None
    accepted_at: datetime | None
    created_at: datetime


ENTRY_COLUMNS = [token_transactions.c[field.name] for field in fields(LedgerEntry)]
# The same columns of an archived entry, which Postgres converts from JSON back into a row of the ledger.
_ARCHIVED_COLUMNS = [
    sa.literal_column(
        f"(jsonb_populate_record(NULL::token_transactions, archived_postings.entry)).{column.name}", column.type
    )
    for column in ENTRY_COLUMNS
]


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to be made; `corrects` is the end that it corrects."""

    user_id: str
    kind: str
    amount_micros: int
    base_cost_micros: int | None = None
    profit_micros: int | None = None
    cost_micros: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    requests: int | None = None
    model: str | None = None
    feature_endpoint_id: str | None = None
    price_id: int | None = None
    profit_rule_id: int | None = None
    end_id: UUID | None = None
    corrects: UUID | None = None
    process_id: str | None = None
    reference: str | None = None
    reason: str | None = None
    request_id: str | None = None
    actor: str | None = None
    accepted_at: datetime | None = None


# All entries are one JSON text: with a parameter for each value, parsing the statement would take longer than running
# it. They get ids in the order given, so that each balance follows from the entry before.
_GIVEN = ("wallet_id", "balance_after_micros", *(field.name for field in fields(NewEntry)))
_ENTER = sa.text(f"""
    INSERT INTO token_transactions ({", ".join(_GIVEN)})
    SELECT {", ".join(f"entry.{name}" for name in _GIVEN)}
    FROM jsonb_array_elements(CAST(:entries AS jsonb)) WITH ORDINALITY AS given (entry, place),
        jsonb_populate_record(NULL::token_transactions, given.entry) AS entry
    ORDER BY given.place
    RETURNING {", ".join(column.name for column in ENTRY_COLUMNS)}
""").columns(*ENTRY_COLUMNS)  # noqa: S608 - names of columns


def enter(connection: sa.Connection, wallet: Wallet, entries: Sequence[NewEntry]) -> list[LedgerEntry]:
    """Enter changes of a wallet's balance, one after the other, starting from its posted balance.

    All changes of balances except those of settlement are entered here. The caller has locked the wallet and updates
    its row.
    """
    rows = []
    posted_micros = wallet.posted_micros
    for entry in entries:
        posted_micros += entry.amount_micros
        rows.append({**asdict(entry), "wallet_id": wallet.id, "balance_after_micros": posted_micros})
    entered = connection.execute(_ENTER, {"entries": json.dumps(rows, default=str)})
    return sorted((LedgerEntry(*row) for row in entered), key=lambda entry: entry.id)


def find_posting(connection: sa.Connection, wallet_id: WalletId, reference: str) -> LedgerEntry | None:
    """The posting to a wallet with this reference. References of ends and write-offs are separate."""
    kinds = [kind.value for kind in PostingKind]
    return _find(connection, kinds, wallet_id=wallet_id, reference=reference)


def find_entries(connection: sa.Connection, ids: Sequence[int]) -> list[LedgerEntry]:
    """Entries by id, in the order of their ids, archived ones included; only archived usage is left out."""
    rows = connection.execute(
        sa.union_all(
            sa.select(*ENTRY_COLUMNS).where(token_transactions.c.id.in_(ids)),
            sa.select(*_ARCHIVED_COLUMNS).where(archived_postings.c.id.in_(ids)),
        ).order_by("id")
    )
    return [LedgerEntry(*row) for row in rows]


def find_billed(connection: sa.Connection, charge_id: UUID) -> list[LedgerEntry]:
    """The entry of a correction's charge, once it is paid."""
    billing = token_transactions.c.kind.in_(["amendment", "chargeback"])
    rows = connection.execute(sa.select(*ENTRY_COLUMNS).where(token_transactions.c.end_id == charge_id, billing))
    return [LedgerEntry(*row) for row in rows]


def billed(part: Any) -> NewEntry:
    """The entry that bills an inbox row."""
    entry = NewEntry(
        user_id=part.user_id,
        kind=part.kind,
        amount_micros=-part.cost_micros,
        # The accepted cost counts, even where somebody has changed its parts.
        base_cost_micros=part.base_cost_micros,
        profit_micros=part.cost_micros - part.base_cost_micros,
        cost_micros=part.cost_micros,
        input_tokens=part.input_tokens,
        output_tokens=part.output_tokens,
        cached_input_tokens=part.cached_input_tokens,
        cache_write_tokens=part.cache_write_tokens,
        reasoning_tokens=part.reasoning_tokens,
        requests=part.requests,
        model=part.model,
        feature_endpoint_id=part.feature_endpoint_id,
        price_id=part.price_id,
        profit_rule_id=part.profit_rule_id,
        end_id=part.id,
        corrects=part.corrects,
        process_id=part.process_id,
        reference=part.reference or part.idempotency_key,
        reason=part.reason,
        actor=part.actor,
        request_id=part.request_id,
        accepted_at=part.accepted_at,
    )
    if part.kind == "chargeback":
        # A chargeback has an amount but no cost.
        entry = replace(entry, base_cost_micros=None, profit_micros=None, cost_micros=None)
    return entry


def find_write_off(connection: sa.Connection, end_id: UUID) -> LedgerEntry | None:
    return _find(connection, ["write_off"], end_id=end_id)


def billed_of(connection: sa.Connection, end_ids: Collection[UUID]) -> set[UUID]:
    """Those of these inbox rows that the ledger already has an entry for."""
    entry = token_transactions.c
    # Each of the two conditions has its own index.
    kinds = (entry.kind == "usage", entry.kind.in_(["amendment", "chargeback"]))
    found = sa.union_all(*(sa.select(entry.end_id).where(kind, is_any(entry.end_id, end_ids)) for kind in kinds))
    return set(connection.execute(found).scalars())


def _find(connection: sa.Connection, kinds: Sequence[str], **values: Any) -> LedgerEntry | None:
    """The entry of one of these kinds with these values, archived or not."""
    for table, columns in ((token_transactions, ENTRY_COLUMNS), (archived_postings, _ARCHIVED_COLUMNS)):
        wanted = [table.c[name] == value for name, value in values.items()]
        statement = sa.select(*columns).where(table.c.kind.in_(kinds), *wanted)
        row = connection.execute(statement).one_or_none()
        if row is not None:
            return LedgerEntry(*row)
    return None
