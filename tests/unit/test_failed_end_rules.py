"""What operators are told of failed ends: why one waits, what would pay it, and how ages are counted."""

from __future__ import annotations

import pytest

from app.domain.ends import EndState
from app.domain.failed_ends import (
    AgeBand,
    Group,
    Line,
    age_bounds,
    duration_seconds,
    groups,
    why_it_waits,
)
from app.domain.reasons import FailureReason

TOKEN = 1_000_000
DEBT = FailureReason.INSUFFICIENT_TOKENS
NO_LINE = Line(0, 0, 0)


@pytest.mark.parametrize(
    ("state", "line", "told"),
    [
        (
            EndState.RETRYING,
            Line(0, 0, 3 * TOKEN),
            "It costs 33 tokens, and its wallet has 3 tokens for it: a top-up of 30 tokens pays it.",
        ),
        (
            EndState.RETRYING,
            Line(1, TOKEN, 3 * TOKEN),
            "An older debt of 1 token is paid before this one of 33 tokens, and the wallet has 3 tokens for both: "
            "a top-up of 31 tokens pays it.",
        ),
        (
            EndState.DEAD,
            Line(12, 150_500_000, -2 * TOKEN),
            "12 older debts of 150.5 tokens together are paid before this one of 33 tokens, and the wallet has "
            "0 tokens for them: a top-up of 185.5 tokens pays it. "
            "Nobody tries it by the clock any more, after 12 tries.",
        ),
        (EndState.RETRYING, Line(0, 0, 33 * TOKEN), "Its wallet can pay it by now: it is collected at the next try."),
        (
            EndState.DEAD,
            Line(0, 0, 33 * TOKEN),
            "Its wallet can pay it by now: it is collected with the wallet's next top-up, or replay it.",
        ),
    ],
)
def test_a_debt_says_what_would_pay_it(state: EndState, line: Line, told: str) -> None:
    assert why_it_waits(state, DEBT, 33 * TOKEN, 12, line) == told


def test_what_nobody_has_been_at() -> None:
    waits = "waits for a worker to settle it, which takes a moment."
    assert why_it_waits(EndState.ACCEPTED, None, TOKEN, 0, NO_LINE) == f"It {waits}"
    replayed = why_it_waits(EndState.ACCEPTED, None, TOKEN, 0, NO_LINE, is_replayed=True)
    assert replayed == f"It was replayed and {waits}"


NOT_OF_THE_INBOX = {FailureReason.NEWER_PAYLOAD, FailureReason.UNREADABLE, DEBT}


@pytest.mark.parametrize("reason", [reason for reason in FailureReason if reason not in NOT_OF_THE_INBOX])
def test_every_other_reason_says_what_to_do(reason: FailureReason) -> None:
    told = why_it_waits(EndState.DEAD, reason, TOKEN, 1, NO_LINE)
    assert "replay" in told
    assert reason.value not in told


def test_a_reason_of_a_later_version() -> None:
    assert "solar_flare" in why_it_waits(EndState.DEAD, "solar_flare", TOKEN, 1, NO_LINE)


def test_ages_follow_each_other_without_a_gap() -> None:
    bounds = [age_bounds(band) for band in AgeBand]
    assert bounds[0] == (None, 3_600)
    assert bounds[-1] == (30 * 86_400, None)
    assert [upper for _, upper in bounds[:-1]] == [lower for lower, _ in bounds[1:]]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "1w", "1.5h", "1h30m", "100000d", " 1d", "１d"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration_seconds(text)


def test_groups() -> None:
    assert groups("user_id,age") == (Group.USER, Group.AGE)
    for text in ("", "user", "user_id,", "user_id,user_id", "USER_ID"):
        with pytest.raises(ValueError, match="Must"):
            groups(text)
