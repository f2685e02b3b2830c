"""Top-ups of many wallets, and the wallets of each."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.keys import SYSTEM, Caller
from app.domain.top_ups import Target, TopUpAmount, TopUpMode, TopUpState
from app.domain.wallets import WalletId
from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import top_up_batch_wallets as members
from app.stores.postgres.tables import top_up_batches as batches

WAITING = "waiting"

# One statement is one snapshot of the wallets that are meant. Debt doesn't count towards what a wallet lacks: see
# `TopUpAmount`.
_PLANNED = """
    SELECT wallet_id, user_id,
        CASE WHEN :mode = 'add' THEN CAST(:amount_micros AS bigint)
            ELSE greatest(CAST(:amount_micros AS bigint) - posted_micros, 0) END
            AS planned_micros
    FROM wallets
    WHERE (CAST(:package_id AS text) IS NULL OR package_id = :package_id)
        AND (CAST(:wallet_id AS text) IS NULL OR wallet_id = :wallet_id)
        AND (CAST(:status AS text) IS NULL OR status = :status)
"""
_PLAN = """
    SELECT count(*) AS wallets, coalesce(sum(planned_micros), 0) AS micros FROM ({planned}) AS planned
"""
_FREEZE = """
    WITH frozen AS (
        INSERT INTO top_up_batch_wallets (batch_id, wallet_id, user_id, planned_micros)
        SELECT :batch_id, wallet_id, user_id, planned_micros FROM ({planned}) AS planned
        RETURNING planned_micros
    ), planned AS (
        SELECT count(*) AS wallets, coalesce(sum(planned_micros), 0) AS micros FROM frozen
    )
    UPDATE top_up_batches SET planned_wallets = planned.wallets, planned_micros = planned.micros
    FROM planned WHERE id = :batch_id
"""
_FIND_PLAN, _KEEP_PLAN = (sa.text(statement.format(planned=_PLANNED)) for statement in (_PLAN, _FREEZE))

_RESULTS = """
    SELECT count(*) FILTER (WHERE outcome = 'topped_up') AS topped_up,
        count(*) FILTER (WHERE outcome IN ('full', 'posted_before', 'left')) AS skipped,
        count(*) FILTER (WHERE outcome NOT IN ('topped_up', 'full', 'posted_before', 'left')) AS refused,
        coalesce(sum(posted_micros), 0) AS posted_micros
    FROM top_up_batch_wallets WHERE batch_id = :id
"""
_FINISH = """
    UPDATE top_up_batches AS b SET state = 'done', finished_at = clock_timestamp(), topped_up = r.topped_up,
        skipped = r.skipped, refused = r.refused, posted_micros = r.posted_micros
    FROM ({results}) AS r
    WHERE b.id = :id AND b.state = 'applying'
        AND NOT EXISTS (SELECT 1 FROM top_up_batch_wallets WHERE batch_id = :id AND outcome IS NULL)
    RETURNING b.id
"""
_FIND_RESULTS, _SET_DONE = sa.text(_RESULTS), sa.text(_FINISH.format(results=_RESULTS))


@dataclass(frozen=True, slots=True)
class NewBatch:
    """`schedule_id` and `due_on` are set where a schedule makes the batch."""

    reference: str
    target: Target
    amount: TopUpAmount
    reason: str
    caller: Caller = SYSTEM
    schedule_id: int | None = None
    due_on: date | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How many wallets are meant, and the sum of what they get."""

    wallets: int
    micros: int


@dataclass(frozen=True, slots=True)
class Results:
    topped_up: int = 0
    skipped: int = 0
    refused: int = 0
    posted_micros: int = 0


@dataclass(frozen=True, slots=True)
class TopUpBatch:
    """A top-up of many wallets. Its planned wallets are frozen; `results` is None until it is done."""

    id: int
    reference: str
    state: TopUpState
    schedule_id: int | None
    due_on: date | None
    target: Target
    amount: TopUpAmount
    reason: str
    actor: str | None
    request_id: str | None
    created_at: datetime
    applied_by: str | None
    applied_at: datetime | None
    finished_at: datetime | None
    planned: Plan
    results: Results | None


@dataclass(frozen=True, slots=True)
class BatchWallet:
    """A wallet of a batch. `outcome` is None until it is handled."""

    wallet_id: WalletId
    user_id: str
    planned_micros: int
    outcome: str | None
    posted_micros: int
    transaction_id: int | None


_WALLET_COLUMNS = [members.c[field.name] for field in fields(BatchWallet)]


def plan(connection: sa.Connection, target: Target, amount: TopUpAmount, seconds: float) -> Plan:
    """What the top-up would do now. Nothing is stored."""
    allow_seconds(connection, seconds)
    row = connection.execute(_FIND_PLAN, _planned(target, amount)).one()
    return Plan(row.wallets, int(row.micros))


def insert(connection: sa.Connection, new: NewBatch, state: TopUpState, seconds: float) -> TopUpBatch | None:
    """A batch with its wallets as they are now. None where there is one with this reference, or for this period."""
    allow_seconds(connection, seconds)
    values: dict[str, Any] = {
        "reference": new.reference,
        "state": state,
        "schedule_id": new.schedule_id,
        "due_on": new.due_on,
        "package_id": new.target.package_id,
        "user_id": new.target.user_id,
        "wallet_status": new.target.status,
        "mode": new.amount.mode,
        "amount_micros": new.amount.micros,
        "reason": new.reason,
        "actor": new.caller.actor,
        "request_id": new.caller.request_id,
    }
    if state is TopUpState.APPLYING:
        values |= {"applied_by": new.caller.actor, "applied_at": sa.func.now()}
    statement = pg_insert(batches).values(values).on_conflict_do_nothing().returning(batches.c.id)
    number = connection.execute(statement).scalar_one_or_none()
    if number is None:
        return None
    # A single user's wallet is always included: its outcome is reported whatever its status is.
    target = new.target if new.target.user_id is None else replace(new.target, status=None)
    connection.execute(_KEEP_PLAN, {"batch_id": number, **_planned(target, new.amount)})
    return find(connection, number)


