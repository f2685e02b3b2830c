"""No run may cost more than can be counted: rates and the profit on them are bounded when they are made.

The bound must hold at the highest usage, for a rate card alone and with every profit rule that can apply to its runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.pricing import COST_MICROS_MAX, ProfitRule, percentage_number, profit_micros
from app.domain.rates import MILLION, RateCard, Rates
from app.domain.usage import REQUESTS_MAX, USAGE_TOKENS_MAX

# The highest rate that is possible, if nothing else costs anything.
RATE_MICROS_MAX = COST_MICROS_MAX * MILLION // USAGE_TOKENS_MAX
REQUEST_MICROS_MAX = COST_MICROS_MAX // REQUESTS_MAX

_FIELDS = {
    "input_per_million": (
        "input_micros_per_million",
        "cached_input_micros_per_million",
        "cache_write_micros_per_million",
    ),
    "output_per_million": ("output_micros_per_million", "reasoning_micros_per_million"),
    "per_request": ("request_micros",),
}


def errors_of_card(card: RateCard, rules: Iterable[ProfitRule]) -> Mapping[str, list[str]]:
    """Why a card can't be used under these rules: the wire's field that costs most -> reasons. Empty if it can."""
    if card.rates.cost_micros_max > COST_MICROS_MAX:
        return {_dearest_field(card.rates): [f"Too high: {_WOULD_COST}"]}
    rule = next((rule for rule in rules if _is_too_much(card, rule)), None)
    if rule is None:
        return {}
    profit = f"the profit of {percentage_number(rule.basis_points)} % of rule {rule.id}"
    return {_dearest_field(card.rates): [f"Too high: with {profit} {_WOULD_COST}"]}


def errors_of_rule(rule: ProfitRule, cards: Iterable[RateCard]) -> Mapping[str, list[str]]:
    """Why a rule can't be used with these cards, in the same form."""
    card = next((card for card in cards if _is_too_much(card, rule)), None)
    return {} if card is None else {"percentage": [f"Too high: by the rates of price {card.id} {_WOULD_COST}"]}


_WOULD_COST = (
    f"a run of {USAGE_TOKENS_MAX} tokens could cost more than the {COST_MICROS_MAX // MICROS_PER_TOKEN} tokens that a"
    " wallet can hold."
)


def exceeds_limit(card: RateCard, basis_points: int) -> bool:
    """Whether a run priced by this card could cost too much with this profit."""
    base_micros = card.rates.cost_micros_max
    return base_micros + profit_micros(base_micros, basis_points) > COST_MICROS_MAX


def _is_too_much(card: RateCard, rule: ProfitRule) -> bool:
    return exceeds_limit(card, rule.basis_points) and _can_meet(card, rule)


def _can_meet(card: RateCard, rule: ProfitRule) -> bool:
    """Whether there can be a run that both apply to."""
    is_of_one_feature = (
        card.feature_endpoint_id is None
        or rule.feature_endpoint_id is None
        or card.feature_endpoint_id == rule.feature_endpoint_id
    )
    return is_of_one_feature and (rule.model is None or card.covers_model(rule.model))


def _dearest_field(rates: Rates) -> str:
    def micros_max(field: str) -> int:
        rate = max(getattr(table, name) or 0 for table in (rates, *rates.tiers) for name in _FIELDS[field])
        return rate * REQUESTS_MAX if field == "per_request" else rate * USAGE_TOKENS_MAX // MILLION

    return max(_FIELDS, key=micros_max)
