"""Schedules of top-ups. Postgres says which day it is, whatever the clocks of other hosts show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.keys import SYSTEM, Caller
from app.domain.top_ups import Calendar, CatchUp, Period, Rhythm, ScheduleState, Target, TopUpAmount, TopUpMode
from app.stores.postgres.tables import top_up_schedules as schedules

_TODAY: sa.ColumnElement[date] = sa.literal_column("CAST(timezone('UTC', now()) AS date)", sa.Date)
_IS_DUE = (schedules.c.state == sa.literal_column("'active'"), schedules.c.next_on <= _TODAY)


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """`starts_on` None means today."""

    reference: str
    target: Target
    amount: TopUpAmount
    rhythm: Rhythm
    starts_on: date | None
    reason: str
    caller: Caller = SYSTEM


@dataclass(frozen=True, slots=True)
class TopUpSchedule:
    """`next_on` is when the schedule falls due next; None once it never does again."""

    id: int
    reference: str
    state: ScheduleState
    target: Target
    amount: TopUpAmount
    rhythm: Rhythm
    starts_on: date
    next_on: date | None
    reason: str
    actor: str | None
    request_id: str | None
    created_at: datetime


def today(connection: sa.Connection) -> date:
    return connection.execute(sa.select(_TODAY)).scalar_one()


def insert(connection: sa.Connection, new: NewSchedule, starts_on: date, next_on: date) -> TopUpSchedule | None:
    """None where there is a schedule with this reference."""
    values = {
        "reference": new.reference,
        "package_id": new.target.package_id,
        "user_id": new.target.user_id,
        "wallet_status": new.target.status,
        "mode": new.amount.mode,
        "amount_micros": new.amount.micros,
        "period": new.rhythm.calendar.period,
        "day": new.rhythm.calendar.day,
        "starts_on": starts_on,
        "ends_on": new.rhythm.ends_on,
        "catch_up": new.rhythm.catch_up,
        "next_on": next_on,
        "reason": new.reason,
        "actor": new.caller.actor,
        "request_id": new.caller.request_id,
    }
    statement = pg_insert(schedules).values(values).on_conflict_do_nothing().returning(schedules)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _schedule(row)


def find(connection: sa.Connection, number: int) -> TopUpSchedule | None:
    row = connection.execute(sa.select(schedules).where(schedules.c.id == number)).one_or_none()
    return None if row is None else _schedule(row)


def find_by_reference(connection: sa.Connection, reference: str) -> TopUpSchedule | None:
    row = connection.execute(sa.select(schedules).where(schedules.c.reference == reference)).one_or_none()
    return None if row is None else _schedule(row)


def lock(connection: sa.Connection, number: int) -> TopUpSchedule | None:
    row = connection.execute(sa.select(schedules).where(schedules.c.id == number).with_for_update()).one_or_none()
    return None if row is None else _schedule(row)


def list_newest(connection: sa.Connection, before_id: int, limit: int) -> list[TopUpSchedule]:
    statement = sa.select(schedules).where(schedules.c.id < before_id).order_by(schedules.c.id.desc()).limit(limit)
    return [_schedule(row) for row in connection.execute(statement)]


def due(connection: sa.Connection) -> list[int]:
    """Schedules that are due, the longest overdue first."""
    statement = sa.select(schedules.c.id).where(*_IS_DUE).order_by(schedules.c.next_on, schedules.c.id)
    return list(connection.execute(statement).scalars())


def lock_due(connection: sa.Connection, number: int) -> tuple[TopUpSchedule, date, date] | None:
    """A schedule that is due, the day it was due, and today. None where it is no longer due, or another transaction has
    locked it.
    """
    statement = sa.select(schedules, _TODAY.label("today")).where(schedules.c.id == number, *_IS_DUE)
    row = connection.execute(statement.with_for_update(skip_locked=True)).one_or_none()
    return None if row is None else (_schedule(row), row.next_on, row.today)


def update(connection: sa.Connection, number: int, **changes: Any) -> TopUpSchedule:
    """Change a locked schedule. Returns it as it is then."""
    statement = sa.update(schedules).where(schedules.c.id == number).values(changes).returning(schedules)
    return _schedule(connection.execute(statement).one())


def _schedule(row: Any) -> TopUpSchedule:
    return TopUpSchedule(
        id=row.id,
        reference=row.reference,
        state=ScheduleState(row.state),
        target=Target(row.package_id, row.user_id, row.wallet_status),
        amount=TopUpAmount(TopUpMode(row.mode), row.amount_micros),
        rhythm=Rhythm(Calendar(Period(row.period), row.day), row.ends_on, CatchUp(row.catch_up)),
        starts_on=row.starts_on,
        next_on=row.next_on,
        reason=row.reason,
        actor=row.actor,
        request_id=row.request_id,
        created_at=row.created_at,
    )
