"""Imports of price lists as rows, and the past usage by which their effect is estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.domain.rates import Rates, Tier
from app.domain.usage import Usage
from app.stores.postgres.tables import price_imports, token_transactions

APPROVED = "approved"
BEGINNINGS_MAX = 100


@dataclass(frozen=True, slots=True)
class PriceImportHead:
    """An import as lists show it."""

    id: int
    state: str
    format: str
    micros_per_dollar: int
    feature_endpoint_id: str | None
    effective_from: datetime | None
    counts: dict[str, int]
    actor: str | None
    created_at: datetime
    approved_by: str | None
    approved_at: datetime | None

    @property
    def is_approved(self) -> bool:
        return self.state == APPROVED


@dataclass(frozen=True, slots=True)
class PriceImport(PriceImportHead):
    """`proposed` are the prices that an approval adds, `report` is what else was found, both as the import service
    writes them. `price_ids` are the prices added, in the order of `proposed`.
    """

    proposed: list[dict[str, Any]]
    report: dict[str, Any]
    price_ids: list[int] | None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage of one user's runs with one model of one feature endpoint, in one band of input length."""

    user_id: str
    feature_endpoint_id: str
    model: str | None
    # How many of the given lengths these runs' input exceeds.
    length_index: int
    runs: int
    usage: Usage


_HEAD = [price_imports.c[field.name] for field in fields(PriceImportHead)]
_COLUMNS = [price_imports.c[field.name] for field in fields(PriceImport)]


def insert(connection: sa.Connection, **values: Any) -> PriceImport:
    row = connection.execute(sa.insert(price_imports).values(**values).returning(*_COLUMNS)).one()
    return PriceImport(*row)


def find(connection: sa.Connection, import_id: int, *, for_update: bool = False) -> PriceImport | None:
    statement = sa.select(*_COLUMNS).where(price_imports.c.id == import_id)
    row = connection.execute(statement.with_for_update() if for_update else statement).one_or_none()
    return None if row is None else PriceImport(*row)


def list_imports(connection: sa.Connection, before_id: int, limit: int) -> Sequence[PriceImportHead]:
    """Newest first."""
    rows = connection.execute(
        sa.select(*_HEAD).where(price_imports.c.id < before_id).order_by(price_imports.c.id.desc()).limit(limit)
    )
    return [PriceImportHead(*row) for row in rows]


def mark_approved(
    connection: sa.Connection, import_id: int, *, approved_by: str | None, price_ids: Sequence[int]
) -> PriceImport:
    row = connection.execute(
        sa.update(price_imports)
        .where(price_imports.c.id == import_id)
        .values(state=APPROVED, approved_by=approved_by, approved_at=sa.func.now(), price_ids=list(price_ids))
        .returning(*_COLUMNS)
    ).one()
    return PriceImport(*row)


def stored_rates(row: Mapping[str, Any]) -> Rates:
    """The rates of a proposed price."""
    return Rates(**{**row, "tiers": tuple(Tier(**tier) for tier in row["tiers"])})


def entries_since(connection: sa.Connection, since: datetime) -> tuple[int, int]:
    """Ids of the ledger's first entry since a moment, found by bisection, and of its last; (1, 0) where there are none.

    Ids are only nearly in the order of time, so the first may be off by some entries: pass a slightly earlier moment,
    and check each entry's own time.
    """
    ids = token_transactions.c.id
    first, last = connection.execute(sa.select(sa.func.min(ids), sa.func.max(ids))).one()
    if first is None:
        return 1, 0
    end = last
    while first <= last:
        middle = (first + last) // 2
        found = connection.execute(
            sa.select(ids, token_transactions.c.created_at).where(ids >= middle).order_by(ids).limit(1)
        ).one()
        if found.created_at < since:
            first = found.id + 1
        else:
            last = middle - 1
    return first, end


def usage_sums(
    connection: sa.Connection,
    *,
    first_id: int,
    last_id: int,
    since: datetime,
    lengths: Sequence[int],
    models: Sequence[str],
) -> Sequence[UsageSum]:
    """Sums of the usage billed in these entries since a moment. `models` are ids and patterns; some runs of other
    models may be included.
    """
    entries = token_transactions.c
    length_index: sa.ColumnElement[int] = sa.literal(0)
    if lengths:
        # A band begins one token above its length.
        bounds = sa.cast([length + 1 for length in lengths], sa.ARRAY(sa.BigInteger))
        length_index = sa.func.width_bucket(entries.input_tokens, bounds)
    groups = (entries.user_id, entries.feature_endpoint_id, entries.model, length_index.label("length_index"))

    def total(column: sa.ColumnElement[Any], otherwise: int = 0) -> sa.ColumnElement[int]:
        # Entries from before usage was recorded by kind have no parts, and each was one request.
        return sa.cast(sa.func.sum(sa.func.coalesce(column, otherwise)), sa.BigInteger)

    rows = connection.execute(
        sa.select(
            *groups,
            sa.func.count().label("runs"),
            total(entries.input_tokens),
            total(entries.output_tokens),
            total(entries.cached_input_tokens),
            total(entries.cache_write_tokens),
            total(entries.reasoning_tokens),
            total(entries.requests, 1),
        )
        .where(
            entries.id.between(first_id, last_id),
            entries.kind == "usage",
            entries.created_at >= since,
            _is_of(entries.model, models),
        )
        .group_by(*groups)
    )
    return [
        UsageSum(row.user_id, row.feature_endpoint_id, row.model, row.length_index, row.runs, Usage(*row[5:]))
        for row in rows
    ]


def _is_of(column: sa.ColumnElement[Any], models: Sequence[str]) -> sa.ColumnElement[bool]:
    """That a model is one of these: exact ids by a hash, patterns one by one. Many patterns cost more than they save
    and are ignored.
    """
    exact = [model for model in models if not model.endswith("*")]
    beginnings = [model.removesuffix("*") for model in models if model.endswith("*")]
    if len(beginnings) > BEGINNINGS_MAX:
        return sa.true()
    return sa.or_(
        column == sa.any_(sa.cast(exact, sa.ARRAY(sa.Text))),
        column.op("^@", is_comparison=True)(sa.any_(sa.cast(beginnings, sa.ARRAY(sa.Text)))),
    )
