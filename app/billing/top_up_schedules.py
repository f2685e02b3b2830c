"""Scheduled top-ups: each period that falls due becomes a top-up of many wallets, once.

One transaction locks the schedule's row, makes the top-up and sets the next due day. A period has one top-up, and a
wallet has one posting under that top-up's reference, so beat may start this twice, late, or not at all for a while.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import structlog

from app.access.ports import BookKeeping
from app.billing.postings import ANOTHER_BODY
from app.billing.top_ups import Targets, check_target, told
from app.domain.audit import Change
from app.domain.errors import IdempotencyConflict, Invalid, NotFound, ScheduleEnded, TooSlow, WalletBusy
from app.domain.keys import SYSTEM, Caller, caller_again
from app.domain.pages import NEWEST, Page, page
from app.domain.top_ups import ScheduleState, Target, TopUpAmount, TopUpState, schedule_reference
from app.stores.postgres.top_up_schedules import NewSchedule, TopUpSchedule
from app.stores.postgres.top_ups import NewBatch, Plan, TopUpBatch

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
    """The next due days of a schedule, and what it would do now. Empty for a schedule that has ended."""

    dates: Sequence[date] = ()
    planned: Plan = NOTHING


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """`replayed`: the schedule was created by an earlier call."""

    schedule: TopUpSchedule
    outlook: Outlook
    replayed: bool = False


class Books(Targets, Protocol):
    """Schedules, and the top-ups that they make, in one transaction."""

    def today(self) -> date: ...

    def add_schedule(self, new: NewSchedule, starts_on: date, next_on: date) -> TopUpSchedule | None: ...

    def find_schedule(self, number: int) -> TopUpSchedule | None: ...

    def find_schedule_by_reference(self, reference: str) -> TopUpSchedule | None: ...

    def lock_schedule(self, number: int) -> TopUpSchedule | None: ...

    def list_schedules(self, before_id: int, limit: int) -> Sequence[TopUpSchedule]: ...

    def due_schedules(self) -> Sequence[int]: ...

    def lock_due_schedule(self, number: int) -> tuple[TopUpSchedule, date, date] | None:
        """The schedule, the day since which it is due, and today. None if it isn't due any more, or if another
        transaction has locked it.
        """

    def update_schedule(self, number: int, **changes: Any) -> TopUpSchedule: ...

    def plan(self, target: Target, amount: TopUpAmount) -> Plan: ...

    def freeze(self, new: NewBatch, state: TopUpState) -> TopUpBatch | None: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class TopUpScheduleService:
    def __init__(self, *, books: BookKeeping[Books]) -> None:
        self._books = books

    def create(self, new: NewSchedule) -> ScheduleView:
        """Raises Invalid, NotFound (the package), WalletNotFound, IdempotencyConflict or Unavailable."""

        def work(books: Books) -> ScheduleView:
            known = books.find_schedule_by_reference(new.reference)
            if known is None:
                check_target(books, new.target)
                made = books.add_schedule(new, *_starts(books, new))
                if made is not None:
                    after = {"reference": made.reference, "reason": made.reason, **told(made)}
                    created = Change("top_up_schedule.created", "top_up_schedule", str(made.id), after=after)
                    books.audit(new.caller, [created])
                    return _view(books, made)
                known = books.find_schedule_by_reference(new.reference)
            if known is None or not _is_repeated(known, new):
                raise IdempotencyConflict(ANOTHER_BODY)
            return _view(books, known, replayed=True)

        return self._books.transaction(work)

    def dry_run(self, new: NewSchedule) -> Outlook:
        """What a new schedule would do. Stores nothing. Raises what `create` raises."""

        def work(books: Books) -> Outlook:
            check_target(books, new.target)
            _, first = _starts(books, new)
            dates = new.rhythm.upcoming(first, DATES_TOLD)
            return Outlook(dates, books.plan(new.target, new.amount))

        return self._books.transaction(work)

    def get(self, number: int) -> ScheduleView:
        """Raises NotFound or Unavailable."""

        def work(books: Books) -> ScheduleView:
            found = books.find_schedule(number)
            if found is None:
                raise NotFound("Schedule not found")
            return _view(books, found)

        return self._books.transaction(work)

    def list(self, limit: int, before_id: int = NEWEST) -> Page[TopUpSchedule, int]:
        """Newest first. Raises Unavailable."""
        return self._books.read(
            lambda books: page(
                lambda count: books.list_schedules(before_id, count), lambda schedule: schedule.id, limit
            )
        )

    def pause(self, number: int, *, reason: str, caller: Caller = SYSTEM) -> ScheduleView:
        """Stop a schedule from falling due until it is resumed. Raises NotFound, ScheduleEnded or Unavailable."""
        return self._set_state(number, ScheduleState.PAUSED, reason, caller)

    def resume(self, number: int, *, reason: str, caller: Caller = SYSTEM) -> ScheduleView:
        """Let a paused schedule fall due again. Periods that fell due before today while it was paused are skipped.

        Raises NotFound, ScheduleEnded or Unavailable.
        """
        return self._set_state(number, ScheduleState.ACTIVE, reason, caller)

    def end(self, number: int, *, reason: str, caller: Caller = SYSTEM) -> ScheduleView:
        """End a schedule for good. Top-ups that it has made are still finished. Raises NotFound or Unavailable."""
        return self._set_state(number, ScheduleState.ENDED, reason, caller)

    def _set_state(self, number: int, state: ScheduleState, reason: str, caller: Caller) -> ScheduleView:
        changed = self._books.transaction(lambda books: _set_state(books, number, state, reason, caller))
        log.info("schedule_changed", id=number, state=state, reason=reason, actor=caller.actor)
        return changed

    def work_off(self, seconds: float) -> None:
        """Make the top-ups of schedules that are due, for about `seconds`. Raises Unavailable."""
        give_up_at = time.monotonic() + seconds
        for number in self._books.read(lambda books: books.due_schedules()):
            while time.monotonic() < give_up_at and self._fall_due(number):
                pass

    def _fall_due(self, number: int) -> bool:
        """Make the top-up of one period. False if none is due, or if the schedule is locked or too slow now."""
        try:
            made = self._books.transaction(lambda books: _fall_due(books, number))
        except (TooSlow, WalletBusy) as error:
            log.warning("schedule_postponed", id=number, error=type(error).__name__)
            return False
        if made is not None:
            log.info("schedule_fell_due", id=number, reference=made)
        return made is not None


def _fall_due(books: Books, number: int) -> str | None:
    found = books.lock_due_schedule(number)
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
    books.freeze(new, TopUpState.APPLYING)
    state = ScheduleState.ENDED if next_on is None else ScheduleState.ACTIVE
    books.update_schedule(number, next_on=next_on, state=state)
    return reference


def _set_state(books: Books, number: int, state: ScheduleState, reason: str, caller: Caller) -> ScheduleView:
    schedule = books.lock_schedule(number)
    if schedule is None:
        raise NotFound("Schedule not found")
    if schedule.state is state:
        return _view(books, schedule)
    if schedule.state is ScheduleState.ENDED or schedule.next_on is None:
        raise ScheduleEnded
    next_on: date | None = schedule.next_on
    if state is ScheduleState.ENDED:
        next_on = None
    elif state is ScheduleState.ACTIVE:
        next_on = schedule.rhythm.resumed(schedule.next_on, books.today())
        state = ScheduleState.ENDED if next_on is None else state
    changed = books.update_schedule(number, state=state, next_on=next_on)
    before = {"state": schedule.state, "next_on": schedule.next_on}
    after = {"state": changed.state, "next_on": changed.next_on, "reason": reason}
    books.audit(caller, [Change(_ACTIONS[changed.state], "top_up_schedule", str(number), before, after)])
    return _view(books, changed)


def _starts(books: Books, new: NewSchedule) -> tuple[date, date]:
    """The day on which a schedule begins, and its first due day. Raises Invalid."""
    today = books.today()
    starts_on = new.starts_on or today
    if starts_on < today:
        raise Invalid(errors={"starts_on": [f"Must not be in the past: today is {today}, in UTC."]})
    first = new.rhythm.first(starts_on)
    if first is None:
        due_on = new.rhythm.calendar.on_or_after(starts_on)
        raise Invalid(errors={"ends_on": [f"It would never fall due: first on {due_on}."]})
    return starts_on, first


def _view(books: Books, schedule: TopUpSchedule, *, replayed: bool = False) -> ScheduleView:
    outlook = Outlook()
    if schedule.next_on is not None:
        planned = books.plan(schedule.target, schedule.amount)
        outlook = Outlook(schedule.rhythm.upcoming(schedule.next_on, DATES_TOLD), planned)
    return ScheduleView(schedule, outlook, replayed)


def _is_repeated(known: TopUpSchedule, new: NewSchedule) -> bool:
    return (known.target, known.amount, known.rhythm, known.reason) == (
        new.target,
        new.amount,
        new.rhythm,
        new.reason,
    ) and new.starts_on in (None, known.starts_on)
