from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.in_force import ProfitRules
from app.domain.pricing import (
    COST_MICROS_MAX,
    PROFIT_BASIS_POINTS_MAX,
    ProfitRule,
    percentage_number,
    price,
)
from app.domain.usage import USAGE_TOKENS_MAX, Usage

OUTPUT = st.integers(0, USAGE_TOKENS_MAX)
POINTS = st.integers(0, PROFIT_BASIS_POINTS_MAX)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def used(output_tokens: int) -> Usage:
    return Usage(11, output_tokens)


def of(basis_points: int) -> ProfitRule:
    return ProfitRule(7, basis_points, NOON)


@given(OUTPUT, POINTS)
def test_the_price_is_the_guides_formula_exactly(output_tokens: int, basis_points: int) -> None:
    percentage = Fraction(basis_points, 100)
    base = Fraction(output_tokens, 4)
    priced = price(used(output_tokens), None, of(basis_points))
    assert Fraction(priced.cost_micros, 10**6) == base + base * percentage / 100
    assert Fraction(priced.base_micros, 10**6) == base
    assert priced.cost_micros == output_tokens * (10_000 + basis_points) * 25


@given(OUTPUT, OUTPUT, POINTS, POINTS)
def test_more_usage_or_more_profit_never_costs_less(a: int, b: int, p: int, q: int) -> None:
    assert price(used(min(a, b)), None, of(p)).cost_micros <= price(used(max(a, b)), None, of(p)).cost_micros
    assert price(used(a), None, of(min(p, q))).cost_micros <= price(used(a), None, of(max(p, q))).cost_micros


@given(OUTPUT, OUTPUT, POINTS)
def test_a_run_split_in_two_costs_the_same(a: int, b: int, points: int) -> None:
    whole = price(used(a + b), None, of(points))
    assert (
        whole.cost_micros == price(used(a), None, of(points)).cost_micros + price(used(b), None, of(points)).cost_micros
    )


def test_a_price_says_which_rule_it_follows_from() -> None:
    assert price(used(40), None, of(1_000)).profit_rule_id == 7
    without = price(used(40), None, None)
    assert (without.cost_micros, without.profit_micros, without.profit_rule_id) == (10_000_000, 0, None)


def test_the_highest_price_is_within_exact_doubles() -> None:
    assert price(used(USAGE_TOKENS_MAX), None, of(PROFIT_BASIS_POINTS_MAX)).cost_micros <= COST_MICROS_MAX < 2**53


def rule(number: int, feature: str | None = None, model: str | None = None, hours: int = -1) -> ProfitRule:
    return ProfitRule(number, number * 100, NOON + timedelta(hours=hours), feature, model)


RULES = [rule(1), rule(2, model="m"), rule(3, feature="f"), rule(4, feature="f", model="m")]


@pytest.mark.parametrize(
    ("feature", "model", "expected"),
    [("f", "m", 4), ("f", "other", 3), ("f", None, 3), ("g", "m", 2), ("g", "other", 1), ("g", None, 1)],
)
def test_the_most_specific_rule_wins(feature: str, model: str | None, expected: int) -> None:
    found = ProfitRules(RULES).in_force(feature, model, NOON)
    assert found is not None
    assert found.id == expected


def test_the_latest_in_effect_wins_and_future_ones_wait() -> None:
    rules = [rule(1, hours=-3), rule(2, hours=-1), rule(3, hours=-2), rule(4, hours=1)]
    found = ProfitRules(rules).in_force("f", None, NOON)
    assert found is not None
    assert found.id == 2
    later = ProfitRules(rules).in_force("f", None, NOON + timedelta(hours=1))
    assert later is not None
    assert later.id == 4


def test_of_two_of_one_moment_the_last_made_wins() -> None:
    found = ProfitRules([rule(2), rule(1)]).in_force("f", None, NOON)
    assert found is not None
    assert found.id == 2


def test_no_rule_no_profit() -> None:
    assert ProfitRules([rule(1, feature="g")]).in_force("f", None, NOON) is None


@pytest.mark.parametrize(("points", "text"), [(1_000, "10"), (1_250, "12.5"), (25, "0.25"), (0, "0")])
def test_percentages_are_written_plainly(points: int, text: str) -> None:
    assert str(percentage_number(points)) == text
    assert percentage_number(points) == Decimal(text)
