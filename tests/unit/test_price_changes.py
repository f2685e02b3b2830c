from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.price_changes import RateChange, difference, rate_changes
from app.domain.rates import Kind, RateCard, Rates, Tier
from app.domain.usage import Usage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RATE = st.integers(0, 50)
MAYBE = st.none() | RATE


def card(model: str | None, rates: Rates, number: int = 1) -> RateCard:
    return RateCard(number, rates, None, model, NOON)


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    lengths = sorted(draw(st.sets(st.integers(1, 5), max_size=2)))
    tiers = tuple(Tier(above, draw(MAYBE), draw(MAYBE), draw(MAYBE), draw(MAYBE), draw(MAYBE)) for above in lengths)
    return Rates(draw(RATE), draw(RATE), draw(MAYBE), draw(MAYBE), draw(MAYBE), draw(MAYBE), tiers=tiers)


def test_each_kind_that_changes_is_said_with_its_percentage() -> None:
    changes = rate_changes(Rates(100, 400, 10), Rates(125, 400, 5))
    assert changes == (RateChange(Kind.INPUT, 0, 100, 125), RateChange(Kind.CACHED_INPUT, 0, 10, 5))
    assert [change.percent for change in changes] == [Decimal("25.00"), Decimal("-50.00")]


def test_what_follows_its_whole_is_said_once() -> None:
    assert rate_changes(Rates(100, 400), Rates(200, 800)) == (
        RateChange(Kind.INPUT, 0, 100, 200),
        RateChange(Kind.OUTPUT, 0, 400, 800),
    )


def test_a_tier_is_a_change_of_longer_runs() -> None:
    changes = rate_changes(Rates(100, 400), Rates(110, 400, tiers=(Tier(200_000, 200),)))
    assert changes == (RateChange(Kind.INPUT, 0, 100, 110), RateChange(Kind.INPUT, 200_000, 100, 200))


# Only runs of a single token show this one: longer ones are priced by the tier, alike.
@example(Rates(1, 0, 0, tiers=(Tier(1, None, None, 0),)), Rates(1, 0, tiers=(Tier(1, None, None, 0),)))
@given(rates(), rates())
def test_no_change_is_kept_back(old: Rates, new: Rates) -> None:
    """Nothing is said exactly where every run costs the same, by both cards."""
    runs = [
        usage
        # From the shortest run, up to one that the longest tier prices.
        for length in range(1, 8)
        for usage in (
            Usage(length, 0),
            Usage(length, 0, cached_input_tokens=length),
            Usage(length, 0, cache_write_tokens=length),
            Usage(length, 10**6),
            Usage(length, 10**6, reasoning_tokens=10**6),
            Usage(length, 0, requests=2),
        )
    ]
    exact = [
        [sum(usage_part for usage_part in _charges(card_rates, usage)) for usage in runs] for card_rates in (old, new)
    ]
    assert (rate_changes(old, new) == ()) == (exact[0] == exact[1])


def _charges(card_rates: Rates, usage: Usage) -> list[int]:
    # A million runs of it at once, that no rounding hides a change.
    by_kind = card_rates.by_kind(usage.input_tokens)
    return [
        usage.plain_input_tokens * by_kind[Kind.INPUT],
        usage.cached_input_tokens * by_kind[Kind.CACHED_INPUT],
        usage.cache_write_tokens * by_kind[Kind.CACHE_WRITE],
        usage.plain_output_tokens * by_kind[Kind.OUTPUT],
        usage.reasoning_tokens * by_kind[Kind.REASONING],
        usage.requests * by_kind[Kind.REQUESTS] * 10**6,
    ]


@pytest.mark.parametrize(
    ("old", "new", "is_jump"),
    [(100, 150, False), (100, 151, True), (100, 50, False), (100, 49, True), (0, 1, True), (1, 0, True), (3, 4, False)],
)
def test_more_than_half_up_or_down_is_a_jump(old: int, new: int, is_jump: bool) -> None:
    assert RateChange(Kind.INPUT, 0, old, new).is_jump is is_jump


def test_from_nothing_there_is_no_percentage() -> None:
    assert RateChange(Kind.INPUT, 0, 0, 5).percent is None


def test_new_changed_unchanged_and_kept_are_told_apart() -> None:
    own = [card("same", Rates(1, 2)), card("dearer", Rates(100, 200)), card("gone", Rates(5, 6))]
    found = difference(
        [("same", Rates(1, 2, 1)), ("dearer", Rates(120, 200)), ("fresh", Rates(7, 8))],
        own=own,
        today=lambda model: None,
    )
    assert [change.model for change in found.changed] == ["dearer"]
    assert [change.model for change in found.new] == ["fresh"]
    assert found.unchanged_count == 1
    assert found.kept == (own[2],)
    assert found.jumps == ()


def test_a_new_price_jumps_from_what_covers_its_model_today() -> None:
    family = card("gpt-5*", Rates(100, 200))
    found = difference([("gpt-5-mini", Rates(10, 200))], own=[family], today=lambda model: family)
    (change,) = found.new
    assert change.is_new
    assert change.today is family
    assert found.jumps == (change,)
