"""Bulk actions, and the failed ends of each, frozen as they were when the action was drafted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.bulk_actions import BulkKind, BulkOutcome, BulkState, Fate
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.stores.postgres.arrays import id_array, is_any, text_array
from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import bulk_action_ends, bulk_actions, end_inbox

# Key of an advisory lock (any constant of our own): the process that has it works off bulk actions, the others skip
# them.
WORK_LOCK = 7_236_501_119
TURN_SECONDS_MAX = 60.0

_FATES = sa.text("""
    SELECT wanted.id, CASE
        WHEN i.id IS NOT NULL THEN CASE WHEN i.state = 'accepted' THEN 'accepted' ELSE 'failed' END
        WHEN EXISTS (SELECT FROM token_transactions AS t WHERE t.kind = 'write_off' AND t.end_id = wanted.id)
            OR EXISTS (SELECT FROM archived_postings AS a WHERE a.end_id = wanted.id AND a.kind = 'write_off')
            THEN 'written_off'
        -- Tested before 'settled': a correction that reduced the debt has entered the end as billed, too.
        WHEN EXISTS (SELECT FROM corrections AS c WHERE c.end_id = wanted.id AND c.debt_change_micros < 0)
            THEN 'corrected'
        WHEN EXISTS (SELECT FROM token_transactions AS t WHERE t.kind = 'usage' AND t.end_id = wanted.id)
            OR EXISTS (
                SELECT FROM token_transactions AS t
                WHERE t.kind IN ('amendment', 'chargeback') AND t.end_id = wanted.id
            )
            THEN 'settled'
        ELSE 'gone'
    END AS fate
    FROM unnest(CAST(:ids AS uuid[])) AS wanted (id) LEFT JOIN end_inbox AS i USING (id)
""")

# A try of a debt is a try of all debts of its wallet: an end too far back in line to be counted was tried with the
# others.
_TRIED = sa.text("""
    SELECT b.end_id, i.last_error, i.id IS NOT NULL AS has_failed
    FROM bulk_action_ends AS b
    LEFT JOIN end_inbox AS i ON i.id = b.end_id
    LEFT JOIN wallets AS w ON w.wallet_id = b.wallet_id
    WHERE b.action_id = :number AND b.outcome IS NULL AND b.replayed_at IS NOT NULL AND (
        i.id IS NULL OR (i.state <> 'accepted' AND (
            i.last_error IS DISTINCT FROM :debt OR i.attempts > 0 OR w.collect_at IS NULL OR w.collect_at > now()
        ))
    )
    LIMIT :limit
""")

# All groupings in one pass over the action's ends.
_FIGURES = sa.text("""
    SELECT
        CASE grouping(state, last_error, outcome) WHEN 3 THEN 'state' WHEN 5 THEN 'last_error' ELSE 'outcome' END AS by,
        CASE grouping(state, last_error, outcome) WHEN 3 THEN state WHEN 5 THEN last_error ELSE outcome END AS key,
        count(*) AS ends, sum(cost_micros) AS cost_micros,
        count(*) FILTER (WHERE outcome IS NULL AND replayed_at IS NOT NULL) AS awaited
    FROM bulk_action_ends WHERE action_id = :number
    GROUP BY GROUPING SETS ((state), (last_error), (outcome))
    ORDER BY cost_micros DESC, key
""")
_BY_USER = sa.text("""
    SELECT user_id, count(*) AS ends, sum(cost_micros) AS cost_micros, count(*) OVER () AS users
    FROM bulk_action_ends WHERE action_id = :number
    GROUP BY user_id ORDER BY sum(cost_micros) DESC, user_id LIMIT :users_max
""")

_SET_OUTCOMES = sa.text("""
    UPDATE bulk_action_ends AS b SET outcome = given.outcome, detail = given.detail, done_at = now()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:outcomes AS text[]), CAST(:details AS text[]))
        AS given (end_id, outcome, detail)
    WHERE b.action_id = :number AND b.end_id = given.end_id AND b.outcome IS NULL
