"""What administrators get to see of prices, and everybody of an estimate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.billing.estimate import Estimate
from app.domain.amounts import token_number
from app.domain.moments import moment_text
from app.domain.pricing import parts_micros
from app.domain.rates import Kind, RateCard, Rates, Tier

Answer = dict[str, Any]

# The wire's name of each rate -> ours.
RATE_FIELDS = {
    "input_per_million": "input_micros_per_million",
    "output_per_million": "output_micros_per_million",
    "cached_input_per_million": "cached_input_micros_per_million",
    "cache_write_per_million": "cache_write_micros_per_million",
    "reasoning_per_million": "reasoning_micros_per_million",
    "per_request": "request_micros",
}


def price_answer(card: RateCard) -> Answer:
    return {
        "id": card.id,
        "feature_endpoint_id": card.feature_endpoint_id,
        "model": card.model,
        "effective_from": moment_text(card.effective_from),
        **rates_answer(card.rates),
    }


def rates_answer(rates: Rates) -> Answer:
    return {
        **_rates_answer(rates),
        "tiers": [{"above_input_token": tier.above_input_tokens, **_named_rates_answer(tier)} for tier in rates.tiers],
    }


def parts_answer(parts: Mapping[Kind, int]) -> Answer:
    """What each kind has cost, before profit: they add up to the base cost."""
    return {kind.value: token_number(parts.get(kind, 0)) for kind in Kind}


def estimate_answer(estimate: Estimate) -> Answer:
    """What an end would answer, and what its cost follows from."""
    quote = estimate.quote
    answer: Answer = {
        "cost": token_number(quote.price.cost_micros),
        "base_cost": token_number(quote.price.base_micros),
        "profit": token_number(quote.price.profit_micros),
        "price_id": None if quote.is_draft else quote.price.price_id,
        "profit_rule_id": quote.price.profit_rule_id,
    }
    if estimate.spendable_micros is not None:
        answer |= {"token": token_number(estimate.spendable_micros), "status": estimate.deduction}
    return answer


def explained_estimate_answer(estimate: Estimate) -> Answer:
    """The same for administrators: with each kind's part, and whether the draft is what counts."""
    return {
        **estimate_answer(estimate),
        "is_draft": estimate.quote.is_draft,
        "parts": parts_answer(parts_micros(estimate.usage, estimate.quote.card)),
    }


def _rates_answer(rates: Rates | Tier) -> Answer:
    found = {field: getattr(rates, name) for field, name in RATE_FIELDS.items()}
    return {field: None if micros is None else token_number(micros) for field, micros in found.items()}


def _named_rates_answer(rates: Rates | Tier) -> Answer:
    return {field: number for field, number in _rates_answer(rates).items() if number is not None}
