"""Price lists of both formats, written here as their keepers write them, one oddity each."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.catalog.price_lists import Format, PriceList, Selection, read_price_list
from app.catalog.price_lists.document import NotReadable, parse
from app.catalog.price_lists.listed import PROBLEMS_MAX
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.errors import PriceListRefused
from app.domain.pricing import COST_MICROS_MAX
from app.domain.rates import Rates, Tier

EXACT = Selection(with_dated=False)
GPT = {
    "input_cost_per_token": 1.25e-06,
    "output_cost_per_token": 1e-05,
    "cache_read_input_token_cost": 1.25e-07,
    "litellm_provider": "openai",
    "mode": "chat",
}


def litellm(
    document: Any, selection: Selection = EXACT, micros_per_dollar: int = 1_000 * MICROS_PER_TOKEN
) -> PriceList:
    return _read(Format.LITELLM, document, selection, micros_per_dollar)


def models_dev(document: Any, selection: Selection = EXACT) -> PriceList:
    return _read(Format.MODELS_DEV, document, selection, 1_000 * MICROS_PER_TOKEN)


def _read(list_format: Format, document: Any, selection: Selection, micros_per_dollar: int) -> PriceList:
    text = document if isinstance(document, str) else json.dumps(document)
    return read_price_list(
        parse(text.encode()), list_format=list_format, selection=selection, micros_per_dollar=micros_per_dollar
    )


def refusal(read: Any, document: Any, selection: Selection = EXACT) -> dict[str, list[str]]:
    with pytest.raises(PriceListRefused) as refused:
        read(document, selection)
    return dict(refused.value.errors or {})


def only(prices: PriceList) -> Rates:
    (price,) = prices.prices
    return price.rates


def entry(**fields: Any) -> dict[str, Any]:
    return {"gpt-5": {**GPT, **fields}}


def provider(models: dict[str, Any], name: str = "openai") -> dict[str, Any]:
    return {name: {"id": name, "models": models}}


def priced(**cost: Any) -> dict[str, Any]:
    return {"id": "gpt-5", "modalities": {"input": ["text"], "output": ["text"]}, "cost": cost}


class TestLiteLLM:
    def test_dollars_a_token_become_micro_tokens_a_million(self) -> None:
        # 1.25 dollars a million at 1,000 tokens a dollar: 1,250 tokens a million.
        assert only(litellm(entry())) == Rates(1_250_000_000, 10_000_000_000, 125_000_000)

    def test_every_kind_and_the_request(self) -> None:
        rates = only(
            litellm(
                entry(
                    cache_creation_input_token_cost=1.5e-06,
                    output_cost_per_reasoning_token=2e-05,
                    input_cost_per_request=0.005,
                )
            )
        )
        assert rates == Rates(
            1_250_000_000, 10_000_000_000, 125_000_000, 1_500_000_000, 20_000_000_000, request_micros=5_000_000
        )

    def test_prices_above_a_length_are_tiers(self) -> None:
        rates = only(
            litellm(
                entry(
                    input_cost_per_token_above_272k_tokens=5e-06,
                    output_cost_per_token_above_128k_tokens=2e-05,
                    cache_read_input_token_cost_above_272k_tokens=5e-07,
                )
            )
        )
        assert rates.tiers == (
            Tier(128_000, output_micros_per_million=20_000_000_000),
            Tier(
                272_000,
                input_micros_per_million=5_000_000_000,
                cached_input_micros_per_million=500_000_000,
            ),
        )

    def test_ranges_are_tiers(self) -> None:
        ranges = [
            {"range": [0, 32000.0], "input_cost_per_token": 1.2e-06, "output_cost_per_token": 6e-06},
            {"range": [32000.0, 128000.0], "input_cost_per_token": 2.4e-06, "output_cost_per_token": 1.2e-05},
        ]
        rates = only(litellm({"qwen": {"mode": "chat", "tiered_pricing": ranges}}))
        assert rates == Rates(1_200_000_000, 6_000_000_000, tiers=(Tier(32_000, 2_400_000_000, 12_000_000_000),))

    def test_what_no_card_has_is_passed_over_and_counted(self) -> None:
        found = litellm(
            entry(
                input_cost_per_token_batches=6e-07,
                input_cost_per_token_above_200k_tokens_priority=4.5e-06,
                cache_creation_input_token_cost_above_1hr=6e-06,
                input_cost_per_audio_token=1e-06,
                search_context_cost_per_query={"search_context_size_low": 0.01},
            )
        )
        assert only(found) == Rates(1_250_000_000, 10_000_000_000, 125_000_000)
        assert found.passed_over == {
            "input_cost_per_token_batches": 1,
            "input_cost_per_token_above_200k_tokens_priority": 1,
            "cache_creation_input_token_cost_above_1hr": 1,
            "input_cost_per_audio_token": 1,
            "search_context_cost_per_query": 1,
        }

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"mode": "image_generation", "output_cost_per_image": 0.04}, "mode image_generation"),
            ({"mode": "audio_transcription", "input_cost_per_second": 0.0001}, "mode audio_transcription"),
            ({"mode": "realtime", "input_cost_per_token": 4e-06, "output_cost_per_token": 1e-05}, "mode realtime"),
            ({"mode": "embedding", "input_cost_per_second": 1e-05}, "not sold by the token"),
            ({"mode": "chat", "input_cost_per_character": 1e-06}, "not sold by the token"),
            (
                {"mode": "chat", "input_cost_per_second": 1e-05, "output_cost_per_token": 1e-06},
                "input is not sold by the token",
            ),
            ({"mode": "chat"}, "not sold by the token"),
        ],
    )
    def test_what_is_not_sold_by_the_token_is_skipped_and_named(self, fields: dict[str, Any], reason: str) -> None:
        found = litellm({**entry(), "other": fields})
        assert [price.model for price in found.prices] == ["gpt-5"]
        assert found.skipped == {"other": reason}

    def test_an_embedding_has_no_output(self) -> None:
        assert only(litellm({"embed": {"mode": "embedding", "input_cost_per_token": 2e-08}})) == Rates(20_000_000, 0)

    def test_an_alias_costs_what_it_stands_for(self) -> None:
        found = litellm({**entry(), "gpt-latest": {"alias_of": "gpt-5"}})
        first, alias = found.prices
        assert alias.model == "gpt-latest"
        assert alias.rates == first.rates
        assert "gpt-latest" in refusal(litellm, {**entry(), "gpt-latest": {"alias_of": "gone"}})

    def test_the_lists_own_description_is_no_model(self) -> None:
        assert len(litellm({**entry(), "sample_spec": {"mode": "one of: chat, embedding"}}).prices) == 1

    def test_a_cache_write_for_nothing_is_no_surcharge(self) -> None:
        """DeepSeek's 0.0: what is written costs what input costs, not nothing."""
        rates = only(litellm(entry(cache_creation_input_token_cost=0.0)))
        assert rates.cache_write_micros_per_million is None

    @pytest.mark.parametrize(
        ("fields", "row", "reason"),
        [
            ({"input_cost_per_token": -1e-06}, "gpt-5.input_cost_per_token", "Must not be negative."),
            ({"input_cost_per_token": float("nan")}, "gpt-5.input_cost_per_token", "Must be a finite number."),
            ({"input_cost_per_token": float("inf")}, "gpt-5.input_cost_per_token", "Must be a finite number."),
            ({"input_cost_per_token": "1.25e-06"}, "gpt-5.input_cost_per_token", "Must be a number."),
            ({"input_cost_per_token": True}, "gpt-5.input_cost_per_token", "Must be a number."),
            ({"input_cost_per_token": [1]}, "gpt-5.input_cost_per_token", "Must be a number."),
            ({"input_cost_per_request": 10**13}, "gpt-5.input_cost_per_request", "Too large."),
            ({"input_cost_per_request": 10**7}, "gpt-5.input_cost_per_request", "More than 100000 dollars for one."),
            ({"input_cost_per_token": 1e-40}, "gpt-5.input_cost_per_token", "Finer than any price."),
            ({"input_cost_per_token": None}, "gpt-5.input_cost_per_token", "Is absent."),
            ({"output_cost_per_token_batches": -1}, "gpt-5.output_cost_per_token_batches", "Must not be negative."),
            ({"cost_of_input": 3}, "gpt-5.cost_of_input", "Its unit is absent: per what?"),
            (
                {"search_context_cost_per_query": {"low": -1}},
                "gpt-5.search_context_cost_per_query.low",
                "Must not be negative.",
            ),
            (
                {"input_cost_per_token_cache_hit": 9e-07},
                "gpt-5.cache_read_input_token_cost",
                "Another field has another price for the same tokens.",
            ),
            (
                {"input_cost_per_token_above_0k_tokens": 9e-07},
                "gpt-5",
                "A tier must begin above 1 to 100000000 tokens of input.",
            ),
        ],
    )
    def test_nonsense_is_refused_with_its_row(self, fields: dict[str, Any], row: str, reason: str) -> None:
        errors = refusal(litellm, {"gpt-5": {**fields, **{k: v for k, v in GPT.items() if k not in fields}}})
        assert errors == {row: [reason]}

    def test_ranges_that_leave_a_gap_are_refused(self) -> None:
        ranges = [
            {"range": [0, 32000], "input_cost_per_token": 1e-06, "output_cost_per_token": 6e-06},
            {"range": [64000, 128000], "input_cost_per_token": 2e-06, "output_cost_per_token": 6e-06},
        ]
        errors = refusal(litellm, {"qwen": {"mode": "chat", "tiered_pricing": ranges}})
        assert errors == {"qwen.tiered_pricing": ["Ranges must follow each other, from 0 on."]}

    def test_a_model_that_stands_there_twice_is_refused(self) -> None:
        row = json.dumps(GPT)
        assert refusal(litellm, f'{{"gpt-5": {row}, "gpt-5": {row}}}') == {"gpt-5": ["Stands here twice."]}
        fields = row.replace('"mode"', '"input_cost_per_token": 9, "mode"')
        errors = refusal(litellm, f'{{"gpt-5": {fields}}}')
        assert "gpt-5.input_cost_per_token" in errors

    def test_a_million_times_too_dear_is_refused(self) -> None:
        """A list in dollars a million that is read as dollars a token."""
        errors = refusal(litellm, entry(input_cost_per_token=1.25, output_cost_per_token=10))
        assert errors == {
            "gpt-5.input_cost_per_token": ["More than 0.01 dollars for one."],
            "gpt-5.output_cost_per_token": ["More than 0.01 dollars for one."],
        }

    def test_the_largest_run_has_to_fit_a_wallet(self) -> None:
        with pytest.raises(PriceListRefused) as refused:
            litellm(entry(output_cost_per_token=6e-4), micros_per_dollar=10**6 * MICROS_PER_TOKEN)
        assert refused.value.errors == {
            "gpt-5": ["Too large at so many tokens per dollar: the largest run would cost more than a wallet can hold."]
        }

    def test_all_rows_are_told_up_to_a_bound(self) -> None:
        bad = {f"model-{number}": {**GPT, "input_cost_per_token": -1} for number in range(PROBLEMS_MAX + 7)}
        with pytest.raises(PriceListRefused, match=rf"{PROBLEMS_MAX + 7} problems \(the first {PROBLEMS_MAX} named\)"):
            litellm(bad)
        assert len(refusal(litellm, bad)) == PROBLEMS_MAX

    @pytest.mark.parametrize("document", [[], 7, "null", {"openai": {"models": {}}}, {}])
    def test_another_format_is_no_empty_list(self, document: Any) -> None:
        with pytest.raises(PriceListRefused):
            litellm(document)

    @pytest.mark.parametrize("name", ["x" * 129, "gpt-*", "a\u202eb", ""])
    def test_a_name_that_no_end_could_send_is_refused(self, name: str) -> None:
        assert list(refusal(litellm, {name: GPT})) == [name.replace("\u202e", "\\u202e")]