""")


@dataclass(frozen=True, slots=True)
class BulkAction:
    id: int
    action: BulkKind
    state: BulkState
    selection: Mapping[str, Any]
    ends: int
    cost_micros: int
    reference: str
    reason: str
    actor: str
    request_id: str | None
    created_at: datetime
    confirmed_by: str | None
    confirmed_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class BulkEnd:
    """An end of an action as it was selected, and its outcome."""

    end_id: UUID
    wallet_id: WalletId
    user_id: str
    cost_micros: int
    state: str
    last_error: str | None
    replayed_at: datetime | None
    outcome: BulkOutcome | None
    detail: str | None
    done_at: datetime | None


@dataclass(frozen=True, slots=True)
class TriedEnd:
    """A replayed end that has been tried since: it has failed again, or has left the inbox."""

    end_id: UUID
    last_error: str | None
    has_failed: bool


@dataclass(frozen=True, slots=True)
class BulkSum:
    """Number and cost of the ends of an action that share a value."""

    key: str | None
    ends: int
    cost_micros: int


@dataclass(frozen=True, slots=True)
class BulkFigures:
    """Sums over the ends of an action, largest first; `by_user` has only the first users. `awaited` counts replayed
    ends whose outcome isn't known yet.
    """

    by_state: Sequence[BulkSum]
    by_error: Sequence[BulkSum]
    by_user: Sequence[BulkSum]
    users: int
    outcomes: Sequence[BulkSum]
    awaited: int

    @property
    def open(self) -> int:
        """How many ends have no outcome yet."""
        return sum(each.ends for each in self.outcomes if each.key is None)


_COLUMNS = [bulk_actions.c[field.name] for field in fields(BulkAction)]
_END_COLUMNS = [bulk_action_ends.c[field.name] for field in fields(BulkEnd)]


def insert(connection: sa.Connection, **values: Any) -> int | None:
    """A new draft, still without ends. None where its reference has been used before."""
    statement = pg_insert(bulk_actions).values(ends=0, cost_micros=0, **values)
    return connection.execute(statement.on_conflict_do_nothing().returning(bulk_actions.c.id)).scalar_one_or_none()


def freeze(connection: sa.Connection, number: int, matching: sa.ColumnElement[bool], seconds: float) -> None:
    """Store which failed ends match now, and what they cost."""
    allow_seconds(connection, seconds)
    kept = ("wallet_id", "user_id", "cost_micros", "state", "last_error")
    found = sa.select(sa.literal(number), end_inbox.c.id, *(end_inbox.c[name] for name in kept)).where(matching)
    frozen = (
        sa.insert(bulk_action_ends)
        .from_select(["action_id", "end_id", *kept], found)
        .returning(bulk_action_ends.c.cost_micros)
        .cte("frozen")
    )
    cost_micros = sa.func.coalesce(sa.func.sum(frozen.c.cost_micros), 0)
    ends, micros = connection.execute(sa.select(sa.func.count(), cost_micros).select_from(frozen)).one()
    _update(connection, number, ends=ends, cost_micros=micros)


def find(connection: sa.Connection, number: int) -> BulkAction | None:
    return _one(connection, sa.select(*_COLUMNS).where(bulk_actions.c.id == number))


def find_by_reference(connection: sa.Connection, reference: str) -> BulkAction | None:
    return _one(connection, sa.select(*_COLUMNS).where(bulk_actions.c.reference == reference))


def lock(connection: sa.Connection, number: int) -> BulkAction | None:
    """Lock the action until this transaction ends: nobody else changes its state or works off its ends."""
    return _one(connection, sa.select(*_COLUMNS).where(bulk_actions.c.id == number).with_for_update())


def hold(connection: sa.Connection, number: int) -> BulkAction | None:
    """Keep the action's state as it is until this transaction ends."""
    return _one(connection, sa.select(*_COLUMNS).where(bulk_actions.c.id == number).with_for_update(read=True))


def list_newest(connection: sa.Connection, before_id: int, limit: int) -> list[BulkAction]:
    statement = sa.select(*_COLUMNS).where(bulk_actions.c.id < before_id).order_by(bulk_actions.c.id.desc())
    return [_action(row) for row in connection.execute(statement.limit(limit))]


