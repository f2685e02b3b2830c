"""Twelve public models cost what their makers' pages say, to the micro-token.

The figures are dollars for a million tokens of the standard service. Beside each stands where it was read and when.
Makers' pages were read as stored copies; where only a transcription of the page or another list that names the page
was to be had, that is said. All but gpt-5-codex, which it lacks, stand with the same figures in genai-prices 0.2.3, a
list that others keep. Prices change: these are the ones of their day, and that is all the test needs.

Tokens are sold at 1,000 a dollar, so a dollar a million tokens is 1,000 micro-tokens a token. The expected amounts are
worked out by hand in the comments: plain input + cached input + cache writes + output with its reasoning.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.catalog.price_lists import Format, Selection, read_price_list
from app.catalog.price_lists.document import parse
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.in_force import RateCards
from app.domain.pricing import price
from app.domain.rates import RateCard
from app.domain.usage import Usage

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
TEXT = {"modalities": {"input": ["text"], "output": ["text"]}}

OPENAI = {
    # https://developers.openai.com/api/docs/models/gpt-5-codex, stored copy without a date (the model is "Shut down").
    "gpt-5-codex": {"input": 1.25, "cache_read": 0.125, "output": 10},
    # https://developers.openai.com/api/docs/pricing, transcribed in api-evangelist/openai on GitHub
    # (plans/openai-plans-pricing.yml, 2026-05-04). The tier: LiteLLM's list of November 2026, which names that page.
    "gpt-5.4": {
        "input": 2.5,
        "cache_read": 0.25,
        "output": 15,
        "tiers": [{"input": 5, "cache_read": 0.5, "output": 22.5, "tier": {"type": "context", "size": 272_000}}],
    },
    # The same transcription.
    "gpt-5.4-mini": {"input": 0.75, "cache_read": 0.075, "output": 4.5},
}
ANTHROPIC = {
    # https://platform.claude.com/docs/en/about-claude/pricing, stored copy without a date (autumn 2026, by its models).
    # Cache writes are those of five minutes.
    "claude-opus-5": {"input": 5, "cache_write": 6.25, "cache_read": 0.5, "output": 25},
    "claude-fable-5-1": {"input": 10, "cache_write": 12.5, "cache_read": 0.25, "output": 50},
    # https://platform.claude.com/docs/en/models/haiku-5-5/overview (model of 2026-10-07; the stored copy begins with
    # "from $0.10 / $0.50"), and its two bands as checked against the pricing page on 2026-10-24 by
    # https://github.com/kurofune/claudit/releases/tag/v1.9.2.
    "claude-haiku-5-5": {
        "input": 0.1,
        "cache_write": 0.125,
        "cache_read": 0.01,
        "output": 0.5,
        "tiers": [
            {
                "input": 0.5,
                "cache_write": 0.625,
                "cache_read": 0.05,
                "output": 2.5,
                "tier": {"type": "context", "size": 100_000},
            }
        ],
    },
}
# Dollars for one token, as LiteLLM writes them. Input of all three: https://ai.google.dev/gemini-api/docs/pricing,
# transcribed in api-evangelist/deepmind on GitHub (plans/deepmind-plans-pricing.yml, page read 2026-10-07), and output
# of 3.1 Pro. The rest: LiteLLM's list of November 2026, which names that page. Thinking is priced as output.
GEMINI = {
    "gemini-2.5-pro": {
        "input_cost_per_token": 1.25e-06,
        "cache_read_input_token_cost": 1.25e-07,
        "output_cost_per_token": 1e-05,
        "input_cost_per_token_above_200k_tokens": 2.5e-06,
        "cache_read_input_token_cost_above_200k_tokens": 2.5e-07,
        "output_cost_per_token_above_200k_tokens": 1.5e-05,
    },
    "gemini-3.1-pro-preview": {
        "input_cost_per_token": 2e-06,
        "cache_read_input_token_cost": 2e-07,
        "output_cost_per_token": 1.2e-05,
        "input_cost_per_token_above_200k_tokens": 4e-06,
        "cache_read_input_token_cost_above_200k_tokens": 4e-07,
        "output_cost_per_token_above_200k_tokens": 1.8e-05,
    },
    "gemini-2.5-flash": {
        "input_cost_per_token": 3e-07,
        "cache_read_input_token_cost": 3e-08,
        "output_cost_per_token": 2.5e-06,
        "output_cost_per_reasoning_token": 2.5e-06,
    },
}
DEEPSEEK = {
    # https://api-docs.deepseek.com/quick_start/pricing-details-usd, stored copy without a date (V3 and R1).
    "deepseek-chat": {
        "input_cost_per_token": 2.7e-07,
        "input_cost_per_token_cache_hit": 7e-08,
        "output_cost_per_token": 1.1e-06,
    },
    "deepseek-reasoner": {
        "input_cost_per_token": 5.5e-07,
        "cache_read_input_token_cost": 1.4e-07,
        "output_cost_per_token": 2.19e-06,
    },
    # https://api-docs.deepseek.com/quick_start/pricing, stored copy of the days before 2026-08-16, when prices by the
    # hour of the day came. LiteLLM writes a cache write of 0.0 for DeepSeek: it has no surcharge for one.
    "deepseek-v4-pro": {
        "input_cost_per_token": 4.35e-07,
        "cache_read_input_token_cost": 3.625e-09,
        "cache_creation_input_token_cost": 0.0,
        "output_cost_per_token": 8.7e-07,
    },
}

BILLS = [
    # 20,000 x 1,250 + 100,000 x 125 + 3,333 x 10,000 = 25,000,000 + 12,500,000 + 33,330,000
    ("gpt-5-codex", Usage(120_000, 3_333, cached_input_tokens=100_000, reasoning_tokens=2_000), 70_830_000),
    # 72,000 x 2,500 + 200,000 x 250 + 1,000 x 15,000 = 180,000,000 + 50,000,000 + 15,000,000
    ("gpt-5.4", Usage(272_000, 1_000, cached_input_tokens=200_000, reasoning_tokens=640), 245_000_000),
    # One token longer: 72,001 x 5,000 + 200,000 x 500 + 1,000 x 22,500 = 360,005,000 + 100,000,000 + 22,500,000
    ("gpt-5.4", Usage(272_001, 1_000, cached_input_tokens=200_000, reasoning_tokens=640), 482_505_000),
    # 785 x 750 + 9,216 x 75 + 77 x 4,500 = 588,750 + 691,200 + 346,500
    ("gpt-5.4-mini", Usage(10_001, 77, cached_input_tokens=9_216, reasoning_tokens=64), 1_626_450),
    # 1,000 x 5,000 + 50,000 x 500 + 10,000 x 6,250 + 1,501 x 25,000
    # = 5,000,000 + 25,000,000 + 62,500,000 + 37,525,000
    ("claude-opus-5", Usage(61_000, 1_501, cached_input_tokens=50_000, cache_write_tokens=10_000), 130_025_000),
    # 3 x 10,000 + 180,000 x 250 + 20,000 x 12,500 + 999 x 50,000 = 30,000 + 45,000,000 + 250,000,000 + 49,950,000
    ("claude-fable-5-1", Usage(200_003, 999, cached_input_tokens=180_000, cache_write_tokens=20_000), 344_980_000),
    # 1,000 x 100 + 90,000 x 10 + 9,000 x 125 + 400 x 500 = 100,000 + 900,000 + 1,125,000 + 200,000
    ("claude-haiku-5-5", Usage(100_000, 400, cached_input_tokens=90_000, cache_write_tokens=9_000), 2_325_000),
    # One token longer: 1,001 x 500 + 90,000 x 50 + 9,000 x 625 + 400 x 2,500
    # = 500,500 + 4,500,000 + 5,625,000 + 1,000,000
    ("claude-haiku-5-5", Usage(100_001, 400, cached_input_tokens=90_000, cache_write_tokens=9_000), 11_625_500),
    # 50,000 x 1,250 + 150,000 x 125 + 8,192 x 10,000 = 62,500,000 + 18,750,000 + 81,920,000
    ("gemini-2.5-pro", Usage(200_000, 8_192, cached_input_tokens=150_000, reasoning_tokens=6_000), 163_170_000),
    # One token longer: 50,001 x 2,500 + 150,000 x 250 + 8,192 x 15,000 = 125,002,500 + 37,500,000 + 122,880,000
    ("gemini-2.5-pro", Usage(200_001, 8_192, cached_input_tokens=150_000, reasoning_tokens=6_000), 285_382_500),
    # 1,000 x 2,000 + 1,000 x 12,000
    ("gemini-3.1-pro-preview", Usage(1_000, 1_000), 14_000_000),
    # 200,000 x 4,000 + 100,000 x 400 + 1,000 x 18,000 = 800,000,000 + 40,000,000 + 18,000,000
    ("gemini-3.1-pro-preview", Usage(300_000, 1_000, cached_input_tokens=100_000), 858_000_000),
    # 345 x 300 + 12,000 x 30 + 678 x 2,500 = 103,500 + 360,000 + 1,695,000
    ("gemini-2.5-flash", Usage(12_345, 678, cached_input_tokens=12_000, reasoning_tokens=600), 2_158_500),
    # 904 x 270 + 4,096 x 70 + 1,234 x 1,100 = 244,080 + 286,720 + 1,357,400
    ("deepseek-chat", Usage(5_000, 1_234, cached_input_tokens=4_096), 1_888_200),
    # 904 x 550 + 4,096 x 140 + 4,321 x 2,190 = 497,200 + 573,440 + 9,462,990
    ("deepseek-reasoner", Usage(5_000, 4_321, cached_input_tokens=4_096, reasoning_tokens=4_000), 10_533_630),
    # 100 x 435 + 901 x 3.625 + 3 x 870 = 43,500 + 3,266.125 + 2,610 = 49,376.125, rounded up once
    ("deepseek-v4-pro", Usage(1_001, 3, cached_input_tokens=901), 49_377),
    # 1,000 cache writes cost what input costs: 1,001 x 435 + 3 x 870 = 435,435 + 2,610
    ("deepseek-v4-pro", Usage(1_001, 3, cache_write_tokens=1_000), 438_045),
]


def imported() -> RateCards:
    """All twelve, each maker's as the list of one format that an operator would import."""
    models_dev = {
        name: {"models": {model: {"cost": cost, **TEXT} for model, cost in models.items()}}
        for name, models in {"openai": OPENAI, "anthropic": ANTHROPIC}.items()
    }
    litellm = {model: {"mode": "chat", **costs} for model, costs in {**GEMINI, **DEEPSEEK}.items()}
    listed = [*_read(Format.MODELS_DEV, models_dev), *_read(Format.LITELLM, litellm)]
    return RateCards(RateCard(number, each.rates, None, each.model, NOON) for number, each in enumerate(listed))


def _read(list_format: Format, document: Any) -> Any:
    found = read_price_list(
        parse(json.dumps(document).encode()),
        list_format=list_format,
        selection=Selection(),
        micros_per_dollar=1_000 * MICROS_PER_TOKEN,
    )
    assert not any(each.rounded for each in found.prices)
    return found.prices


def test_they_are_twelve() -> None:
    assert len({model for model, _, _ in BILLS}) == len({**OPENAI, **ANTHROPIC, **GEMINI, **DEEPSEEK}) == 12


@pytest.mark.parametrize(("model", "usage", "micros"), BILLS)
def test_a_run_costs_what_the_makers_page_says(model: str, usage: Usage, micros: int) -> None:
    assert price(usage, imported().in_force("chat", model, NOON), None).cost_micros == micros


def test_a_dated_id_costs_what_its_family_costs() -> None:
    cards = imported()
    usage = Usage(61_000, 1_501, cached_input_tokens=50_000, cache_write_tokens=10_000)
    dated = price(usage, cards.in_force("chat", "claude-opus-5-20260724", NOON), None)
    assert dated.cost_micros == 130_025_000
    assert cards.in_force("chat", "claude-opus-5-mini", NOON) is None