SEVERAL = {
    "gpt-5": GPT,
    "gemini/gemini-2.5-pro": {**GPT, "litellm_provider": "gemini"},
    "broken": {**GPT, "litellm_provider": "other", "input_cost_per_token": -1},
}


class TestSelection:
    def models(self, **selection: Any) -> list[str]:
        found = litellm(SEVERAL, Selection(**{"with_dated": False, **selection}))
        return [price.model for price in found.prices]

    def test_by_provider_and_by_model(self) -> None:
        assert self.models(providers=("openai",)) == ["gpt-5"]
        assert self.models(models=("gpt*",)) == ["gpt-5"]
        assert self.models(models=("gemini-2.5-pro", "gpt-5")) == ["gpt-5", "gemini/gemini-2.5-pro"]
        assert self.models(providers=("openai", "gemini"), excluded_models=("gemini/*",)) == ["gpt-5"]

    def test_a_provider_may_be_left_out_of_names(self) -> None:
        assert self.models(providers=("gemini",), strips_provider=True) == ["gemini-2.5-pro"]

    def test_one_name_for_two_prices_is_refused_and_for_one_is_fine(self) -> None:
        selection = Selection(strips_provider=True, with_dated=False)
        twin = {**GPT, "litellm_provider": "azure"}
        assert len(litellm({"gpt-5": GPT, "azure/gpt-5": twin}, selection).prices) == 1
        errors = refusal(litellm, {"gpt-5": GPT, "azure/gpt-5": {**twin, "input_cost_per_token": 1e-06}}, selection)
        assert errors == {
            "azure/gpt-5": ["The same model as gpt-5, at another price: choose one, or exclude the model."]
        }

    def test_a_dated_id_costs_what_its_family_costs(self) -> None:
        document = {"gpt-5": GPT, "gpt-5-2025-08-07": GPT, "claude-4-20250514": GPT}
        names = [price.model for price in litellm(document, Selection()).prices]
        assert names == ["gpt-5", "gpt-5-2025-08-07", "claude-4-20250514", "gpt-5-202*"]


