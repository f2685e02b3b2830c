"""What rate cards make of usage: exact to the micro-token, more is never cheaper, and nothing is lost in parts."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.pricing import PROFIT_BASIS_POINTS_MAX, ProfitRule, price
from app.domain.rates import Kind, RateCard, Rates, Tier
from app.domain.usage import REQUESTS_MAX, USAGE_TOKENS_MAX, Usage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POINTS = st.integers(0, PROFIT_BASIS_POINTS_MAX)
RATE = st.integers(0, 10**13)
NAMED_RATE = st.none() | RATE
RATE_FIELDS = {
    "cached_input_micros_per_million": NAMED_RATE,
    "cache_write_micros_per_million": NAMED_RATE,
    "reasoning_micros_per_million": NAMED_RATE,
    "request_micros": NAMED_RATE,
}
FLAT = st.builds(Rates, input_micros_per_million=RATE, output_micros_per_million=RATE, **RATE_FIELDS)
TIERS = st.lists(
    st.builds(
        Tier,
        above_input_tokens=st.integers(1, USAGE_TOKENS_MAX),
        input_micros_per_million=NAMED_RATE,
        output_micros_per_million=NAMED_RATE,
        **RATE_FIELDS,
    ),
    max_size=3,
    unique_by=lambda tier: tier.above_input_tokens,
).map(lambda tiers: tuple(sorted(tiers, key=lambda tier: tier.above_input_tokens)))
RATES = st.builds(replace, FLAT, tiers=TIERS)


@st.composite
def usages(draw: st.DrawFn, tokens_max: int = USAGE_TOKENS_MAX) -> Usage:
    input_tokens, output_tokens = draw(st.integers(0, tokens_max)), draw(st.integers(0, tokens_max))
    cached = draw(st.integers(0, input_tokens))
    return Usage(
        input_tokens,
        output_tokens,
        cached,
        draw(st.integers(0, input_tokens - cached)),
        draw(st.integers(0, output_tokens)),
        draw(st.integers(1, REQUESTS_MAX // 2)),
    )


def card(rates: Rates) -> RateCard:
    return RateCard(3, rates, None, None, NOON)


def rule(basis_points: int) -> ProfitRule:
    return ProfitRule(7, basis_points, NOON)


def exact_base(rates: Rates, usage: Usage) -> Fraction:
    """Tokens, by the contract's words, in fractions."""
    named = asdict(rates)
    for tier in rates.tiers:
        if usage.input_tokens > tier.above_input_tokens:
            within = {**asdict(rates), **{name: value for name, value in asdict(tier).items() if value is not None}}
            named = within
    plain, output = named["input_micros_per_million"], named["output_micros_per_million"]

    def rate(name: str, whole: int) -> int:
        return whole if named[name] is None else int(named[name])

    millionths = (
        usage.plain_input_tokens * plain
        + usage.cached_input_tokens * rate("cached_input_micros_per_million", plain)
        + usage.cache_write_tokens * rate("cache_write_micros_per_million", plain)
        + usage.plain_output_tokens * output
        + usage.reasoning_tokens * rate("reasoning_micros_per_million", output)
    )
    return Fraction(millionths, 10**12) + Fraction(usage.requests * (named["request_micros"] or 0), 10**6)


@given(usages(), RATES, POINTS)
def test_base_and_profit_are_exact_and_rounded_up_once_each(usage: Usage, rates: Rates, points: int) -> None:
    priced = price(usage, card(rates), rule(points))
    base = exact_base(rates, usage)
    assert priced.base_micros == ceil(base * 10**6)
    assert priced.profit_micros == ceil(Fraction(priced.base_micros) * Fraction(points, 10_000))
    assert (priced.price_id, priced.profit_rule_id) == (3, 7)


MORE = {
    "input": {"input_tokens": 1},
    "cached input": {"input_tokens": 1, "cached_input_tokens": 1},
    "cache writes": {"input_tokens": 1, "cache_write_tokens": 1},
    "output": {"output_tokens": 1},
    "reasoning": {"output_tokens": 1, "reasoning_tokens": 1},
    "requests": {"requests": 1},
}


