"""The part of the inbox that operators look after: ends whose settlement has failed so far."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.failed_ends import Filter, age_bounds
from app.domain.wallets import WalletId, wallet_of
from app.stores.postgres import settlement
from app.stores.postgres.arrays import is_any
from app.stores.postgres.tables import end_inbox, wallets

NOT_ACCEPTED = end_inbox.c.state != sa.literal_column("'accepted'")

# Ends that failed for lack of tokens go back to the retry queue, all others through settlement again. Until a worker
# has tried a replayed end, it stays in its wallet's sum of debts, so the cached wallet doesn't change.
_REPLAY = sa.text("""
    WITH replayed AS (
        UPDATE end_inbox SET
            state = CASE WHEN last_error = 'insufficient_tokens' THEN 'retrying' ELSE 'accepted' END,
            attempts = 0,
            last_error = CASE WHEN last_error = 'insufficient_tokens' THEN last_error END
        WHERE id IN (
            SELECT id FROM end_inbox WHERE id = ANY(CAST(:ids AS uuid[])) AND state <> 'accepted'
            ORDER BY id FOR UPDATE
        )
        RETURNING wallet_id, state
    )
    UPDATE wallets SET collect_at = now()
    WHERE wallet_id = ANY(ARRAY(SELECT wallet_id FROM replayed WHERE state = 'retrying'))
""")


@dataclass(frozen=True, slots=True)
class FailedEndRow:
    id: UUID
    wallet_id: WalletId
    user_id: str
    kind: str
    corrects: UUID | None
    reference: str | None
    feature_endpoint_id: str | None
    model: str | None
    cost_micros: int
    state: str
    attempts: int
    next_attempt_at: datetime | None
    last_error: str | None
    accepted_at: datetime


# All debts of a wallet are retried together. A failed end that isn't part of the wallet's debts yet is tried at once.
_NEXT_ATTEMPT_AT = sa.case(
    (end_inbox.c.state == "retrying", sa.func.coalesce(wallets.c.collect_at, end_inbox.c.accepted_at))
).label("next_attempt_at")
_COLUMNS = [
    _NEXT_ATTEMPT_AT if field.name == "next_attempt_at" else end_inbox.c[field.name] for field in fields(FailedEndRow)
]
_ENDS = sa.select(*_COLUMNS).select_from(
    end_inbox.outerjoin(wallets, wallets.c.wallet_id == end_inbox.c.wallet_id),
)


def condition(matching: Filter, among: sa.ColumnElement[bool] = NOT_ACCEPTED) -> sa.ColumnElement[bool]:
    """That an inbox row matches; `among` repeats the condition of the partial indexes on failed ends, so that these are
    used.
    """
    parts = [among]
    for name in ("state", "user_id", "last_error", "feature_endpoint_id", "model", "kind"):
        value = getattr(matching, name)
        if value is not None:
            parts.append(end_inbox.c[name] == value)
    if matching.user_id is not None:
        # This condition lets the index on wallet_id be used: none is on user_id.
        parts.append(end_inbox.c.wallet_id == wallet_of(matching.user_id))
    if matching.package_id is not None:
        of_package = sa.select(wallets.c.wallet_id).where(wallets.c.package_id == matching.package_id)
        parts.append(end_inbox.c.wallet_id.in_(of_package))
    return sa.and_(*parts, *_within(matching))


def any_of(ids: Collection[UUID]) -> sa.ColumnElement[bool]:
    """That an inbox row is one of these ends and has failed."""
    return sa.and_(is_any(end_inbox.c.id, ids), NOT_ACCEPTED)


def _within(matching: Filter) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions on time, age and cost."""
    accepted_at, cost_micros = end_inbox.c.accepted_at, end_inbox.c.cost_micros
    if matching.since is not None:
        yield accepted_at >= matching.since
    if matching.until is not None:
        yield accepted_at < matching.until
    ages = [(matching.older_than_seconds, matching.younger_than_seconds)]
    if matching.age is not None:
        ages.append(age_bounds(matching.age))
    for older_than_seconds, younger_than_seconds in ages:
        # An end exactly as old as a bound belongs to the band that begins there.
        if older_than_seconds is not None:
            yield accepted_at <= ago(older_than_seconds)
        if younger_than_seconds is not None:
            yield accepted_at > ago(younger_than_seconds)
    if matching.cost_min_micros is not None:
        yield cost_micros >= matching.cost_min_micros
    if matching.cost_max_micros is not None:
        yield cost_micros <= matching.cost_max_micros


def ago(seconds: int) -> sa.ColumnElement[datetime]:
    return sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def list_ends(connection: sa.Connection, matching: Filter, after_id: UUID, limit: int) -> list[FailedEndRow]:
    """Oldest first."""
    statement = _ENDS.where(condition(matching), end_inbox.c.id > after_id)
    return [FailedEndRow(*row) for row in connection.execute(statement.order_by(end_inbox.c.id).limit(limit))]


def count(connection: sa.Connection, matching: Filter) -> int:
    return connection.execute(sa.select(sa.func.count()).where(condition(matching))).scalar_one()


def find(connection: sa.Connection, end_id: UUID) -> FailedEndRow | None:
    statement = _ENDS.where(end_inbox.c.id == end_id, NOT_ACCEPTED)
    row = connection.execute(statement).one_or_none()
    return None if row is None else FailedEndRow(*row)


def payer_of(connection: sa.Connection, end_id: UUID) -> WalletId | None:
    """The wallet that pays for an unsettled end."""
    statement = sa.select(end_inbox.c.wallet_id).where(end_inbox.c.id == end_id)
    return connection.execute(statement).scalar_one_or_none()


def replay(connection: sa.Connection, ids: Collection[UUID]) -> list[FailedEndRow]:
    """Have failed ends retried from the start. Returns them, together with those that were replayed before; ends that
    aren't in the inbox are left out.

    The wallets are locked first, as in collecting debts.
    """
    ids = list(ids)
    wanted = is_any(end_inbox.c.id, ids)
    payers = set(connection.execute(sa.select(end_inbox.c.wallet_id).where(wanted)).scalars())
    settlement.lock_wallets(connection, payers)
    connection.execute(_REPLAY, {"ids": ids})
    return [FailedEndRow(*row) for row in connection.execute(_ENDS.where(wanted).order_by(end_inbox.c.id))]


def claim(connection: sa.Connection, ids: Collection[UUID]) -> Sequence[Any]:
    """Lock those of these ends that have failed, and return their whole rows, oldest first. The caller has locked their
    wallet.
    """
    # Accepted ends aren't locked here: settlement locks those before their wallet, so locking them would invite
    # deadlocks.
    statement = sa.select(end_inbox).where(is_any(end_inbox.c.id, ids), NOT_ACCEPTED).order_by(end_inbox.c.id)
    return connection.execute(statement.with_for_update()).all()


def delete(connection: sa.Connection, ids: Collection[UUID]) -> None:
    """Delete locked ends from the inbox."""
    connection.execute(sa.delete(end_inbox).where(is_any(end_inbox.c.id, ids)))