class TestModelsDev:
    def test_dollars_a_million_become_micro_tokens_a_million(self) -> None:
        cost = priced(input=1.25, output=10, cache_read=0.125, cache_write=1.5, reasoning=20)
        assert only(models_dev(provider({"gpt-5": cost}))) == Rates(
            1_250_000_000, 10_000_000_000, 125_000_000, 1_500_000_000, 20_000_000_000
        )

    def test_tiers_say_more_than_the_older_field(self) -> None:
        tier = {"input": 5, "output": 22.5, "cache_read": 0.5, "tier": {"size": 272_000, "type": "context"}}
        over = {"input": 5, "output": 22.5, "cache_read": 0.5}
        both = priced(input=2.5, output=15, cache_read=0.25, tiers=[tier], context_over_200k=over)
        rates = (5_000_000_000, 22_500_000_000, 500_000_000)
        assert only(models_dev(provider({"gpt-5": both}))).tiers == (Tier(272_000, *rates),)
        older = priced(input=2.5, output=15, cache_read=0.25, context_over_200k=over)
        assert only(models_dev(provider({"gpt-5": older}))).tiers == (Tier(200_000, *rates),)

    def test_what_is_not_sold_by_the_token_is_skipped_and_named(self) -> None:
        picture = {"modalities": {"output": ["image"]}, "cost": {"input": 5, "output": 40}}
        found = models_dev(provider({"gpt-5": priced(input=1, output=2), "draw": picture, "new": {"id": "new"}}))
        assert found.skipped == {"openai/draw": "its output is image", "openai/new": "no price"}

    def test_audio_is_passed_over_and_counted(self) -> None:
        found = models_dev(provider({"gpt-5": priced(input=1, output=2, input_audio=40)}))
        assert found.passed_over == {"input_audio": 1}

    @pytest.mark.parametrize(
        ("cost", "row", "reason"),
        [
            ({"input": -1, "output": 2}, "input", "Must not be negative."),
            ({"input": float("nan"), "output": 2}, "input", "Must be a finite number."),
            ({"input": "1", "output": 2}, "input", "Must be a number."),
            ({"input": 1}, "output", "Is absent."),
            (
                {"input": 1, "output": 2, "per_image": 3},
                "per_image",
                "Unknown: no one can tell what it is charged for.",
            ),
            ({"input": 1, "output": 2, "tiers": 3}, "tiers", "Must be a list."),
            (
                {"input": 1, "output": 2, "tiers": [{"input": 2, "tier": {"size": 5, "type": "hour"}}]},
                "tiers.0",
                "Must be a tier by length of context, each length once.",
            ),
            (
                {"input": 1, "output": 2, "tiers": [{"input": -2, "tier": {"size": 5, "type": "context"}}]},
                "tiers.0.input",
                "Must not be negative.",
            ),
            ({"input": 1, "output": 2, "context_over_200k": 3}, "context_over_200k", "Must be an object."),
        ],
    )
    def test_nonsense_is_refused_with_its_row(self, cost: dict[str, Any], row: str, reason: str) -> None:
        errors = refusal(models_dev, provider({"gpt-5": priced(**cost)}))
        assert errors == {f"openai/gpt-5.cost.{row}": [reason]}

    def test_a_cost_and_a_provider_are_objects(self) -> None:
        assert refusal(models_dev, provider({"gpt-5": {"cost": 3}})) == {"openai/gpt-5.cost": ["Must be an object."]}
        assert refusal(models_dev, provider({"gpt-5": 3})) == {"openai/gpt-5": ["Must be an object."]}
        assert "gpt-5" in refusal(models_dev, {"gpt-5": GPT})

    def test_one_model_by_two_providers_has_one_price(self) -> None:
        cheap, dear = (
            provider({"gpt-5": priced(input=1, output=2)}),
            provider({"gpt-5": priced(input=2, output=2)}, "a"),
        )
        assert list(refusal(models_dev, {**cheap, **dear})) == ["a/gpt-5"]
        chosen = models_dev({**cheap, **dear}, Selection(providers=("a",), with_dated=False))
        assert only(chosen).input_micros_per_million == 2_000_000_000


