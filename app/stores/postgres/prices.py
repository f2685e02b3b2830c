"""Rate cards as rows: added, and never changed afterwards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.rates import RateCard, Rates, Tier
from app.domain.reports import Scope
from app.stores.postgres.scopes import newest_made_for
from app.stores.postgres.tables import prices

_RATE_COLUMNS = [field.name for field in fields(Rates) if field.name != "tiers"]


def insert(
    connection: sa.Connection,
    rates: Rates,
    *,
    feature_endpoint_id: str | None,
    model: str | None,
    effective_from: datetime | None,
) -> RateCard | None:
    """A new rate card, in force from now on, or from `effective_from`. None where there is one for the same scope and
    moment.

    The caller has announced the change of the catalog first, which serialises additions.
    """
    values: dict[str, Any] = {
        "feature_endpoint_id": feature_endpoint_id,
        "model": model,
        # Not the transaction's start: a transaction that began earlier but waited for ours must get a later time.
        "effective_from": sa.func.clock_timestamp() if effective_from is None else effective_from,
        "tiers": [_named(tier) for tier in rates.tiers],
        **{name: getattr(rates, name) for name in _RATE_COLUMNS},
    }
    statement = pg_insert(prices).values(values).on_conflict_do_nothing().returning(prices)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _card(row)


def insert_all(
    connection: sa.Connection,
    listed: Sequence[tuple[str, Rates]],
    *,
    feature_endpoint_id: str | None,
    effective_from: datetime,
) -> list[int]:
    """Add cards for many models, in force from one moment on. Returns their ids. Fails where there is one for the same
    scope and moment.
    """
    if not listed:
        return []
    rows = [
        {
            "feature_endpoint_id": feature_endpoint_id,
            "model": model,
            "effective_from": effective_from,
            "tiers": [_named(tier) for tier in rates.tiers],
            **{name: getattr(rates, name) for name in _RATE_COLUMNS},
        }
        for model, rates in listed
    ]
    statement = sa.insert(prices).returning(prices.c.id, sort_by_parameter_order=True)
    return list(connection.execute(statement, rows).scalars())


def all_cards(connection: sa.Connection) -> list[RateCard]:
    return [_card(row) for row in connection.execute(sa.select(prices))]


def by_ids(connection: sa.Connection, ids: Collection[int]) -> Mapping[int | None, RateCard]:
    """Rate cards by id."""
    if not ids:
        return {}
    return {row.id: _card(row) for row in connection.execute(sa.select(prices).where(prices.c.id.in_(ids)))}


def list_cards(connection: sa.Connection, scope: Scope, before_id: int, limit: int) -> Sequence[RateCard]:
    """Newest first."""
    return [_card(row) for row in connection.execute(newest_made_for(prices, scope, before_id, limit))]


def _card(row: Any) -> RateCard:
    return RateCard(
        id=row.id,
        rates=Rates(
            **{name: getattr(row, name) for name in _RATE_COLUMNS}, tiers=tuple(Tier(**tier) for tier in row.tiers)
        ),
        feature_endpoint_id=row.feature_endpoint_id,
        model=row.model,
        effective_from=row.effective_from,
    )


def _named(tier: Tier) -> dict[str, int]:
    return {name: value for name, value in asdict(tier).items() if value is not None}
