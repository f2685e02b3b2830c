"""The counters in the one row of `system_state`. They only grow: one that is lower than before shows that Postgres has
lost commits.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from datetime import datetime

import sqlalchemy as sa

from app.stores.failures import Failure
from app.stores.postgres.failures import failure_of
from app.stores.postgres.tables import system_state

# More than any process can be ahead of another, and far below what Redis's scripts count exactly.
OVERTAKE = 1_000_000


@dataclass(frozen=True, slots=True)
class Counters:
    catalog_version: int = 0
    cache_epoch: int = 0
    heartbeat: int = 0
    """Raised by each write that tests whether Postgres takes writes."""
    keys_version: int = 0
    """Raised with each change of API keys (made, rotated, revoked)."""

    def follows(self, known: Counters) -> bool:
        """Whether this can be a later state of the same Postgres, without lost commits."""
        return all(own >= earlier for own, earlier in zip(astuple(self), astuple(known), strict=True))

    def later(self, other: Counters) -> Counters:
        """The higher value of each counter."""
        return Counters(*map(max, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class SystemState:
    counters: Counters
    now: datetime


_NAMES = tuple(field.name for field in fields(Counters))
_COUNTERS = tuple(system_state.c[name] for name in _NAMES)
_NOW = sa.func.clock_timestamp().label("now")


def read(connection: sa.Connection) -> SystemState:
    row = connection.execute(sa.select(*_COUNTERS, _NOW)).one()
    return SystemState(Counters(*row[: len(_NAMES)]), row.now)


def beat(connection: sa.Connection) -> SystemState:
    """Raise the heartbeat and return the state. The write is committed when this returns."""
    update = sa.update(system_state).values(heartbeat=system_state.c.heartbeat + 1)
    row = connection.execute(update.returning(*_COUNTERS, _NOW)).one()
    return SystemState(Counters(*row[: len(_NAMES)]), row.now)


def bump_epoch(connection: sa.Connection) -> int:
    """Start a new cache epoch. Returns its number."""
    update = sa.update(system_state).values(cache_epoch=system_state.c.cache_epoch + 1)
    epoch: int = connection.execute(update.returning(system_state.c.cache_epoch)).scalar_one()
    return epoch


def announce_keys(connection: sa.Connection) -> None:
    """On commit, tell every process that API keys have changed. Also serialises such changes."""
    connection.execute(sa.update(system_state).values(keys_version=system_state.c.keys_version + 1))


def overtake(connection: sa.Connection, known: Counters) -> Counters:
    """Raise all counters above those of a state that was lost. Returns them."""
    update = sa.update(system_state).values(
        {name: sa.func.greatest(system_state.c[name], getattr(known, name)) + OVERTAKE for name in _NAMES}
    )
    return Counters(*connection.execute(update.returning(*_COUNTERS)).one())


def timeline(connection: sa.Connection) -> str | None:
    """The WAL timeline that Postgres writes, which changes with each promotion. None where the server doesn't tell."""
    statement = sa.select(sa.func.left(sa.func.pg_walfile_name(sa.func.pg_current_wal_lsn()), 8))
    try:
        found: str = connection.execute(statement).scalar_one()
    except sa.exc.DBAPIError as error:
        if failure_of(error) is not Failure.REFUSED:
            raise
        # Some hosted servers lack this function; they lose no commits when they fail over.
        return None
    return found