def set_state(connection: sa.Connection, number: int, state: BulkState, **values: Any) -> None:
    if state in (BulkState.DONE, BulkState.CANCELLED):
        values["finished_at"] = sa.func.now()
    _update(connection, number, state=state, **values)


def confirm(connection: sa.Connection, number: int, confirmed_by: str) -> None:
    set_state(connection, number, BulkState.RUNNING, confirmed_by=confirmed_by, confirmed_at=sa.func.now())


def unfinished(connection: sa.Connection) -> list[int]:
    """Actions that are running or being cancelled, oldest first."""
    at_work = bulk_actions.c.state.in_([BulkState.RUNNING, BulkState.CANCELLING])
    return list(connection.execute(sa.select(bulk_actions.c.id).where(at_work).order_by(bulk_actions.c.id)).scalars())


def take_turn(connection: sa.Connection) -> bool:
    """Whether this transaction got the turn to work off bulk actions. One process at a time does, to leave room for
    others.

    The transaction is idle while other transactions do the work, so its limits are raised.
    """
    allow_seconds(connection, TURN_SECONDS_MAX)
    return bool(connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(WORK_LOCK))).scalar_one())


def figures(connection: sa.Connection, number: int, users_max: int) -> BulkFigures:
    """Sums over the ends of an action: by state, by error, by user and by outcome."""
    rows = connection.execute(_FIGURES, {"number": number}).all()
    by_user = connection.execute(_BY_USER, {"number": number, "users_max": users_max}).all()

    def sums(by: str) -> list[BulkSum]:
        return [BulkSum(row.key, row.ends, int(row.cost_micros)) for row in rows if row.by == by]

    return BulkFigures(
        by_state=sums("state"),
        by_error=sums("last_error"),
        by_user=[BulkSum(row.user_id, row.ends, int(row.cost_micros)) for row in by_user],
        users=by_user[0].users if by_user else 0,
        outcomes=sums("outcome"),
        awaited=sum(row.awaited for row in rows if row.by == "outcome"),
    )


def has_open(connection: sa.Connection, number: int) -> bool:
    return connection.execute(sa.select(sa.exists().where(_is_open(number)))).scalar_one()


def untouched(connection: sa.Connection, number: int, after: tuple[str, UUID], limit: int) -> list[BulkEnd]:
    """Ends that the action hasn't handled yet, ordered by wallet and end, after this position."""
    place = sa.tuple_(bulk_action_ends.c.wallet_id, bulk_action_ends.c.end_id)
    statement = (
        sa.select(*_END_COLUMNS)
        .where(_is_open(number), bulk_action_ends.c.replayed_at.is_(None), place > sa.tuple_(*after))
        .order_by(bulk_action_ends.c.wallet_id, bulk_action_ends.c.end_id)
    )
    return [_end(row) for row in connection.execute(statement.limit(limit))]


def claim(connection: sa.Connection, number: int, ids: Collection[UUID]) -> list[BulkEnd]:
    """Lock and return those of these ends that the action hasn't handled yet."""
    statement = (
        sa.select(*_END_COLUMNS)
        .where(_is_open(number), bulk_action_ends.c.replayed_at.is_(None), is_any(bulk_action_ends.c.end_id, ids))
        .order_by(bulk_action_ends.c.end_id)
    )
    return [_end(row) for row in connection.execute(statement.with_for_update())]


def mark_replayed(connection: sa.Connection, number: int, ids: Collection[UUID]) -> None:
    statement = sa.update(bulk_action_ends).where(_is_open(number), is_any(bulk_action_ends.c.end_id, ids))
    connection.execute(statement.values(replayed_at=sa.func.now()))


def tried(connection: sa.Connection, number: int, limit: int) -> list[TriedEnd]:
    """Replayed ends that have no outcome yet although it is known by now."""
    debt = FailureReason.INSUFFICIENT_TOKENS.value
    rows = connection.execute(_TRIED, {"number": number, "limit": limit, "debt": debt})
    return [TriedEnd(*row) for row in rows]


