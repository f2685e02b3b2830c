"""Scheduled top-ups: each period that falls due becomes a top-up of many wallets, once.

The schedule's row is locked, the top-up made and the next day noted in one transaction; a period has one top-up, and a
wallet one posting under that top-up's reference. Beat may start this twice, late, or not at all for a while.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.billing.postings import ANOTHER_BODY
from app.billing.top_ups import FREEZE_SECONDS_MAX, check_target, told
from app.domain.errors import IdempotencyConflict, Invalid, NotFound, ScheduleEnded, TooSlow, WalletBusy
from app.domain.keys import SYSTEM, Caller, caller_again
from app.domain.pages import NEWEST, Page, page
from app.domain.top_ups import ScheduleState, TopUpState, schedule_reference
from app.stores.postgres import audit, top_ups
from app.stores.postgres import top_up_schedules as store
from app.stores.postgres.top_up_schedules import NewSchedule, TopUpSchedule
from app.stores.postgres.top_ups import NewBatch, Plan

log = structlog.get_logger(__name__)

DATES_TOLD = 6
_ACTIONS = {
    ScheduleState.ACTIVE: "top_up_schedule.resumed",
    ScheduleState.PAUSED: "top_up_schedule.paused",
    ScheduleState.ENDED: "top_up_schedule.ended",
}
NOTHING = Plan(0, 0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """When a schedule falls due next, and what it would do now. One that has ended does nothing."""

    dates: Sequence[date] = ()
    planned: Plan = NOTHING


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """`replayed`: it was asked for before."""

    schedule: TopUpSchedule
    outlook: Outlook
    replayed: bool = False


class TopUpScheduleService:
    def __init__(self, *, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def create(self, new: NewSchedule) -> ScheduleView:
        """Raises Invalid, NotFound (the package), WalletNotFound, IdempotencyConflict or Unavailable."""

        def work(connection: sa.Connection) -> ScheduleView:
            known = store.find_by_reference(connection, new.reference)
            if known is None:
                check_target(connection, new.target)
                made = store.insert(connection, new, *_starts(connection, new))
                if made is not None:
                    after = {"reference": made.reference, "reason": made.reason, **told(made)}
                    subject = ("top_up_schedule", made.id)
                    audit.write(connection, new.caller, "top_up_schedule.created", subject, after=after)
                    return _view(connection, made)
                known = store.find_by_reference(connection, new.reference)
            if known is None or not _is_repeated(known, new):
                raise IdempotencyConflict(ANOTHER_BODY)
            return _view(connection, known, replayed=True)

        return self._postgres.transaction(work)

    def dry_run(self, new: NewSchedule) -> Outlook:
        """What it would do. Nothing is kept. Raises what `create` raises."""

        def work(connection: sa.Connection) -> Outlook:
            check_target(connection, new.target)
            _, first = _starts(connection, new)
            dates = new.rhythm.upcoming(first, DATES_TOLD)
            return Outlook(dates, top_ups.plan(connection, new.target, new.amount, FREEZE_SECONDS_MAX))

        return self._postgres.transaction(work)

    def get(self, number: int) -> ScheduleView:
        """Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> ScheduleView:
            found = store.find(connection, number)
            if found is None:
                raise NotFound("Schedule not found")
            return _view(connection, found)

        return self._postgres.transaction(work)

    def list(self, limit: int, before_id: int = NEWEST) -> Page[TopUpSchedule, int]:
        """Newest first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_newest(connection, before_id, count), lambda schedule: schedule.id, limit
            )
        )

    def pause(self, number: int, *, reason: str, caller: Caller = SYSTEM) -> ScheduleView:
        """Have it fall due no more until it is resumed. Raises NotFound, ScheduleEnded or Unavailable."""
        return self._set_state(number, ScheduleState.PAUSED, reason, caller)

    def resume(self, number: int, *, reason: str, caller: Caller = SYSTEM) -> ScheduleView:
        """Have it fall due again; what fell due before today meanwhile is left out.

        Raises NotFound, ScheduleEnded or Unavailable.
        """
        return self._set_state(number, ScheduleState.ACTIVE, reason, caller)

    def end(self, number: int, *, reason: str, caller: Caller = SYSTEM) -> ScheduleView:
        """Have it never fall due again. What it has begun is finished. Raises NotFound or Unavailable."""
        return self._set_state(number, ScheduleState.ENDED, reason, caller)

    def _set_state(self, number: int, state: ScheduleState, reason: str, caller: Caller) -> ScheduleView:
        changed = self._postgres.transaction(lambda connection: _set_state(connection, number, state, reason, caller))
        log.info("schedule_changed", id=number, state=state, reason=reason, actor=caller.actor)
        return changed

    def work_off(self, seconds: float) -> None:
        """Make the top-ups of what has fallen due, for about so long. Raises Unavailable."""
        give_up_at = time.monotonic() + seconds
        for number in self._postgres.run(store.due):
            while time.monotonic() < give_up_at and self._fall_due(number):
                pass

    def _fall_due(self, number: int) -> bool:
        """Make the top-up of one period. False where none is due, or this schedule can't be worked on now."""
        try:
            made = self._postgres.transaction(lambda connection: _fall_due(connection, number))
        except (TooSlow, WalletBusy) as error:
            log.warning("schedule_postponed", id=number, error=type(error).__name__)
            return False
        if made is not None:
            log.info("schedule_fell_due", id=number, reference=made)
        return made is not None


