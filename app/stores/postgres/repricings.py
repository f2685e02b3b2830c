"""Repricings and their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.repricings import RepricingFilter, RepricingOutcome, RepricingState
from app.domain.wallets import WalletId
from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import repriced_ends, repricings

# Ends by id, settled or not: each batch continues after the last end of the batch before.
_NEXT = sa.text("""
    SELECT id FROM (
        (
            SELECT end_id AS id FROM token_transactions
            WHERE kind = 'usage' AND end_id > :after
                AND (CAST(:feature_endpoint_id AS text) IS NULL OR feature_endpoint_id = :feature_endpoint_id)
                AND (CAST(:model AS text) IS NULL OR model = :model)
                AND (CAST(:user_id AS text) IS NULL OR user_id = :user_id)
                AND (CAST(:accepted_from AS timestamptz) IS NULL OR accepted_at >= :accepted_from)
                AND (CAST(:accepted_to AS timestamptz) IS NULL OR accepted_at < :accepted_to)
            ORDER BY end_id LIMIT :limit
        )
        UNION
        (
            SELECT id FROM end_inbox
            WHERE kind = 'usage' AND id > :after
                AND (CAST(:feature_endpoint_id AS text) IS NULL OR feature_endpoint_id = :feature_endpoint_id)
                AND (CAST(:model AS text) IS NULL OR model = :model)
                AND (CAST(:user_id AS text) IS NULL OR user_id = :user_id)
                AND (CAST(:accepted_from AS timestamptz) IS NULL OR accepted_at >= :accepted_from)
                AND (CAST(:accepted_to AS timestamptz) IS NULL OR accepted_at < :accepted_to)
            ORDER BY id LIMIT :limit
        )
    ) AS ends ORDER BY id LIMIT :limit
""")

_SUMS = sa.text("""
    SELECT count(*) AS runs, coalesce(sum(old_cost_micros), 0) AS old_cost_micros,
        coalesce(sum(new_cost_micros), 0) AS new_cost_micros,
        count(*) FILTER (WHERE outcome = 'amended') AS amended,
        count(*) FILTER (WHERE outcome = 'unchanged') AS unchanged,
        count(*) FILTER (WHERE outcome NOT IN ('amended', 'unchanged')) AS refused
    FROM repriced_ends WHERE repricing_id = :id
""")

_GROUPS = sa.text("""
    SELECT user_id, model, count(*) AS runs, sum(old_cost_micros) AS old_cost_micros,
        sum(new_cost_micros) AS new_cost_micros
    FROM repriced_ends WHERE repricing_id = :id
    GROUP BY user_id, model ORDER BY abs(sum(new_cost_micros) - sum(old_cost_micros)) DESC, user_id, model LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Repricing:
    id: int
    state: RepricingState
    price_id: int
    feature_endpoint_id: str | None
    model: str | None
    user_id: str | None
    accepted_from: datetime | None
    accepted_to: datetime | None
    reason: str
    actor: str | None
    request_id: str | None
    selected_up_to: UUID
    created_at: datetime

    @property
    def reference(self) -> str:
        """The reference of this repricing's amendments."""
        return f"repricing-{self.id}"

    @property
    def filter(self) -> RepricingFilter:
        return RepricingFilter(*(getattr(self, field.name) for field in fields(RepricingFilter)))


@dataclass(frozen=True, slots=True)
class RepricingSums:
    runs: int
    old_cost_micros: int
    new_cost_micros: int
    amended: int
    unchanged: int
    refused: int


@dataclass(frozen=True, slots=True)
class RepricingGroup:
    """What a repricing changes for one user's runs of one model."""

    user_id: str
    model: str | None
    runs: int
    old_cost_micros: int
    new_cost_micros: int


@dataclass(frozen=True, slots=True)
class RepricedEnd:
    """A run that is to be amended."""

    end_id: UUID
    wallet_id: WalletId
    user_id: str
    model: str | None
    old_cost_micros: int
    new_cost_micros: int


_COLUMNS = [repricings.c[field.name] for field in fields(Repricing)]
_END_COLUMNS = [repriced_ends.c[field.name] for field in fields(RepricedEnd)]


def insert(connection: sa.Connection, filter: RepricingFilter, **values: Any) -> Repricing:
    # Runs accepted from now on aren't past runs.
    bounds = {"accepted_to": sa.func.now()} if filter.accepted_to is None else {}
    statement = sa.insert(repricings).values(**{**asdict(filter), **bounds, **values}).returning(*_COLUMNS)
    return _repricing(connection.execute(statement).one())


