"""Answers about prices and estimates."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, NotRequired, TypedDict

from app.billing.estimate import Estimate
from app.domain.amounts import token_number
from app.domain.moments import moment_text
from app.domain.pricing import parts_micros
from app.domain.rates import Kind, RateCard, Rates, Tier
from app.domain.wallets import Deduction
from app.wire.types import Count, Moment, Text, Tokens, Words

# Name of each rate on the wire -> in `Rates`.
RATE_FIELDS = {
    "input_per_million": "input_micros_per_million",
    "output_per_million": "output_micros_per_million",
    "cached_input_per_million": "cached_input_micros_per_million",
    "cache_write_per_million": "cache_write_micros_per_million",
    "reasoning_per_million": "reasoning_micros_per_million",
    "per_request": "request_micros",
}


class RatesOfTierAnswer(TypedDict):
    """A kind that isn't named costs what it costs without the tier."""

    above_input_token: Count
    input_per_million: NotRequired[Tokens]
    output_per_million: NotRequired[Tokens]
    cached_input_per_million: NotRequired[Tokens]
    cache_write_per_million: NotRequired[Tokens]
    reasoning_per_million: NotRequired[Tokens]
    per_request: NotRequired[Tokens]


class RatesAnswer(TypedDict):
    input_per_million: Tokens
    output_per_million: Tokens
    cached_input_per_million: Tokens | None
    cache_write_per_million: Tokens | None
    reasoning_per_million: Tokens | None
    per_request: Tokens | None
    tiers: list[RatesOfTierAnswer]


class PriceHeadAnswer(TypedDict):
    id: Count
    feature_endpoint_id: Annotated[Text | None, "Only for runs of this feature; null: of any feature."]
    model: Annotated[Text | None, "Only for this model, or models that begin so (`*`); null: for any model."]
    effective_from: Moment


class PriceAnswer(PriceHeadAnswer, RatesAnswer):
    pass


def price_answer(card: RateCard) -> PriceAnswer:
    return {
        "id": card.id,
        "feature_endpoint_id": card.feature_endpoint_id,
        "model": card.model,
        "effective_from": moment_text(card.effective_from),
        **rates_answer(card.rates),
    }


def rates_answer(rates: Rates) -> RatesAnswer:
    return {
        "input_per_million": token_number(rates.input_micros_per_million),
        "output_per_million": token_number(rates.output_micros_per_million),
        "cached_input_per_million": _tokens(rates.cached_input_micros_per_million),
        "cache_write_per_million": _tokens(rates.cache_write_micros_per_million),
        "reasoning_per_million": _tokens(rates.reasoning_micros_per_million),
        "per_request": _tokens(rates.request_micros),
        "tiers": [_tier_answer(tier) for tier in rates.tiers],
    }


class PartsAnswer(TypedDict):
    """Before profit: they add up to the base cost."""

    input_token: Tokens
    cached_input_token: Tokens
    cache_write_token: Tokens
    output_token: Tokens
    reasoning_token: Tokens
    requests: Tokens


def parts_answer(parts: Mapping[Kind, int]) -> PartsAnswer:
    """The cost of each kind of usage before profit. They add up to the base cost."""
    return {
        "input_token": token_number(parts.get(Kind.INPUT, 0)),
        "cached_input_token": token_number(parts.get(Kind.CACHED_INPUT, 0)),
        "cache_write_token": token_number(parts.get(Kind.CACHE_WRITE, 0)),
        "output_token": token_number(parts.get(Kind.OUTPUT, 0)),
        "reasoning_token": token_number(parts.get(Kind.REASONING, 0)),
        "requests": token_number(parts.get(Kind.REQUESTS, 0)),
    }


class EstimatedCostAnswer(TypedDict):
    cost: Tokens
    base_cost: Tokens
    profit: Tokens
    price_id: Count | None
    profit_rule_id: Count | None


class EstimateAnswer(EstimatedCostAnswer):
    token: Annotated[Tokens, "What the wallet could spend after the end."]
    status: Annotated[str, Words(Deduction), "What an end would answer."]


def estimate_answer(estimate: Estimate) -> EstimateAnswer:
    """The answer that an end would get, and how its cost is made up. Raises ValueError if no wallet was named."""
    if estimate.spendable_micros is None or estimate.deduction is None:
        raise ValueError(estimate)
    return {
        **_estimated_cost(estimate),
        "token": token_number(estimate.spendable_micros),
        "status": estimate.deduction,
    }


class ExplainedEstimateAnswer(EstimatedCostAnswer):
    is_draft: Annotated[bool, "Whether the draft price in the body was used."]
    parts: Annotated[PartsAnswer, "What each kind of usage costs."]
    token: NotRequired[Annotated[Tokens, "What the wallet could spend after the end. Only if a user was named."]]
    status: NotRequired[Annotated[str, Words(Deduction), "What an end would answer. Only if a user was named."]]


def explained_estimate_answer(estimate: Estimate) -> ExplainedEstimateAnswer:
    """An estimate for administrators, with the cost of each kind of usage and whether the draft's price applies."""
    cost = _estimated_cost(estimate)
    answer: ExplainedEstimateAnswer = {
        "cost": cost["cost"],
        "base_cost": cost["base_cost"],
        "profit": cost["profit"],
        "price_id": cost["price_id"],
        "profit_rule_id": cost["profit_rule_id"],
        "is_draft": estimate.quote.is_draft,
        "parts": parts_answer(parts_micros(estimate.usage, estimate.quote.card)),
    }
    if estimate.spendable_micros is not None and estimate.deduction is not None:
        answer |= {"token": token_number(estimate.spendable_micros), "status": estimate.deduction}
    return answer


def _estimated_cost(estimate: Estimate) -> EstimatedCostAnswer:
    price, is_draft = estimate.quote.price, estimate.quote.is_draft
    return {
        "cost": token_number(price.cost_micros),
        "base_cost": token_number(price.base_micros),
        "profit": token_number(price.profit_micros),
        "price_id": None if is_draft else price.price_id,
        "profit_rule_id": price.profit_rule_id,
    }


def _tier_answer(tier: Tier) -> RatesOfTierAnswer:
    answer: RatesOfTierAnswer = {"above_input_token": tier.above_input_tokens}
    named = {field: getattr(tier, name) for field, name in RATE_FIELDS.items()}
    answer |= {field: token_number(micros) for field, micros in named.items() if micros is not None}  # type: ignore[typeddict-item]
    return answer


def _tokens(micros: int | None) -> int | Decimal | None:
    return None if micros is None else token_number(micros)