def set_outcomes(
    connection: sa.Connection, number: int, outcomes: Mapping[UUID, tuple[BulkOutcome, str | None]]
) -> None:
    """Set the outcomes of ends; ends that have an outcome keep it."""
    if outcomes:
        connection.execute(
            _SET_OUTCOMES,
            {
                "number": number,
                "ids": id_array(outcomes),
                "outcomes": text_array(outcome.value for outcome, _ in outcomes.values()),
                "details": text_array(detail for _, detail in outcomes.values()),
            },
        )


def cancel_untouched(connection: sa.Connection, number: int) -> None:
    """Cancel the ends that the action hasn't handled yet."""
    statement = sa.update(bulk_action_ends).where(_is_open(number), bulk_action_ends.c.replayed_at.is_(None))
    connection.execute(statement.values(outcome=BulkOutcome.CANCELLED, done_at=sa.func.now()))


def fates(connection: sa.Connection, ids: Collection[UUID]) -> dict[UUID, Fate]:
    """Where these ends are now."""
    return {row.id: Fate(row.fate) for row in connection.execute(_FATES, {"ids": id_array(ids)})}


def list_ends(
    connection: sa.Connection, number: int, outcome: BulkOutcome | None, after_id: UUID, limit: int
) -> list[BulkEnd]:
    """In the order in which they were accepted."""
    statement = sa.select(*_END_COLUMNS).where(
        bulk_action_ends.c.action_id == number, bulk_action_ends.c.end_id > after_id
    )
    if outcome is not None:
        statement = statement.where(bulk_action_ends.c.outcome == outcome)
    return [_end(row) for row in connection.execute(statement.order_by(bulk_action_ends.c.end_id).limit(limit))]


def actions_of_end(connection: sa.Connection, end_id: UUID) -> list[tuple[BulkAction, BulkEnd]]:
    """The confirmed actions that included an end, oldest first, and the end's outcome in each."""
    statement = (
        sa.select(*_COLUMNS, *(column.label(f"end_{column.name}") for column in _END_COLUMNS))
        .join_from(bulk_actions, bulk_action_ends, bulk_action_ends.c.action_id == bulk_actions.c.id)
        .where(bulk_action_ends.c.end_id == end_id, bulk_actions.c.confirmed_at.is_not(None))
        .order_by(bulk_actions.c.id)
    )
    width = len(_COLUMNS)
    return [(_action(row[:width]), _end(row[width:])) for row in connection.execute(statement)]


def forget_drafts(connection: sa.Connection, days: int) -> None:
    """Delete drafts that nobody has confirmed within this many days."""
    is_old = bulk_actions.c.created_at < sa.func.now() - sa.func.make_interval(0, 0, 0, days)
    connection.execute(sa.delete(bulk_actions).where(bulk_actions.c.state == BulkState.DRAFT, is_old))


def _is_open(number: int) -> sa.ColumnElement[bool]:
    return sa.and_(bulk_action_ends.c.action_id == number, bulk_action_ends.c.outcome.is_(None))


def _update(connection: sa.Connection, number: int, **values: Any) -> None:
    connection.execute(sa.update(bulk_actions).where(bulk_actions.c.id == number).values(**values))


def _one(connection: sa.Connection, statement: sa.Select[Any]) -> BulkAction | None:
    row = connection.execute(statement).one_or_none()
    return None if row is None else _action(row)


def _action(row: Sequence[Any]) -> BulkAction:
    values = dict(zip((field.name for field in fields(BulkAction)), row, strict=True))
    return BulkAction(
        **{
            **values,
            "action": BulkKind(values["action"]),
            "state": BulkState(values["state"]),
            "cost_micros": int(values["cost_micros"]),
        }
    )


def _end(row: Sequence[Any]) -> BulkEnd:
    values = dict(zip((field.name for field in fields(BulkEnd)), row, strict=True))
    outcome = values["outcome"]
    return BulkEnd(**{**values, "outcome": None if outcome is None else BulkOutcome(outcome)})