def _fall_due(connection: sa.Connection, number: int) -> str | None:
    found = store.lock_due(connection, number)
    if found is None:
        return None
    schedule, fell_due_on, today = found
    due_on, next_on = schedule.rhythm.step(fell_due_on, today)
    reference = schedule_reference(number, schedule.rhythm.calendar.name(due_on))
    new = NewBatch(
        reference=reference,
        target=schedule.target,
        amount=schedule.amount,
        reason=schedule.reason,
        caller=caller_again(schedule.actor, schedule.request_id),
        schedule_id=number,
        due_on=due_on,
    )
    top_ups.insert(connection, new, TopUpState.APPLYING, FREEZE_SECONDS_MAX)
    state = ScheduleState.ENDED if next_on is None else ScheduleState.ACTIVE
    store.update(connection, number, next_on=next_on, state=state)
    return reference


def _set_state(
    connection: sa.Connection, number: int, state: ScheduleState, reason: str, caller: Caller
) -> ScheduleView:
    schedule = store.lock(connection, number)
    if schedule is None:
        raise NotFound("Schedule not found")
    if schedule.state is state:
        return _view(connection, schedule)
    if schedule.state is ScheduleState.ENDED or schedule.next_on is None:
        raise ScheduleEnded
    next_on: date | None = schedule.next_on
    if state is ScheduleState.ENDED:
        next_on = None
    elif state is ScheduleState.ACTIVE:
        next_on = schedule.rhythm.resumed(schedule.next_on, store.today(connection))
        state = ScheduleState.ENDED if next_on is None else state
    changed = store.update(connection, number, state=state, next_on=next_on)
    before = {"state": schedule.state, "next_on": schedule.next_on}
    after = {"state": changed.state, "next_on": changed.next_on, "reason": reason}
    subject = ("top_up_schedule", number)
    audit.write(connection, caller, _ACTIONS[changed.state], subject, before=before, after=after)
    return _view(connection, changed)


def _starts(connection: sa.Connection, new: NewSchedule) -> tuple[date, date]:
    """When it begins, and when it falls due first. Raises Invalid."""
    today = store.today(connection)
    starts_on = new.starts_on or today
    if starts_on < today:
        raise Invalid(errors={"starts_on": [f"Must not be in the past: today is {today}, in UTC."]})
    first = new.rhythm.first(starts_on)
    if first is None:
        due_on = new.rhythm.calendar.on_or_after(starts_on)
        raise Invalid(errors={"ends_on": [f"It would never fall due: first on {due_on}."]})
    return starts_on, first


def _view(connection: sa.Connection, schedule: TopUpSchedule, *, replayed: bool = False) -> ScheduleView:
    outlook = Outlook()
    if schedule.next_on is not None:
        planned = top_ups.plan(connection, schedule.target, schedule.amount, FREEZE_SECONDS_MAX)
        outlook = Outlook(schedule.rhythm.upcoming(schedule.next_on, DATES_TOLD), planned)
    return ScheduleView(schedule, outlook, replayed)


def _is_repeated(known: TopUpSchedule, new: NewSchedule) -> bool:
    return (known.target, known.amount, known.rhythm, known.reason) == (
        new.target,
        new.amount,
        new.rhythm,
        new.reason,
    ) and new.starts_on in (None, known.starts_on)