def find(connection: sa.Connection, number: int) -> Repricing | None:
    row = connection.execute(sa.select(*_COLUMNS).where(repricings.c.id == number)).one_or_none()
    return None if row is None else _repricing(row)


def list_newest(connection: sa.Connection, before_id: int, limit: int) -> list[Repricing]:
    statement = sa.select(*_COLUMNS).where(repricings.c.id < before_id).order_by(repricings.c.id.desc()).limit(limit)
    return [_repricing(row) for row in connection.execute(statement)]


def unfinished(connection: sa.Connection) -> list[int]:
    """Repricings that are selecting or being applied, oldest first."""
    at_work = repricings.c.state.in_([RepricingState.SELECTING, RepricingState.APPLYING])
    return list(connection.execute(sa.select(repricings.c.id).where(at_work).order_by(repricings.c.id)).scalars())


def lock(connection: sa.Connection, number: int) -> Repricing | None:
    """Lock a repricing, so that nobody else selects runs for it. None where another transaction has locked it."""
    statement = sa.select(*_COLUMNS).where(repricings.c.id == number).with_for_update(skip_locked=True)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _repricing(row)


def set_state(connection: sa.Connection, number: int, before: RepricingState, state: RepricingState) -> bool:
    """False where it wasn't in the state `before`."""
    statement = sa.update(repricings).where(repricings.c.id == number, repricings.c.state == before)
    return connection.execute(statement.values(state=state)).rowcount > 0


def next_ends(connection: sa.Connection, repricing: Repricing, limit: int, seconds: float) -> list[UUID]:
    """The next ends after those already looked at, in the order of their ids."""
    allow_seconds(connection, seconds)
    asked = {**asdict(repricing.filter), "after": repricing.selected_up_to, "limit": limit}
    return list(connection.execute(_NEXT, asked).scalars())


def add_ends(connection: sa.Connection, number: int, ends: Sequence[RepricedEnd], up_to: UUID) -> None:
    """Freeze these runs, and store up to which end was looked."""
    if ends:
        rows = [{"repricing_id": number, **asdict(end)} for end in ends]
        connection.execute(sa.insert(repriced_ends), rows)
    connection.execute(sa.update(repricings).where(repricings.c.id == number).values(selected_up_to=up_to))


def open_ends(connection: sa.Connection, number: int, after_id: UUID, limit: int) -> list[RepricedEnd]:
    """Its runs without an outcome, in the order of their ids."""
    is_open = (repriced_ends.c.repricing_id == number) & repriced_ends.c.outcome.is_(None)
    statement = sa.select(*_END_COLUMNS).where(is_open, repriced_ends.c.end_id > after_id)
    return [RepricedEnd(*row) for row in connection.execute(statement.order_by(repriced_ends.c.end_id).limit(limit))]


def claim(connection: sa.Connection, number: int, end_id: UUID) -> bool:
    """Lock a run of a repricing. False where the run has an outcome by now."""
    statement = sa.select(repriced_ends.c.end_id).where(
        repriced_ends.c.repricing_id == number, repriced_ends.c.end_id == end_id, repriced_ends.c.outcome.is_(None)
    )
    return connection.execute(statement.with_for_update()).one_or_none() is not None


def set_outcome(connection: sa.Connection, number: int, end_id: UUID, outcome: RepricingOutcome | str) -> None:
    statement = sa.update(repriced_ends).where(
        repriced_ends.c.repricing_id == number, repriced_ends.c.end_id == end_id, repriced_ends.c.outcome.is_(None)
    )
    connection.execute(statement.values(outcome=str(outcome)))


def sums(connection: sa.Connection, number: int) -> RepricingSums:
    row = connection.execute(_SUMS, {"id": number}).one()
    return RepricingSums(*(int(value) for value in row))


def groups(connection: sa.Connection, number: int, limit: int) -> list[RepricingGroup]:
    """By user and model, largest change first."""
    rows = connection.execute(_GROUPS, {"id": number, "limit": limit})
    return [
        RepricingGroup(row.user_id, row.model, row.runs, int(row.old_cost_micros), int(row.new_cost_micros))
        for row in rows
    ]


def _repricing(row: Any) -> Repricing:
    return Repricing(**{**row._asdict(), "state": RepricingState(row.state)})
