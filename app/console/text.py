"""Formats amounts, counts, moments and durations for the console. Amounts are micro-tokens, and never become floats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from app.domain.amounts import MICROS_PER_TOKEN, token_number
from app.domain.moments import moment_text
from app.domain.pricing import percentage_number

# How many of an amount's six decimals are shown.
DECIMALS_SHOWN = 2

# A duration of at least this many days is written without hours.
DAYS_ALONE = 100
SHORT_ID_LENGTH = 16
_BAND = re.compile(r"(\d+)([hd])\b")
_SPANS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class Money:
    """An amount with separators. `shown` followed by `rest` is the exact amount; `rest` is only for copying."""

    shown: str
    rest: str
    exact: str
    is_negative: bool


def money(micros: int) -> Money:
    whole, fraction = divmod(abs(micros), MICROS_PER_TOKEN)
    sign = "-" if micros < 0 else ""
    digits = f"{fraction:06}".rstrip("0")
    shown, rest = digits[:DECIMALS_SHOWN], digits[DECIMALS_SHOWN:]
    if shown:
        shown = shown.ljust(DECIMALS_SHOWN, "0") if not rest else shown
    head = f"{sign}{whole:,}" + (f".{shown}" if shown else "")
    return Money(head, rest, f"{sign}{whole:,}" + (f".{digits}" if digits else ""), micros < 0)


def amount(micros: int) -> str:
    """An exact amount with separators, for plain text."""
    return money(micros).exact


def rounded(micros: int) -> str:
    """An amount rounded down, for axes and legends. The exact amount has to be shown elsewhere."""
    return money(micros).shown


def tokens(micros: int) -> str:
    """An exact amount without separators, as in forms and in the API: 1250.5."""
    return str(token_number(micros))


def count(number: int) -> str:
    return f"{number:,}"


def percent(basis_points: int) -> str:
    return f"{percentage_number(basis_points)} %"


def moment(at: datetime) -> str:
    """A moment in UTC, to the second. The text doesn't say that it is UTC: the page has to."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def exact_moment(at: datetime) -> str:
    return moment_text(at)


def minute(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%H:%M")


def day_and_minute(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%m-%d %H:%M")


def span(seconds: float | timedelta) -> str:
    """A duration in its two largest units: 3 d 4 h, 2 min, 0 s. Long ones are in days only."""
    left = int(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)
    if (days := left // 86_400) >= DAYS_ALONE:
        return f"{days:,} d"
    parts: list[str] = []
    for name, length in _SPANS:
        if left >= length or (name == "s" and not parts):
            number, left = divmod(left, length)
            parts.append(f"{number} {name}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def ago(at: datetime, now: datetime) -> str:
    """How long before or after now."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def words(value: Any) -> str:
    """A word of the wire in readable form: of top_up, not_found, dead, 1h_to_1d."""
    return _BAND.sub(r"\1 \2", str(value).replace("_", " "))


def counted(number: int, one: str, many: str | None = None) -> str:
    """A count with its noun: 1 end, 1,250 ends."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def short_id(value: Any) -> str:
    """An id shortened to its beginning, which is its time, and its end, which is random: enough to tell ids apart."""
    whole = str(value)
    return whole if len(whole) <= SHORT_ID_LENGTH else f"{whole[:8]}\u2026{whole[-4:]}"


def day(value: date) -> str:
    return value.isoformat()
