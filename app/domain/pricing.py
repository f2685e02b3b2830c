"""What a run costs, in exact integers of micro-tokens: its base cost, and the profit on top.

Without a rate card the base cost is `output_token / 4`. With one it is the sum over the kinds of its usage, rounded up
once. The profit is a percentage of the base cost with at most two decimals, and is rounded up once. With the guide's
own rule neither is ever rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from app.domain.amounts import BALANCE_MICROS_MAX
from app.domain.rates import Kind, RateCard
from app.domain.usage import Usage

BASE_MICROS_PER_OUTPUT_TOKEN = 250_000
# 10,000 %.
PROFIT_BASIS_POINTS_MAX = 1_000_000
# No run may cost more than a wallet can hold, so that its cost too stays exact in a double.
COST_MICROS_MAX = BALANCE_MICROS_MAX


@dataclass(frozen=True, slots=True)
class ProfitRule:
    """A percentage for a feature endpoint, a model, both, or everything (neither named), from a moment on."""

    id: int
    basis_points: int
    effective_from: datetime
    feature_endpoint_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """The cost of one run in micro-tokens, and what it follows from. The wallet pays `cost_micros`.

    The price is pinned whole when an end is accepted: settlement only adds up and computes no price.
    """

    base_micros: int
    profit_micros: int
    price_id: int | None = None
    profit_rule_id: int | None = None

    @property
    def cost_micros(self) -> int:
        return self.base_micros + self.profit_micros


def price(usage: Usage, card: RateCard | None, rule: ProfitRule | None) -> Price:
    """Price a run by the rate card and the profit rule in force, where there are any."""
    base_micros = usage.output_tokens * BASE_MICROS_PER_OUTPUT_TOKEN if card is None else card.rates.cost_micros(usage)
    return Price(
        base_micros=base_micros,
        profit_micros=0 if rule is None else profit_micros(base_micros, rule.basis_points),
        price_id=None if card is None else card.id,
        profit_rule_id=None if rule is None else rule.id,
    )


def profit_micros(base_micros: int, basis_points: int) -> int:
    return -(-base_micros * basis_points // 10_000)


def parts_micros(usage: Usage, card: RateCard | None) -> Mapping[Kind, int]:
    """What each kind of a run's usage costs, before profit."""
    if card is None:
        return {Kind.OUTPUT: usage.output_tokens * BASE_MICROS_PER_OUTPUT_TOKEN}
    return card.rates.parts_micros(usage)


def percentage_number(basis_points: int) -> int | Decimal:
    """The JSON number of a percentage: 10, 12.5, 0.25."""
    whole, rest = divmod(basis_points, 100)
    return whole if rest == 0 else Decimal(f"{basis_points}E-2").normalize()
