"""How amounts, moments and spans are written, and where lines of a chart go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console import text
from app.console.charts import SIDE, Series, bars, line_chart
from app.console.rates_fields import rates_of, texts_of, tiers
from app.domain.rates import Rates, Tier

NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("micros", "shown", "exact"),
    [
        (0, "0", "0"),
        (1_000_000, "1", "1"),
        (1_250_500_000, "1,250.50", "1,250.5"),
        (1_234_567_891, "1,234.56", "1,234.567891"),
        (-1, "-0.00", "-0.000001"),
        (-1_000_250_000, "-1,000.25", "-1,000.25"),
        (987_654_321_000_000, "987,654,321", "987,654,321"),
        (10_000, "0.01", "0.01"),
    ],
)
def test_amounts_are_exact_beside_what_is_shown(micros: int, shown: str, exact: str) -> None:
    found = text.money(micros)
    assert (found.shown, found.exact, found.is_negative) == (shown, exact, micros < 0)


@given(st.integers(-(10**15), 10**15))
def test_what_is_copied_is_the_exact_amount(micros: int) -> None:
    found = text.money(micros)
    whole = (found.shown + found.rest).replace(",", "")
    sign, digits = (-1, whole[1:]) if whole.startswith("-") else (1, whole)
    tokens, _, fraction = digits.partition(".")
    assert sign * (int(tokens) * 1_000_000 + int(fraction.ljust(6, "0"))) == micros


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3_600, "1 h"), (90_061, "1 d 1 h"), (7_200, "2 h"), (86_461, "1 d")],
)
def test_spans_have_two_units_at_most(seconds: int, words: str) -> None:
    assert text.span(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(0, "now"), (-0.4, "now"), (90, "1 min 30 s ago"), (-3_600, "in 1 h")])
def test_how_long_ago(seconds: float, words: str) -> None:
    assert text.ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_a_line_goes_from_the_bottom_to_a_round_top() -> None:
    chart = line_chart("Ends", [NOW, NOW, NOW], [Series("ends", [0, 30, 150])])
    assert [tick.label for tick in chart.heights] == ["200", "100", "0"]
    assert chart.lines[0].paths == ["M0 1000L500 850L1000 250"]
    assert chart.lines[0].latest == "150"
    assert chart.summary == "ends: now 150, lowest 0, highest 150"
    assert [row[1] for row in chart.rows] == ["0", "30", "150"]
    assert "ends: 30" in chart.zones[1].label


def test_a_gap_breaks_a_line_and_one_value_is_a_dot() -> None:
    chart = line_chart("Held", [NOW] * 5, [Series("held", [1, 2, None, 2, None])])
    assert len(chart.lines[0].paths) == 1
    assert chart.lines[0].dots == [(750, 0)]
    assert chart.rows[2][1] == "-"


def test_a_chart_without_figures_says_so() -> None:
    for moments, values in (([], []), ([NOW], [None])):
        chart = line_chart("Held", moments, [Series("held", values)])
        assert chart.is_empty
        assert chart.summary == "No figures yet."


@given(st.lists(st.one_of(st.none(), st.integers(-(10**18), 10**18)), max_size=30))
def test_every_line_stays_within_its_chart(values: list[int | None]) -> None:
    chart = line_chart("Any", [NOW] * len(values), [Series("any", values)])
    for path in chart.lines[0].paths:
        for point in path.removeprefix("M").split("L"):
            x, y = map(int, point.split())
            assert 0 <= x <= SIDE
            assert 0 <= y <= SIDE
    assert all(0 <= zone.left < SIDE + 1 for zone in chart.zones)


def test_bars_are_as_long_as_their_share_of_the_longest() -> None:
    assert [bar.length for bar in bars([("a", 50, None), ("b", 200, "/b"), ("c", 0, None)])] == [250, 1_000, 0]
    assert bars([("none", 0, None)])[0].length == 0


def test_tiers_are_read_as_they_are_written() -> None:
    typed = "above 200,000 input 4000.5 cached 10\n\nabove 100000 output 12 request 0.5"
    low, high = tiers(typed)
    assert low == Tier(100_000, output_micros_per_million=12_000_000, request_micros=500_000)
    assert high == Tier(200_000, input_micros_per_million=4_000_500_000, cached_input_micros_per_million=10_000_000)
    rates = Rates(1, 2, tiers=(low, high))
    assert tiers(texts_of(rates)["tiers"]) == (low, high)
    values = {"input_per_million": 1, "output_per_million": 2, "tiers": (low, high)}
    rest = dict.fromkeys(
        ("cached_input_per_million", "cache_write_per_million", "reasoning_per_million", "per_request")
    )
    assert rates_of({**rest, **values}) == rates


@pytest.mark.parametrize(
    "typed",
    [
        "200000 input 1",
        "above many input 1",
        "above 1.5 input 1",
        "above 5 input",
        "above 5 price 1",
        "above 5 input 1 input 2",
        "above 5 input 0.0000001",
        "above 5 input 1\nabove 5 output 1",
        "\n".join(f"above {n} input 1" for n in range(11)),
        "above 1e999999999 input 1",
        "above 5 input 1e999999999",
    ],
)
def test_tiers_that_cannot_be_meant_are_refused(typed: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        tiers(typed)


def test_what_lies_far_apart_stands_far_apart_with_a_gap_between() -> None:
    """A server that stood still for an hour drew a line through it as if nothing had happened."""
    minutes = [0, 1, 2, 62, 63, 64]
    moments = [NOW + timedelta(minutes=minute) for minute in minutes]
    chart = line_chart("Ends", moments, [Series("ends", [2] * 6)])
    assert chart.lines[0].paths == ["M0 0L15 0L31 0", "M968 0L984 0L1000 0"]
    assert [(tick.place, tick.label) for tick in chart.moments] == [
        (0, "12:00"), (250, "12:16"), (500, "12:32"), (750, "12:48"), (1000, "13:04"),
    ]  # fmt: skip


@pytest.mark.parametrize("length", [0, 1, 2, 4, 61])
def test_an_axis_tells_its_ends(length: int) -> None:
    moments = [NOW + timedelta(minutes=i) for i in range(length)]
    ticks = line_chart("Ends", moments, [Series("ends", [1] * length)]).moments
    assert len(ticks) == min(length, 5)
    if length:
        assert (ticks[0].place, ticks[0].label) == (0, text.minute(moments[0]))
        assert ticks[-1].label == text.minute(moments[-1])
        assert ticks[-1].place == (SIDE if length > 1 else 0)


def test_words_counts_and_ids_are_for_people() -> None:
    assert (text.counted(1, "end"), text.counted(0, "end"), text.counted(1_250, "end")) == (
        "1 end",
        "0 ends",
        "1,250 ends",
    )
    assert [text.words(word) for word in ("under_1h", "1d_to_7d", "insufficient_tokens")] == [
        "under 1 h", "1 d to 7 d", "insufficient tokens",
    ]  # fmt: skip
    assert text.short_id("01a215c9-5a77-73a8-88a0-119a2759e40a") == "01a215c9\u2026e40a"
    assert text.short_id("r-1") == "r-1"
    assert text.span(2_521 * 86_400 + 7_200) == "2,521 d"