class TestConversion:
    @given(
        dollars=st.decimals(min_value="0.000000001", max_value="0.0001", places=12).filter(bool),
        tokens=st.integers(1, 10_000),
    )
    def test_exact_or_rounded_to_the_nearest_and_named(self, dollars: Decimal, tokens: int) -> None:
        found = litellm(
            f'{{"m": {{"input_cost_per_token": {dollars:f}, "output_cost_per_token": 0}}}}',
            micros_per_dollar=tokens * MICROS_PER_TOKEN,
        )
        exact = Fraction(dollars) * 10**6 * tokens * MICROS_PER_TOKEN
        (price,) = found.prices
        assert abs(price.rates.input_micros_per_million - exact) <= Fraction(1, 2)
        assert bool(price.rounded) == (price.rates.input_micros_per_million != exact)

    def test_noise_of_floats_disappears(self) -> None:
        found = litellm('{"m": {"input_cost_per_token": 4.0000000000000003E-7, "output_cost_per_token": 0}}')
        (price,) = found.prices
        assert price.rates.input_micros_per_million == 400_000_000
        assert price.rounded == ("input_cost_per_token",)

    def test_no_price_becomes_nothing(self) -> None:
        with pytest.raises(PriceListRefused) as refused:
            litellm(entry(cache_read_input_token_cost=1e-13), micros_per_dollar=1)
        assert refused.value.errors is not None
        assert "gpt-5.cache_read_input_token_cost" in refused.value.errors


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'{"a": 1e99999999999999999999}']
)
def test_what_is_no_json_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(NotReadable):
        parse(data)


