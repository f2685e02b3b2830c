"""What a run costs: `output_token / 4 * (1 + profit percentage / 100)`, in exact integers.

A profit percentage has at most two decimals, so it is a whole number of basis points, and a cost is always a
whole number of micro-tokens: nothing here rounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

BASE_MICROS_PER_OUTPUT_TOKEN = 250_000
# The highest profit is 10,000 %. With the highest usage it makes 2.525e15 micro-tokens, within exact doubles.
PROFIT_BASIS_POINTS_MAX = 1_000_000
USAGE_TOKENS_MAX = 100_000_000


@dataclass(frozen=True, slots=True)
class ProfitRule:
    """A percentage for a feature endpoint, a model, both, or (neither named) everything, from a moment on."""

    id: int
    basis_points: int
    effective_from: datetime
    feature_endpoint_id: str | None = None
    model: str | None = None

    @property
    def specificity(self) -> int:
        return (2 if self.feature_endpoint_id is not None else 0) + (1 if self.model is not None else 0)

    def covers(self, feature_endpoint_id: str, model: str | None) -> bool:
        return self.feature_endpoint_id in (None, feature_endpoint_id) and self.model in (None, model)


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-tokens of one run, and the rule that they follow from. `cost_micros` is what the wallet pays.

    It is pinned whole when an end is accepted: whoever bills it later adds up, and computes no price.
    """

    base_micros: int
    profit_micros: int
    profit_rule_id: int | None = None

    @property
    def cost_micros(self) -> int:
        return self.base_micros + self.profit_micros


def price(output_tokens: int, rule: ProfitRule | None) -> Price:
    """Price a run's output tokens under the profit rule in force, if there is one."""
    return Price(
        base_micros=output_tokens * BASE_MICROS_PER_OUTPUT_TOKEN,
        profit_micros=0 if rule is None else output_tokens * rule.basis_points * 25,
        profit_rule_id=None if rule is None else rule.id,
    )


def rule_in_force(
    rules: Iterable[ProfitRule], feature_endpoint_id: str, model: str | None, at: datetime
) -> ProfitRule | None:
    """The most specific rule that covers a run: feature and model, feature, model, default.

    Among equally specific ones the latest that has taken effect; among those of one moment the last made.
    None when no rule covers it: such a run is sold at its base cost.
    """
    return max(
        (rule for rule in rules if rule.effective_from <= at and rule.covers(feature_endpoint_id, model)),
        key=lambda rule: (rule.specificity, rule.effective_from, rule.id),
        default=None,
    )


def percentage_number(basis_points: int) -> int | Decimal:
    """The JSON number of a percentage: 10, 12.5, 0.25."""
    whole, rest = divmod(basis_points, 100)
    return whole if rest == 0 else Decimal(f"{basis_points}E-2").normalize()
