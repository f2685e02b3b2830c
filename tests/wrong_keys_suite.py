"""The brake's rule, as Python has it and as Redis does: the same tests for both."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.domain.wrong_keys import (
    FORGET_SECONDS,
    WAIT_SECONDS_FIRST,
    WAIT_SECONDS_MAX,
    WINDOW_SECONDS,
    WRONG_MAX,
    Verdict,
)

Strike = Callable[[str], Verdict]
Pass = Callable[[float], None]


class RuleSuite:
    """Fixtures of whoever runs it: `strike` is one more wrong key of an address; `passes` lets seconds go by."""

    def test_so_many_are_free(self, strike: Strike) -> None:
        verdicts = [strike("a") for _ in range(WRONG_MAX)]
        assert [verdict.wrong for verdict in verdicts] == list(range(1, WRONG_MAX + 1))
        assert {(verdict.waits, verdict.wait_seconds, verdict.is_new) for verdict in verdicts} == {(0, 0, False)}

    def test_the_next_one_waits_and_so_do_those_behind_it(self, strike: Strike, passes: Pass) -> None:
        for _ in range(WRONG_MAX):
            strike("a")
        first = strike("a")
        assert (first.waits, first.is_new) == (1, True)
        assert first.wait_seconds == pytest.approx(WAIT_SECONDS_FIRST, abs=0.1)
        passes(WAIT_SECONDS_FIRST / 2)
        second = strike("a")
        assert (second.waits, second.is_new) == (1, False)
        assert second.wait_seconds == pytest.approx(WAIT_SECONDS_FIRST / 2, abs=0.1)
        assert strike("b").wait_seconds == 0

    def test_each_wait_is_twice_as_long_up_to_a_cap(self, strike: Strike, passes: Pass) -> None:
        for _ in range(WRONG_MAX):
            strike("a")
        waits = []
        for _ in range(15):
            verdict = strike("a")
            assert verdict.is_new
            waits.append(verdict.wait_seconds)
            passes(verdict.wait_seconds + 0.1)
        doubled = [min(WAIT_SECONDS_FIRST * 2**i, WAIT_SECONDS_MAX) for i in range(15)]
        assert waits == pytest.approx(doubled, abs=0.1)

    def test_a_window_that_is_over_counts_no_more(self, strike: Strike, passes: Pass) -> None:
        for _ in range(WRONG_MAX):
            strike("a")
        passes(WINDOW_SECONDS + 0.1)
        assert strike("a").wrong == 1

    def test_who_had_to_wait_is_forgotten_after_long(self, strike: Strike, passes: Pass) -> None:
        for _ in range(WRONG_MAX + 1):
            strike("a")
        passes(FORGET_SECONDS - 1)
        assert strike("a").waits == 2
        passes(FORGET_SECONDS + 0.1)
        assert strike("a").waits == 0