ODDITIES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**14),
    st.floats(),
    st.sampled_from(["", "\0", "\ud800", "x" * 999]),
    st.text(st.characters(), max_size=3),
    st.lists(st.integers(0, 9), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
PRICE = st.one_of(st.floats(0, 1e-3), ODDITIES)
RANGES = st.lists(
    st.fixed_dictionaries(
        {"range": st.lists(st.one_of(st.integers(0, 3), ODDITIES), max_size=2)},
        optional={"input_cost_per_token": PRICE, "output_cost_per_token": PRICE},
    ),
    max_size=3,
)
LITELLM_FIELDS = [
    *("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost", "input_cost_per_request"),
    *("input_cost_per_token_above_200k_tokens", "output_cost_per_token_above_0k_tokens", "input_cost_per_second"),
    *("output_cost_per_token_batches", "search_context_cost_per_query", "input_cost"),
]
LITELLM_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.one_of(st.sampled_from(["chat", "embedding", "image_generation"]), ODDITIES),
        "litellm_provider": st.one_of(st.just("openai"), ODDITIES),
        "alias_of": st.one_of(st.just("a"), ODDITIES),
        "tiered_pricing": st.one_of(RANGES, ODDITIES),
        **dict.fromkeys(LITELLM_FIELDS, PRICE),
    },
)
COST = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["input", "output", "cache_read", "cache_write", "reasoning", "input_audio", "other"], PRICE),
        "context_over_200k": st.one_of(st.dictionaries(st.just("input"), PRICE), ODDITIES),
        "tiers": st.one_of(
            st.lists(
                st.fixed_dictionaries(
                    {"tier": st.fixed_dictionaries({"size": ODDITIES, "type": st.just("context")})},
                    optional={"input": PRICE},
                ),
                max_size=2,
            ),
            ODDITIES,
        ),
    },
)
MODELS_DEV_ENTRY = st.fixed_dictionaries(
    {}, optional={"cost": st.one_of(COST, ODDITIES), "modalities": st.one_of(st.just({"output": ["text"]}), ODDITIES)}
)
ANY_TEXT = st.text(st.characters(), max_size=3)
NAMES = st.one_of(st.sampled_from(["a", "b", "openai/a", "sample_spec"]), ANY_TEXT)