@pytest.mark.parametrize("kind", MORE)
@given(usages(USAGE_TOKENS_MAX // 2), FLAT, POINTS, st.integers(0, 1_000))
def test_more_of_any_kind_never_costs_less(kind: str, usage: Usage, rates: Rates, points: int, more: int) -> None:
    greater = replace(usage, **{name: getattr(usage, name) + by * more for name, by in MORE[kind].items()})
    assert price(usage, card(rates), rule(points)).cost_micros <= price(greater, card(rates), rule(points)).cost_micros


@given(usages(), FLAT, POINTS, POINTS)
def test_more_profit_never_costs_less(usage: Usage, rates: Rates, p: int, q: int) -> None:
    less, more = price(usage, card(rates), rule(min(p, q))), price(usage, card(rates), rule(max(p, q)))
    assert less.cost_micros <= more.cost_micros


@given(usages(USAGE_TOKENS_MAX // 2), usages(USAGE_TOKENS_MAX // 2), FLAT, POINTS)
def test_a_split_run_is_never_cheaper_and_dearer_by_its_roundings_only(
    one: Usage, other: Usage, rates: Rates, points: int
) -> None:
    whole = Usage(**{name: getattr(one, name) + getattr(other, name) for name in asdict(one)})
    together = price(whole, card(rates), rule(points))
    apart = [price(part, card(rates), rule(points)) for part in (one, other)]
    assert 0 <= sum(part.base_micros for part in apart) - together.base_micros <= 1
    # The profit of the one micro-token, and one for its own rounding.
    allowed = 1 + ceil(Fraction(points, 10_000))
    assert 0 <= sum(part.profit_micros for part in apart) - together.profit_micros <= allowed


@given(usages(), RATES)
def test_parts_add_up_and_are_exact_to_less_than_a_micro_token(usage: Usage, rates: Rates) -> None:
    parts = rates.parts_micros(usage)
    assert set(parts) == set(Kind)
    assert sum(parts.values()) == rates.cost_micros(usage)
    only = {
        Kind.INPUT: replace(usage, output_tokens=0, reasoning_tokens=0, requests=0),
        Kind.OUTPUT: replace(usage, reasoning_tokens=0, requests=0),
    }
    assert (
        parts[Kind.REQUESTS]
        == usage.requests
        * (exact_base(rates, replace(usage, requests=1)) - exact_base(rates, replace(usage, requests=0)))
        * 10**6
    )
    assert all(micros >= 0 for micros in parts.values())
    # What stands before output in the order is the input's.
    through_input = sum(parts[kind] for kind in (Kind.INPUT, Kind.CACHED_INPUT, Kind.CACHE_WRITE))
    assert through_input == ceil(exact_base(rates, only[Kind.INPUT]) * 10**6)


@given(usages(), RATES)
def test_nothing_costs_more_than_the_bound_says(usage: Usage, rates: Rates) -> None:
    assert rates.cost_micros(usage) <= rates.cost_micros_max


def test_a_kind_that_is_not_named_costs_what_its_whole_costs() -> None:
    rates = Rates(2_000_000, 8_000_000)
    plain = rates.cost_micros(Usage(1_000, 500))
    assert plain == 2_000 + 4_000
    assert rates.cost_micros(Usage(1_000, 500, 300, 200, 400)) == plain


def test_a_tier_holds_for_the_whole_run_above_its_input_and_keeps_what_it_does_not_name() -> None:
    rates = Rates(
        1_250_000, 10_000_000, 125_000, request_micros=5, tiers=(Tier(200_000, 2_500_000, 15_000_000), Tier(900_000, 0))
    )
    assert rates.cost_micros(Usage(200_000, 1_000)) == 250_000 + 10_000 + 5
    assert rates.cost_micros(Usage(200_001, 1_000)) == 500_003 + 15_000 + 5
    assert rates.cost_micros(Usage(300_000, 0, 300_000)) == 37_500 + 5
    assert rates.cost_micros(Usage(900_001, 1_000)) == 10_000 + 5


def test_fractions_of_kinds_are_added_up_before_they_are_rounded() -> None:
    rates = Rates(250_000, 250_000, 250_000, 250_000, 250_000)
    # A quarter of a micro-token each.
    assert rates.cost_micros(Usage(3, 1, 1, 1, 0)) == 1
    assert rates.cost_micros(Usage(3, 2, 1, 1, 1)) == 2
    assert list(rates.parts_micros(Usage(3, 2, 1, 1, 1)).values()) == [1, 0, 0, 0, 1, 0]


@given(RATES, usages(10_000), st.integers(1, 50))
def test_runs_added_up_cost_what_they_cost_one_by_one_but_for_their_roundings(
    rates: Rates, usage: Usage, runs: int
) -> None:
    total = Usage(*(runs * part for part in asdict(usage).values()))
    one_by_one = runs * rates.cost_micros(usage)
    together = rates.cost_micros_of_many(total, usage.input_tokens)
    assert one_by_one - runs < together <= one_by_one


@given(RATES, st.integers(0, USAGE_TOKENS_MAX))
def test_a_million_tokens_of_a_kind_cost_its_rate(rates: Rates, input_tokens: int) -> None:
    million = 10**6
    by_kind = rates.by_kind(input_tokens)
    alone = {
        Kind.INPUT: Usage(million, 0, requests=0),
        Kind.CACHED_INPUT: Usage(million, 0, cached_input_tokens=million, requests=0),
        Kind.CACHE_WRITE: Usage(million, 0, cache_write_tokens=million, requests=0),
        Kind.OUTPUT: Usage(0, million, requests=0),
        Kind.REASONING: Usage(0, million, reasoning_tokens=million, requests=0),
        Kind.REQUESTS: Usage(0, 0, requests=1),
    }
    assert by_kind == {kind: rates.cost_micros_of_many(usage, input_tokens) for kind, usage in alone.items()}