def find(connection: sa.Connection, number: int) -> TopUpBatch | None:
    return _one(connection, batches.c.id == number)


def find_by_reference(connection: sa.Connection, reference: str) -> TopUpBatch | None:
    """The top-up that an operator requested under this reference."""
    return _one(connection, batches.c.reference == reference, batches.c.schedule_id.is_(None))


def lock(connection: sa.Connection, number: int) -> TopUpBatch | None:
    statement = sa.select(batches).where(batches.c.id == number).with_for_update()
    row = connection.execute(statement).one_or_none()
    return None if row is None else _batch(row)


def list_newest(connection: sa.Connection, schedule_id: int | None, before_id: int, limit: int) -> list[TopUpBatch]:
    statement = sa.select(batches).where(batches.c.id < before_id)
    if schedule_id is not None:
        statement = statement.where(batches.c.schedule_id == schedule_id)
    return [_batch(row) for row in connection.execute(statement.order_by(batches.c.id.desc()).limit(limit))]


def results(connection: sa.Connection, number: int) -> Results:
    """Its wallets so far, by outcome."""
    row = connection.execute(_FIND_RESULTS, {"id": number}).one()
    return Results(row.topped_up, row.skipped, row.refused, int(row.posted_micros))


def list_wallets(
    connection: sa.Connection, number: int, outcome: str | None, after_id: str, limit: int
) -> list[BatchWallet]:
    """In the order of their ids. `outcome` WAITING selects those that are not handled yet."""
    statement = sa.select(*_WALLET_COLUMNS).where(members.c.batch_id == number, members.c.wallet_id > after_id)
    if outcome == WAITING:
        statement = statement.where(members.c.outcome.is_(None))
    elif outcome is not None:
        statement = statement.where(members.c.outcome == outcome)
    return [BatchWallet(*row) for row in connection.execute(statement.order_by(members.c.wallet_id).limit(limit))]


def unfinished(connection: sa.Connection) -> list[int]:
    """Top-ups being applied, oldest first."""
    statement = sa.select(batches.c.id).where(batches.c.state == sa.literal_column("'applying'"))
    return list(connection.execute(statement.order_by(batches.c.id)).scalars())


def start(connection: sa.Connection, number: int, actor: str) -> None:
    """Have a locked dry run applied."""
    changes = {"state": TopUpState.APPLYING, "applied_by": actor, "applied_at": sa.func.now()}
    connection.execute(sa.update(batches).where(batches.c.id == number).values(changes))


def finish(connection: sa.Connection, number: int) -> bool:
    """Mark a batch as done. False where it was done before, or one of its wallets is still waiting."""
    return connection.execute(_SET_DONE, {"id": number}).one_or_none() is not None


def delete(connection: sa.Connection, number: int) -> None:
    """Delete a locked dry run."""
    connection.execute(sa.delete(members).where(members.c.batch_id == number))
    connection.execute(sa.delete(batches).where(batches.c.id == number))


def claim(connection: sa.Connection, number: int, wallet_id: WalletId) -> bool:
    """Lock a wallet's part of a batch. False where it has been handled meanwhile."""
    statement = sa.select(members.c.wallet_id).where(
        members.c.batch_id == number, members.c.wallet_id == wallet_id, members.c.outcome.is_(None)
    )
    return connection.execute(statement.with_for_update()).one_or_none() is not None


def set_outcome(
    connection: sa.Connection,
    number: int,
    wallet_id: WalletId,
    outcome: str,
    *,
    posted_micros: int = 0,
    transaction_id: int | None = None,
) -> None:
    statement = sa.update(members).where(
        members.c.batch_id == number, members.c.wallet_id == wallet_id, members.c.outcome.is_(None)
    )
    changes = {"outcome": str(outcome), "posted_micros": posted_micros, "transaction_id": transaction_id}
    connection.execute(statement.values(changes))


def _planned(target: Target, amount: TopUpAmount) -> dict[str, Any]:
    return {
        "mode": amount.mode.value,
        "amount_micros": amount.micros,
        "package_id": target.package_id,
        "wallet_id": target.wallet_id,
        "status": target.status,
    }


def _one(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> TopUpBatch | None:
    row = connection.execute(sa.select(batches).where(*conditions)).one_or_none()
    return None if row is None else _batch(row)


def _batch(row: Any) -> TopUpBatch:
    is_done = row.state == TopUpState.DONE
    return TopUpBatch(
        id=row.id,
        reference=row.reference,
        state=TopUpState(row.state),
        schedule_id=row.schedule_id,
        due_on=row.due_on,
        target=Target(row.package_id, row.user_id, row.wallet_status),
        amount=TopUpAmount(TopUpMode(row.mode), row.amount_micros),
        reason=row.reason,
        actor=row.actor,
        request_id=row.request_id,
        created_at=row.created_at,
        applied_by=row.applied_by,
        applied_at=row.applied_at,
        finished_at=row.finished_at,
        planned=Plan(row.planned_wallets, int(row.planned_micros)),
        results=Results(row.topped_up, row.skipped, row.refused, int(row.posted_micros)) if is_done else None,
    )