def _is_read_or_refused(read: Any, document: Any, strips_provider: bool) -> None:
    """And whatever is said of it can be printed and stored."""
    try:
        found = read(json.dumps(document), Selection(strips_provider=strips_provider))
    except PriceListRefused as refused:
        told: Any = [refused.message, refused.errors]
    else:
        told = [found.skipped, found.passed_over, [price.model for price in found.prices]]
        for price in found.prices:
            assert all(isinstance(micros, int) and micros >= 0 for micros in price.rates.by_kind(1).values())
            assert price.rates.cost_micros_max <= COST_MICROS_MAX
    text = json.dumps(told, ensure_ascii=False)
    assert text.isprintable(), told


@given(st.dictionaries(NAMES, st.one_of(LITELLM_ENTRY, ODDITIES), max_size=4), st.booleans())
def test_whatever_stands_in_a_litellm_list_is_read_or_refused(document: Any, strips_provider: bool) -> None:
    _is_read_or_refused(litellm, document, strips_provider)


@given(
    st.dictionaries(
        NAMES,
        st.one_of(
            st.fixed_dictionaries(
                {"models": st.dictionaries(NAMES, st.one_of(MODELS_DEV_ENTRY, ODDITIES), max_size=3)}
            ),
            ODDITIES,
        ),
        max_size=3,
    ),
    st.booleans(),
)
def test_whatever_stands_in_a_models_dev_list_is_read_or_refused(document: Any, strips_provider: bool) -> None:
    _is_read_or_refused(models_dev, document, strips_provider)
