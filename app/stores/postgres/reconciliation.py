"""Reconciliations: requested, run one at a time, and stored with what each has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from app.domain.reasons import DriftKind
from app.domain.wallets import WalletId
from app.stores.postgres.tables import reconciliations

# Any constant of our own that differs from other advisory locks on this database.
BEGIN_LOCK = 7_236_501_119
KEPT_MAX = 1_000
# A reconciliation silent for this long counts as dead, and another may begin. Longer than any of its steps takes.
SILENT_SECONDS_MAX = 180


class State(StrEnum):
    REQUESTED = "requested"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. The two amounts are, by kind: the balance after the first wrong entry (ledger chain), what can be
    spent (cached wallet), the debt (debt sum), what the runs brought (roll-up), and otherwise the posted balance.
    """

    wallet_id: WalletId
    kind: DriftKind
    expected_micros: int
    found_micros: int
    detail: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Reconciliation:
    id: int
    state: State
    is_full: bool
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    checked: int
    cache_checked: bool
    drifted_count: int
    repaired: int
    drifted: Sequence[Drift]

    @property
    def adds_up(self) -> bool:
        """Whether everything was checked and nothing wrong is left."""
        return self.state is State.DONE and self.drifted_count == self.repaired


_COLUMNS = [reconciliations.c[field.name] for field in fields(Reconciliation)]


def request(connection: sa.Connection, *, is_full: bool) -> Reconciliation | None:
    """Request a reconciliation. None while one is requested or running."""
    _alone(connection)
    open_states = reconciliations.c.state.in_((State.REQUESTED, State.RUNNING))
    if connection.execute(sa.select(sa.exists().where(open_states))).scalar_one():
        return None
    return _insert(connection, state=State.REQUESTED, is_full=is_full)


def begin(connection: sa.Connection, *, is_full: bool) -> Reconciliation | None:
    """Begin the requested reconciliation, or else a new one. None while one is running."""
    return begin_requested(connection) or (
        None if _is_running(connection) else _insert(connection, **_RUNNING, is_full=is_full)
    )


def begin_requested(connection: sa.Connection) -> Reconciliation | None:
    """Begin the requested reconciliation. None where none is requested, or while one is running."""
    _alone(connection)
    if _is_running(connection):
        return None
    requested = sa.select(reconciliations.c.id).where(reconciliations.c.state == State.REQUESTED)
    statement = sa.update(reconciliations).where(reconciliations.c.id.in_(requested.order_by("id").limit(1)))
    row = connection.execute(statement.values(**_RUNNING).returning(*_COLUMNS)).one_or_none()
    return None if row is None else _reconciliation(row)


def say_alive(connection: sa.Connection, number: int) -> bool:
    """Report that this reconciliation still runs. False: it was silent for too long and counts as dead; another may
    have begun.
    """
    statement = sa.update(reconciliations).where(_is_ours(number))
    return connection.execute(statement.values(alive_at=sa.func.clock_timestamp())).rowcount == 1


def finish(
    connection: sa.Connection,
    number: int,
    *,
    state: State,
    checked: int,
    cache_checked: bool,
    drifted_count: int,
    repaired: int,
    drifted: Sequence[Drift],
) -> Reconciliation | None:
    """Store the result. None where this reconciliation was taken for dead meanwhile."""
    statement = sa.update(reconciliations).where(_is_ours(number))
    row = connection.execute(
        statement.values(
            state=state,
            finished_at=sa.func.clock_timestamp(),
            checked=checked,
            cache_checked=cache_checked,
            drifted_count=drifted_count,
            repaired=repaired,
            drifted=[asdict(drift) for drift in drifted],
        ).returning(*_COLUMNS)
    ).one_or_none()
    return None if row is None else _reconciliation(row)


def find(connection: sa.Connection, number: int) -> Reconciliation | None:
    row = connection.execute(sa.select(*_COLUMNS).where(reconciliations.c.id == number)).one_or_none()
    return None if row is None else _reconciliation(row)


_RUNNING = {
    "state": State.RUNNING,
    "started_at": sa.func.clock_timestamp(),
    "alive_at": sa.func.clock_timestamp(),
}


def _alone(connection: sa.Connection) -> None:
    """Serialise transactions that begin or request, and mark dead reconciliations as failed."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(BEGIN_LOCK)))
    silent = sa.func.clock_timestamp() - sa.func.make_interval(0, 0, 0, 0, 0, 0, SILENT_SECONDS_MAX)
    died = sa.update(reconciliations).where(
        reconciliations.c.state == State.RUNNING, reconciliations.c.alive_at < silent
    )
    connection.execute(died.values(state=State.FAILED, finished_at=sa.func.clock_timestamp()))


def _is_running(connection: sa.Connection) -> bool:
    running = sa.exists().where(reconciliations.c.state == State.RUNNING)
    return connection.execute(sa.select(running)).scalar_one()


def _is_ours(number: int) -> sa.ColumnElement[bool]:
    return (reconciliations.c.id == number) & (reconciliations.c.state == State.RUNNING)


def _insert(connection: sa.Connection, **values: Any) -> Reconciliation:
    row = connection.execute(sa.insert(reconciliations).values(**values).returning(*_COLUMNS)).one()
    connection.execute(sa.delete(reconciliations).where(reconciliations.c.id <= row.id - KEPT_MAX))
    return _reconciliation(row)


def _reconciliation(row: Any) -> Reconciliation:
    found = row._asdict()
    found["state"] = State(found["state"])
    found["drifted"] = [Drift(**{**drift, "kind": DriftKind(drift["kind"])}) for drift in found["drifted"]]
    return Reconciliation(**found)
