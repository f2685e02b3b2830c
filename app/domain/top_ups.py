"""Top-ups of many wallets: what each gets, when schedules fall due, and what became of a wallet.

Days are UTC. Which day it is Postgres says; nothing here reads a clock.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from itertools import islice

from app.domain import reports
from app.domain.errors import Invalid
from app.domain.wallets import Wallet, WalletId, wallet_of

# Dates beyond it are slips, and the calendar ends in 9999.
YEAR_MAX = 2199
DAY_MAX = {"weekly": 7, "monthly": 31}


class TopUpMode(StrEnum):
    ADD = "add"
    """Each wallet gets so much."""
    FILL = "fill"
    """Each wallet gets what its posted balance lacks to so much."""


class TopUpState(StrEnum):
    READY = "ready"
    """A dry run: wallets are frozen, nothing is posted unless it is applied."""
    APPLYING = "applying"
    DONE = "done"


class TopUpOutcome(StrEnum):
    """What became of a wallet of it; else the code of the error that kept it from being topped up."""

    TOPPED_UP = "topped_up"
    FULL = "full"
    """It had as much as it was to be filled up to."""
    POSTED_BEFORE = "posted_before"
    """The same top-up stood in its ledger already, under this reference."""
    LEFT = "left"
    """It has another package or status by now."""


class Period(StrEnum):
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class CatchUp(StrEnum):
    """What becomes of periods that were missed while nobody worked schedules off."""

    EACH = "each"
    LATEST = "latest"


class ScheduleState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class TopUpAmount:
    mode: TopUpMode
    micros: int

    def due_micros(self, posted_micros: int) -> int:
        """What a wallet with this posted balance gets. Debt is no part of it: it is collected out of what was given."""
        return self.micros if self.mode is TopUpMode.ADD else max(self.micros - posted_micros, 0)


@dataclass(frozen=True, slots=True)
class Target:
    """Whose wallets are meant: one user's, or all of a package. `status` None: whatever theirs is."""

    package_id: str | None = None
    user_id: str | None = None
    status: str | None = None

    @property
    def wallet_id(self) -> WalletId | None:
        """The one wallet that is meant."""
        return None if self.user_id is None else wallet_of(self.user_id)

    def includes(self, wallet: Wallet) -> bool:
        """Whether a wallet that was meant once still is."""
        has_package = self.package_id is None or wallet.package_id == self.package_id
        return has_package and self.status in (None, wallet.status)


@dataclass(frozen=True, slots=True)
class Calendar:
    """On which days something falls due. `day` is 1 (Monday) to 7 of a week, 1 to 31 of a month, and none of a day.

    A month that is shorter has it on its last day.
    """

    period: Period
    day: int | None = None

    def __post_init__(self) -> None:
        most = DAY_MAX.get(self.period)
        if most is None and self.day is not None:
            raise Invalid(errors={"day": ["A daily schedule has no day."]})
        if most is not None and (self.day is None or not 1 <= self.day <= most):
            raise Invalid(errors={"day": [f"Must be from 1 to {most}."]})

    def on_or_after(self, start: date) -> date:
        """The first such day from this one on."""
        if self.day is None:
            return start
        if self.period is Period.WEEKLY:
            return start + timedelta(days=(self.day - start.isoweekday()) % 7)
        this_month = _clamped(start.year, start.month, self.day)
        if this_month >= start:
            return this_month
        return _clamped(start.year + start.month // 12, start.month % 12 + 1, self.day)

    def after(self, due: date) -> date:
        return self.on_or_after(due + timedelta(days=1))

    def name(self, due: date) -> str:
        """What the period of this day is called: once in it something falls due."""
        if self.period is Period.DAILY:
            return due.isoformat()
        if self.period is Period.WEEKLY:
            year, week, _ = due.isocalendar()
            return f"{year}-W{week:02}"
        return f"{due:%Y-%m}"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a schedule falls due: by its calendar, to its last day, and how it catches up."""

    calendar: Calendar
    ends_on: date | None = None
    catch_up: CatchUp = CatchUp.EACH

    def bounded(self, due: date) -> date | None:
        return None if self.ends_on is not None and due > self.ends_on else due

    def dates(self, next_on: date | None) -> Iterator[date]:
        """The days from this one on, which is one of them."""
        while next_on is not None and next_on.year <= YEAR_MAX:
            yield next_on
            next_on = self.bounded(self.calendar.after(next_on))

    def first(self, starts_on: date) -> date | None:
        return self.bounded(self.calendar.on_or_after(starts_on))

    def step(self, next_on: date, today: date) -> tuple[date, date | None]:
        """What is to be done for a schedule that is due, and when it falls due after that, None: never again."""
        due = next_on
        if self.catch_up is CatchUp.LATEST:
            for each in self.dates(next_on):
                if each > today:
                    break
                due = each
        return due, self.bounded(self.calendar.after(due))

    def resumed(self, next_on: date, today: date) -> date | None:
        """When it falls due next after a pause: what fell due before today is left out."""
        return self.bounded(max(next_on, self.calendar.on_or_after(today)))

    def upcoming(self, next_on: date | None, count: int) -> list[date]:
        return list(islice(self.dates(next_on), count))


def due_day(value: object) -> date:
    """A day on which something may fall due, as it is written. Raises ValueError."""
    found = reports.day(str(value))
    if found.year > YEAR_MAX:
        raise ValueError(f"Must be before the year {YEAR_MAX + 1}.")
    return found


def schedule_reference(number: int, period_name: str) -> str:
    """Under which a wallet gets what a schedule gives it for a period."""
    return f"schedule-{number}:{period_name}"


def _clamped(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, calendar.monthrange(year, month)[1]))
