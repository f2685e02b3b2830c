"""Failed ends as operators ask for them: filters, groups, and the reason why one of them waits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain import inputs
from app.domain.amounts import MICROS_PER_TOKEN, token_number
from app.domain.ends import EndState
from app.domain.reasons import FailureReason

_DURATION = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Group(StrEnum):
    """By what failed ends and debts can be grouped."""

    USER = "user_id"
    FEATURE = "feature_endpoint_id"
    MODEL = "model"
    ERROR = "last_error"
    AGE = "age"
    STATE = "state"
    KIND = "kind"
    PACKAGE = "package_id"


class AgeBand(StrEnum):
    """How long ends have waited, in bands: each begins where the one before it ends."""

    UNDER_1H = "under_1h"
    UNDER_1D = "1h_to_1d"
    UNDER_7D = "1d_to_7d"
    UNDER_30D = "7d_to_30d"
    OVER_30D = "over_30d"


# Upper bound of each band; the last one has none.
AGE_SECONDS_MAX: Mapping[AgeBand, int] = {
    AgeBand.UNDER_1H: 3_600,
    AgeBand.UNDER_1D: 86_400,
    AgeBand.UNDER_7D: 7 * 86_400,
    AgeBand.UNDER_30D: 30 * 86_400,
}


def age_bounds(band: AgeBand) -> tuple[int | None, int | None]:
    """The lower and upper bound of a band's ages, in seconds; None where it has no such bound."""
    bands = list(AgeBand)
    before = bands.index(band) - 1
    return (AGE_SECONDS_MAX[bands[before]] if before >= 0 else None), AGE_SECONDS_MAX.get(band)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which failed ends; a field that is None doesn't filter. Times are of acceptance; the package is the wallet's.

    `older_than_seconds` and `younger_than_seconds` count back from the moment of the query.
    """

    state: str | None = None
    user_id: str | None = None
    last_error: str | None = None
    feature_endpoint_id: str | None = None
    model: str | None = None
    package_id: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    age: AgeBand | None = None
    older_than_seconds: int | None = None
    younger_than_seconds: int | None = None
    cost_min_micros: int | None = None
    cost_max_micros: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """An end's place among the debts of its wallet, which are paid oldest first, each in full.

    `room_micros` is what the wallet can pay debts with now: its balance down to the overdraft limit, less the cost of
    accepted ends that aren't settled yet. It is negative where these cost more than there is.
    """

    ahead_ends: int
    ahead_micros: int
    room_micros: int

    def missing_micros(self, cost_micros: int) -> int:
        """The top-up that would pay an end of this cost and all debts before it."""
        return max(0, self.ahead_micros + cost_micros - self.room_micros)


# Failures that somebody has to repair first, because a further try would fail again, and how.
_TO_DO: Mapping[str, str] = {
    FailureReason.WALLET_MISSING: "Its user has no wallet. Create one, then replay it.",
    FailureReason.WALLET_BUSY: "Somebody keeps the row of its wallet locked. End that session, then replay it.",
    FailureReason.DEBT_OUT_OF_RANGE: (
        "Its wallet owes more than a sum of debts can hold. Settle or write off older debt, then replay it."
    ),
    FailureReason.QUOTE_DISAGREES: (
        "The parts of its price don't add up to its cost: somebody has changed the row. Repair it and replay, or write "
        "it off."
    ),
    FailureReason.IDEMPOTENCY_KEY_REUSED: (
        "Its key had come with another body while Postgres was away. Ask the service which run is real: a replay bills "
        "this one too, a write-off gives it up."
    ),
    FailureReason.TOO_SLOW: (
        "Settling it ran into its time limit at every try. Look into the database, then replay it."
    ),
    FailureReason.DATABASE_REFUSED: (
        "The database refuses to settle it; the worker's log says why. Repair that, then replay it."
    ),
    FailureReason.MONEY_DOES_NOT_ADD_UP: (
        "Settling it would have touched other rows than its own. Look into the database before you replay it."
    ),
}


def why_it_waits(
    state: EndState, last_error: str | None, cost_micros: int, attempts: int, line: Line, *, is_replayed: bool = False
) -> str:
    """The reason in one or two plain sentences. `is_replayed`: it was replayed, and no worker has tried it since."""
    if state is EndState.ACCEPTED:
        return f"It {'was replayed and ' if is_replayed else ''}waits for a worker to settle it, which takes a moment."
    if last_error != FailureReason.INSUFFICIENT_TOKENS:
        return _TO_DO.get(last_error or "", f"It failed for a reason of another version: {last_error}.")
    missing_micros = line.missing_micros(cost_micros)
    if missing_micros == 0:
        return f"Its wallet can pay it by now: {_tried_next(state)}"
    cost, room = _tokens(cost_micros), _tokens(max(line.room_micros, 0))
    match line.ahead_ends:
        case 0:
            lacks = f"It costs {cost}, and its wallet has {room} for it"
        case 1:
            ahead = _tokens(line.ahead_micros)
            lacks = f"An older debt of {ahead} is paid before this one of {cost}, and the wallet has {room} for both"
        case ends:
            ahead = _tokens(line.ahead_micros)
            lacks = (
                f"{ends} older debts of {ahead} together are paid before this one of {cost}, and the wallet has {room} "
                "for them"
            )
    given_up = f" Nobody tries it by the clock any more, after {_tries(attempts)}." if state is EndState.DEAD else ""
    return f"{lacks}: a top-up of {_tokens(missing_micros)} pays it.{given_up}"


def duration_seconds(text: str) -> int:
    """Seconds of a duration as it is written: 90s, 15m, 24h, 7d. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("Must be a duration, such as 90s, 15m, 24h or 7d.")
    return int(found[1]) * _UNIT_SECONDS[found[2]]


def duration_text(seconds: int) -> str:
    """A number of seconds as a duration, in the largest unit that divides it."""
    unit = max((unit for unit, each in _UNIT_SECONDS.items() if seconds % each == 0), key=_UNIT_SECONDS.__getitem__)
    return f"{seconds // _UNIT_SECONDS[unit]}{unit}"


def groups(text: str) -> tuple[Group, ...]:
    """The groups named in a comma-separated list, each at most once. Raises ValueError."""
    return inputs.some_of(Group, text)


def _tried_next(state: EndState) -> str:
    if state is EndState.DEAD:
        return "it is collected with the wallet's next top-up, or replay it."
    return "it is collected at the next try."


def _tokens(micros: int) -> str:
    return f"{token_number(micros)} {'token' if micros == MICROS_PER_TOKEN else 'tokens'}"


def _tries(attempts: int) -> str:
    return "one try" if attempts == 1 else f"{attempts} tries"
