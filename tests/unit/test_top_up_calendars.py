"""When schedules fall due: calendars, catching up, pausing."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Invalid
from app.domain.top_ups import (
    Calendar,
    CatchUp,
    Period,
    Rhythm,
    TopUpAmount,
    TopUpMode,
    due_day,
    schedule_reference,
)

MONTH_END = Calendar(Period.MONTHLY, 31)
CALENDARS = st.one_of(
    st.just(Calendar(Period.DAILY)),
    st.builds(Calendar, st.just(Period.WEEKLY), st.integers(1, 7)),
    st.builds(Calendar, st.just(Period.MONTHLY), st.integers(1, 31)),
)
DAYS = st.dates(date(2020, 1, 1), date(2100, 1, 1))


def test_a_day_that_a_month_lacks_is_its_last() -> None:
    dates = Rhythm(MONTH_END).upcoming(date(2027, 11, 30), 6)
    assert [f"{each:%m-%d}" for each in dates] == ["11-30", "12-31", "01-31", "02-29", "03-31", "04-30"]
    assert MONTH_END.on_or_after(date(2027, 2, 28)) == date(2027, 2, 28)
    assert Calendar(Period.MONTHLY, 30).on_or_after(date(2027, 2, 1)) == date(2027, 2, 28)


@pytest.mark.parametrize(
    ("calendar", "start", "first"),
    [
        (Calendar(Period.DAILY), date(2026, 11, 26), date(2026, 11, 26)),
        (Calendar(Period.WEEKLY, 4), date(2026, 11, 26), date(2026, 11, 26)),
        (Calendar(Period.WEEKLY, 3), date(2026, 11, 26), date(2026, 12, 2)),
        (Calendar(Period.MONTHLY, 26), date(2026, 11, 26), date(2026, 11, 26)),
        (Calendar(Period.MONTHLY, 25), date(2026, 11, 26), date(2026, 12, 25)),
        (Calendar(Period.MONTHLY, 1), date(2026, 12, 2), date(2027, 1, 1)),
    ],
)
def test_the_first_day(calendar: Calendar, start: date, first: date) -> None:
    assert calendar.on_or_after(start) == first


def test_names_of_periods() -> None:
    assert Calendar(Period.DAILY).name(date(2026, 1, 2)) == "2026-01-02"
    # ISO's year of a week isn't always the day's.
    assert Calendar(Period.WEEKLY, 5).name(date(2027, 1, 1)) == "2026-W53"
    assert MONTH_END.name(date(2026, 2, 28)) == "2026-02"
    assert schedule_reference(7, "2026-11") == "schedule-7:2026-11"


@given(CALENDARS, DAYS)
def test_each_period_has_one_day_and_one_name(calendar: Calendar, start: date) -> None:
    dates = Rhythm(calendar).upcoming(calendar.on_or_after(start), 40)
    assert dates[0] >= start
    assert dates == sorted(set(dates))
    assert len({calendar.name(each) for each in dates}) == len(dates)
    longest = {Period.DAILY: 1, Period.WEEKLY: 7, Period.MONTHLY: 31}[calendar.period]
    assert all((after - before).days <= longest for before, after in pairwise(dates))


@given(CALENDARS, DAYS, st.integers(0, 400))
def test_catching_up(calendar: Calendar, start: date, days_late: int) -> None:
    first = calendar.on_or_after(start)
    today = first + timedelta(days=days_late)
    missed = [each for each in Rhythm(calendar).upcoming(first, 500) if each <= today]

    done, next_on = [], first
    while next_on is not None and next_on <= today:
        due, next_on = Rhythm(calendar).step(next_on, today)
        done.append(due)
    assert done == missed
    assert next_on == calendar.after(missed[-1])

    assert Rhythm(calendar, catch_up=CatchUp.LATEST).step(first, today) == (missed[-1], calendar.after(missed[-1]))


@pytest.mark.parametrize("catch_up", CatchUp)
def test_nothing_falls_due_after_the_last_day(catch_up: CatchUp) -> None:
    rhythm = Rhythm(Calendar(Period.MONTHLY, 15), ends_on=date(2026, 3, 14), catch_up=catch_up)
    assert rhythm.upcoming(date(2026, 1, 15), 9) == [date(2026, 1, 15), date(2026, 2, 15)]
    assert rhythm.step(date(2026, 2, 15), date(2026, 6, 1)) == (date(2026, 2, 15), None)
    assert rhythm.first(date(2026, 3, 14)) is None


def test_what_fell_due_in_a_pause_is_left_out() -> None:
    rhythm = Rhythm(Calendar(Period.MONTHLY, 26))
    due = date(2026, 11, 26)
    # Resumed on the day itself it is still to be done; done before the pause it isn't done again.
    assert rhythm.resumed(due, date(2026, 11, 26)) == due
    assert rhythm.resumed(due, date(2026, 11, 27)) == date(2026, 12, 26)
    assert rhythm.resumed(date(2026, 12, 26), date(2026, 11, 26)) == date(2026, 12, 26)


@pytest.mark.parametrize(
    ("period", "day"),
    [
        (Period.DAILY, 1),
        (Period.WEEKLY, None),
        (Period.WEEKLY, 0),
        (Period.WEEKLY, 8),
        (Period.MONTHLY, None),
        (Period.MONTHLY, 32),
    ],
)
def test_days_that_there_are_not(period: Period, day: int | None) -> None:
    with pytest.raises(Invalid):
        Calendar(period, day)


def test_dates_from_outside() -> None:
    assert due_day("2026-11-26") == date(2026, 11, 26)
    for text in ("2200-01-01", "2026-11-31", "26.11.2026", 5, None):
        with pytest.raises(ValueError, match="Must be"):
            due_day(text)


@given(st.integers(1, 10**15), st.integers(-(10**15), 4 * 10**15))
def test_what_a_wallet_gets(micros: int, posted_micros: int) -> None:
    assert TopUpAmount(TopUpMode.ADD, micros).due_micros(posted_micros) == micros
    filled = TopUpAmount(TopUpMode.FILL, micros).due_micros(posted_micros)
    assert filled >= 0
    assert posted_micros + filled == max(micros, posted_micros)
