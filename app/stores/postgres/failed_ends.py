"""The part of the end inbox that operators look after: ends whose deduction has failed so far."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.stores.postgres import settlement, stale
from app.stores.postgres.stale import StaleWallet
from app.stores.postgres.tables import end_inbox, stale_wallets, wallets

NOT_ACCEPTED = end_inbox.c.state != sa.literal_column("'accepted'")

# What failed for want of tokens goes back to the retry queue; anything else through settlement again.
_REPLAY = sa.text("""
    UPDATE end_inbox SET
        state = CASE WHEN last_error = 'insufficient_tokens' THEN 'retrying' ELSE 'accepted' END,
        attempts = 0,
        next_attempt_at = CASE WHEN last_error = 'insufficient_tokens' THEN now() END,
        last_error = CASE WHEN last_error = 'insufficient_tokens' THEN last_error END
    WHERE id IN (
        SELECT id FROM end_inbox WHERE id = ANY(CAST(:ids AS uuid[])) AND state <> 'accepted'
        ORDER BY id FOR UPDATE
    )
    RETURNING user_id
""")


@dataclass(frozen=True, slots=True)
class FailedEndRow:
    id: UUID
    user_id: str
    feature_endpoint_id: str
    cost_micros: int
    state: str
    attempts: int
    next_attempt_at: datetime | None
    last_error: str | None
    accepted_at: datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """Which failed ends are meant; what is None doesn't matter."""

    state: str | None = None
    user_id: str | None = None
    last_error: str | None = None

    @property
    def condition(self) -> sa.ColumnElement[bool]:
        # The first part is what the index of failed ends is made for.
        parts = [NOT_ACCEPTED]
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                parts.append(end_inbox.c[field.name] == value)
        return sa.and_(*parts)


@dataclass(frozen=True, slots=True)
class Replayed:
    """Ends as they are after a replay, and the wallets whose cached copies are old by it."""

    ends: list[FailedEndRow]
    stale: list[StaleWallet]


_COLUMNS = [end_inbox.c[field.name] for field in fields(FailedEndRow)]


def list_ends(connection: sa.Connection, matching: Filter, after_id: UUID, limit: int) -> list[FailedEndRow]:
    """Oldest first."""
    statement = sa.select(*_COLUMNS).where(matching.condition, end_inbox.c.id > after_id)
    return [FailedEndRow(*row) for row in connection.execute(statement.order_by(end_inbox.c.id).limit(limit))]


def count(connection: sa.Connection, matching: Filter) -> int:
    return connection.execute(sa.select(sa.func.count()).where(matching.condition)).scalar_one()


def find(connection: sa.Connection, end_id: UUID) -> FailedEndRow | None:
    statement = sa.select(*_COLUMNS).where(end_inbox.c.id == end_id, NOT_ACCEPTED)
    row = connection.execute(statement).one_or_none()
    return None if row is None else FailedEndRow(*row)


def user_of(connection: sa.Connection, end_id: UUID) -> str | None:
    """Whose unsettled end this is."""
    statement = sa.select(end_inbox.c.user_id).where(end_inbox.c.id == end_id)
    return connection.execute(statement).scalar_one_or_none()


def replay(connection: sa.Connection, ids: Collection[UUID]) -> Replayed:
    """Have failed ends tried again from the start. Those accepted again before stay as they are, others are left out.

    The wallets are locked first, as retrying does. Their versions rise, so that whoever is loading an older copy
    just now can't cache it; only a refresh brings the ends' new states to Redis.
    """
    ids = list(ids)
    wanted = end_inbox.c.id.in_(ids)
    users = set(connection.execute(sa.select(end_inbox.c.user_id).where(wanted)).scalars())
    settlement.lock_wallets(connection, users)
    changed = sorted(set(connection.execute(_REPLAY, {"ids": ids}).scalars()))
    raised = sa.update(wallets).where(wallets.c.user_id.in_(changed)).values(version=wallets.c.version + 1)
    connection.execute(raised)
    stale.demand_refresh(connection, changed)
    noted = sa.select(stale_wallets.c.user_id, stale_wallets.c.changed_at).where(stale_wallets.c.user_id.in_(changed))
    after = connection.execute(sa.select(*_COLUMNS).where(wanted).order_by(end_inbox.c.id))
    return Replayed([FailedEndRow(*row) for row in after], [StaleWallet(*row) for row in connection.execute(noted)])


def claim(connection: sa.Connection, end_id: UUID) -> Any | None:
    """Lock a failed end; its whole row. The wallet must be locked already."""
    # Locking accepted ends as well would invite deadlocks: settlement takes those before their wallet.
    statement = sa.select(end_inbox).where(end_inbox.c.id == end_id, NOT_ACCEPTED)
    return connection.execute(statement.with_for_update()).one_or_none()


def delete(connection: sa.Connection, end_id: UUID) -> None:
    """Take an end that is locked out of the inbox."""
    connection.execute(sa.delete(end_inbox).where(end_inbox.c.id == end_id))
