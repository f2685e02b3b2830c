"""Which price and which profit rule a run meets: what the index finds is what a walk over all of them would."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.in_force import ProfitRules, RateCards
from app.domain.pricing import ProfitRule
from app.domain.rates import RateCard, Rates

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RATES = Rates(1, 1)
MODELS = ["a", "ab", "abc", "abd", "b", "*", "a*", "ab*", "abc*"]


def card(number: int, feature: str | None = None, model: str | None = None, hours: int = -1) -> RateCard:
    return RateCard(number, RATES, feature, model, NOON + timedelta(hours=hours))


ALL = [
    card(1),
    card(2, "f"),
    card(3, None, "gpt-*"),
    card(4, None, "gpt-4*"),
    card(5, None, "gpt-4.1"),
    card(6, "f", "gpt-*"),
    card(7, "f", "gpt-4*"),
    card(8, "f", "gpt-4.1"),
]


@pytest.mark.parametrize(
    ("feature", "model", "expected"),
    [
        ("f", "gpt-4.1", 8),
        ("f", "gpt-4.1-2025-04-14", 7),
        ("f", "gpt-5", 6),
        ("f", "claude", 2),
        ("f", None, 2),
        ("g", "gpt-4.1", 5),
        ("g", "gpt-4.1-mini", 4),
        ("g", "gpt-3.5", 3),
        ("g", "gpt", 1),
        ("g", None, 1),
        # A model that looks like a pattern is no more than a model.
        ("g", "gpt-4*", 4),
    ],
)
def test_the_most_specific_price_wins(feature: str, model: str | None, expected: int) -> None:
    found = RateCards(ALL).in_force(feature, model, NOON)
    assert found is not None
    assert found.id == expected


def test_without_a_price_that_covers_it_a_run_has_none() -> None:
    cards = RateCards([card(1, "f"), card(2, None, "gpt-*"), card(3, hours=1)])
    assert cards.in_force("g", "claude", NOON) is None
    assert cards.in_force("g", None, NOON) is None


def test_what_is_not_in_force_yet_hides_nothing_that_is() -> None:
    cards = RateCards([card(1, None, "gpt-*"), card(2, None, "gpt-4*", hours=1), card(3, None, "gpt-4.1", hours=2)])
    assert [cards.in_force("f", "gpt-4.1", NOON + timedelta(hours=hours)).id for hours in (0, 1, 2)] == [1, 2, 3]  # type: ignore[union-attr]


def test_what_runs_may_still_be_priced_by() -> None:
    cards = RateCards([card(1, hours=-3), card(2, hours=-2), card(3, hours=1), card(4, "f", hours=2)])
    assert sorted(found.id for found in cards.not_yet_followed(NOON)) == [2, 3, 4]


@given(
    st.lists(st.tuples(st.sampled_from([None, "f", "g"]), st.sampled_from([None, *MODELS]), st.integers(-3, 3))),
    st.sampled_from(["f", "g", "h"]),
    st.sampled_from([None, "a", "ab", "abc", "abcd", "abx", "b", "c"]),
)
def test_the_index_finds_what_a_walk_finds(
    made: list[tuple[str | None, str | None, int]], feature: str, model: str | None
) -> None:
    cards = [card(number, *scope) for number, scope in enumerate(made)]

    def rank(found: RateCard) -> tuple[object, ...]:
        """The contract's order: feature and exact model, feature and longest pattern, exact model, ..."""
        named = found.model is not None
        longest = (1_000 if not found.is_pattern else len(found.model or "")) if named else -1
        return named, found.feature_endpoint_id is not None, longest, found.effective_from, found.id

    walked = max(
        (
            found
            for found in cards
            if found.effective_from <= NOON
            and found.feature_endpoint_id in (None, feature)
            and found.covers_model(model)
        ),
        key=rank,
        default=None,
    )
    assert RateCards(cards).in_force(feature, model, NOON) == walked

    rules = [ProfitRule(found.id, 0, found.effective_from, found.feature_endpoint_id, found.model) for found in cards]
    walked_rule = max(
        (
            rule
            for rule in rules
            if rule.effective_from <= NOON
            and rule.feature_endpoint_id in (None, feature)
            and rule.model in (None, model)
        ),
        key=lambda rule: (
            rule.feature_endpoint_id is not None,
            rule.model is not None,
            rule.effective_from,
            rule.id,
        ),
        default=None,
    )
    assert ProfitRules(rules).in_force(feature, model, NOON) == walked_rule


def test_a_look_does_not_walk_over_what_there_is() -> None:
    many = 5_000
    cards = RateCards([*ALL, *(card(10 + i, None, f"maker-{i}/model") for i in range(many))])
    rules = ProfitRules(ProfitRule(i, 100, NOON - timedelta(hours=1), None, f"maker-{i}/model") for i in range(many))

    def seconds(look: object) -> float:
        started = time.perf_counter()
        for _ in range(200):
            look()  # type: ignore[operator]
        return (time.perf_counter() - started) / 200

    # Walking over 5,000 takes more than half a millisecond; a hundredth of that is the rule here.
    assert min(seconds(lambda: cards.in_force("g", "maker-4999/model", NOON)) for _ in range(5)) < 0.0001
    assert min(seconds(lambda: rules.in_force("g", "maker-4999/model", NOON)) for _ in range(5)) < 0.0001


def test_what_is_in_force_for_the_scopes_of_a_feature() -> None:
    later = card(9, None, "gpt-4.1", hours=1)
    cards = RateCards([*ALL, later])
    assert {found.id for found in cards.of_feature("f", NOON)} == {2, 6, 7, 8}
    assert {found.id for found in cards.of_feature(None, NOON)} == {1, 3, 4, 5}
    assert {found.id for found in cards.of_feature(None, NOON + timedelta(hours=2))} == {1, 3, 4, 9}
    assert list(cards.of_feature("g", NOON)) == []


def test_of_no_feature_counts_what_is_for_all_of_them() -> None:
    cards = RateCards(ALL)
    found = [cards.in_force(None, model, NOON) for model in ("gpt-4.1", "gpt-4.1-mini", "claude")]
    assert [each.id for each in found if each] == [5, 4, 1]
