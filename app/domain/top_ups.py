"""Top-ups of many wallets: what each wallet gets, when schedules fall due, and the outcome for each wallet.

Days are UTC. Postgres says which day it is; nothing here reads a clock.
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

# Later dates are typing errors, and the calendar ends in 9999.
YEAR_MAX = 2199
DAY_MAX = {"weekly": 7, "monthly": 31}


class TopUpMode(StrEnum):
    ADD = "add"
    """Each wallet gets this amount."""
    FILL = "fill"
    """Each wallet gets what its posted balance lacks to this amount."""


class TopUpState(StrEnum):
    READY = "ready"
    """A dry run: the wallets are frozen, and nothing is posted until it is applied."""
    APPLYING = "applying"
    DONE = "done"


class TopUpOutcome(StrEnum):
    """The outcome for one wallet of a top-up; otherwise the code of the error that prevented it."""

    TOPPED_UP = "topped_up"
    FULL = "full"
    """Its balance had already reached the amount to fill up to."""
    POSTED_BEFORE = "posted_before"
    """The same top-up was already in its ledger, under this reference."""
    LEFT = "left"
    """Its package or status has changed, so it is no longer meant."""


class Period(StrEnum):
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class CatchUp(StrEnum):
    """What happens to periods that were missed while no worker handled schedules."""

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
        """What a wallet with this posted balance gets. Debt doesn't count here: it is collected from the tokens
        afterwards.
        """
        return self.micros if self.mode is TopUpMode.ADD else max(self.micros - posted_micros, 0)


@dataclass(frozen=True, slots=True)
class Target:
    """Whose wallets are meant: one user's, or all of a package. With `status` None, wallets of any status."""

    package_id: str | None = None
    user_id: str | None = None
    status: str | None = None

    @property
    def wallet_id(self) -> WalletId | None:
        """The wallet that is meant, where it is a single one."""
        return None if self.user_id is None else wallet_of(self.user_id)

    def includes(self, wallet: Wallet) -> bool:
        """Whether a wallet that was selected still matches."""
        has_package = self.package_id is None or wallet.package_id == self.package_id
        return has_package and self.status in (None, wallet.status)


@dataclass(frozen=True, slots=True)
class Calendar:
    """On which days something falls due. `day` is 1 (Monday) to 7 for weekly, 1 to 31 for monthly, None for daily.

    In a month without that day it falls due on the month's last day.
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
        """The first due day from `start` on."""
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
        """The name of the period of this day: a schedule falls due once in each period."""
        if self.period is Period.DAILY:
            return due.isoformat()
        if self.period is Period.WEEKLY:
            year, week, _ = due.isocalendar()
            return f"{year}-W{week:02}"
        return f"{due:%Y-%m}"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a schedule falls due: its calendar, its last day, and how it catches up."""

    calendar: Calendar
    ends_on: date | None = None
    catch_up: CatchUp = CatchUp.EACH

    def bounded(self, due: date) -> date | None:
        return None if self.ends_on is not None and due > self.ends_on else due

    def dates(self, next_on: date | None) -> Iterator[date]:
        """All due days from `next_on` on, which is one itself."""
        while next_on is not None and next_on.year <= YEAR_MAX:
            yield next_on
            next_on = self.bounded(self.calendar.after(next_on))

    def first(self, starts_on: date) -> date | None:
        return self.bounded(self.calendar.on_or_after(starts_on))

    def step(self, next_on: date, today: date) -> tuple[date, date | None]:
        """The due day to be handled now, and the next one after it (None: never again), for a schedule that is due."""
        due = next_on
        if self.catch_up is CatchUp.LATEST:
            for each in self.dates(next_on):
                if each > today:
                    break
                due = each
        return due, self.bounded(self.calendar.after(due))

    def resumed(self, next_on: date, today: date) -> date | None:
        """The next due day after a pause: days before today are left out."""
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
    """The reference under which a wallet gets a schedule's top-up for a period."""
    return f"schedule-{number}:{period_name}"


def _clamped(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, calendar.monthrange(year, month)[1]))
