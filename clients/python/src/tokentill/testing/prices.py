"""What a run costs in `MemoryTokentill`: the server's rules, in exact integers of micro-tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from tokentill.wire import Amount

MICROS = 1_000_000
DEFAULT_MICROS_PER_OUTPUT_TOKEN = 250_000


def micros(amount: Amount) -> int:
    """Micro-tokens. Raises ValueError for more than six decimals."""
    scaled = Decimal(str(amount)) * MICROS
    if scaled != scaled.to_integral_value():
        raise ValueError(f"An amount of tokens has at most 6 decimals: {amount}")
    return int(scaled)


def tokens(amount_micros: int) -> Amount:
    """The amount as the server writes it: 989, not 989.0."""
    whole, rest = divmod(amount_micros, MICROS)
    return whole if rest == 0 else Decimal(amount_micros) / MICROS


@dataclass(frozen=True)
class RunUsage:
    """The usage of one end."""

    input_token: int
    output_token: int
    cached_input_token: int = 0
    cache_write_token: int = 0
    reasoning_token: int = 0
    requests: int = 1

    def errors(self) -> dict[str, list[str]]:
        """Why parts can't be those of their wholes, by field."""
        errors: dict[str, list[str]] = {}
        parts = {"cached_input_token": self.cached_input_token, "cache_write_token": self.cache_write_token}
        for name, part in parts.items():
            if part > self.input_token:
                errors[name] = ["Must not be more than input_token."]
        if not errors and sum(parts.values()) > self.input_token:
            errors = {name: ["Must not be more than input_token together."] for name in parts}
        if self.reasoning_token > self.output_token:
            errors["reasoning_token"] = ["Must not be more than output_token."]
        return errors


@dataclass(frozen=True)
class Rates:
    """Tokens for a million of each kind; a kind that isn't named costs what its whole costs."""

    input_per_million: Amount | None = None
    output_per_million: Amount | None = None
    cached_input_per_million: Amount | None = None
    cache_write_per_million: Amount | None = None
    reasoning_per_million: Amount | None = None
    per_request: Amount | None = None


@dataclass(frozen=True)
class Price:
    """A price for a feature, a model (exact, or ending in `*`), both, or all."""

    id: int
    rates: Rates
    feature_endpoint_id: str | None = None
    model: str | None = None
    effective_from: datetime | None = None
    # By the input above which they hold, the highest first.
    tiers: tuple[tuple[int, Rates], ...] = field(default=())

    def covers(self, feature_endpoint_id: str, model: str | None) -> bool:
        if self.feature_endpoint_id not in {None, feature_endpoint_id}:
            return False
        if self.model is None or model is None:
            return self.model is None
        return model.startswith(self.model[:-1]) if self.model.endswith("*") else model == self.model

    @property
    def specificity(self) -> tuple[bool, bool, bool, int, bool]:
        """Feature with exact model, with the longest pattern; the model alone likewise; feature; none."""
        exact = self.model is not None and not self.model.endswith("*")
        named, for_feature = self.model is not None, self.feature_endpoint_id is not None
        return (named and for_feature, exact, named, len(self.model or ""), for_feature)

    def rates_for(self, usage: RunUsage) -> Rates:
        for above, rates in self.tiers:
            if usage.input_token > above:
                return rates
        return self.rates

    def base_micros(self, usage: RunUsage) -> int:
        """The sum over all kinds, rounded up once."""
        rates = self.rates_for(usage)
        input_rate, output_rate = _rate(rates.input_per_million, 0), _rate(rates.output_per_million, 0)
        parts = (
            (usage.cached_input_token, _rate(rates.cached_input_per_million, input_rate)),
            (usage.cache_write_token, _rate(rates.cache_write_per_million, input_rate)),
            (usage.input_token - usage.cached_input_token - usage.cache_write_token, input_rate),
            (usage.reasoning_token, _rate(rates.reasoning_per_million, output_rate)),
            (usage.output_token - usage.reasoning_token, output_rate),
        )
        per_million = sum(count * rate for count, rate in parts)
        return -(-per_million // 1_000_000) + usage.requests * _rate(rates.per_request, 0)


@dataclass(frozen=True)
class ProfitRule:
    """A percentage for a feature, a model, both, or all."""

    id: int
    percentage: Amount
    feature_endpoint_id: str | None = None
    model: str | None = None

    def covers(self, feature_endpoint_id: str, model: str | None) -> bool:
        return self.feature_endpoint_id in {None, feature_endpoint_id} and self.model in {None, model}

    @property
    def specificity(self) -> int:
        return 2 * (self.feature_endpoint_id is not None) + (self.model is not None)

    def profit_micros(self, base_micros: int) -> int:
        """Rounded up once."""
        basis_points = Decimal(str(self.percentage)) * 100
        if basis_points != basis_points.to_integral_value():
            raise ValueError(f"A profit percentage has at most 2 decimals: {self.percentage}")
        return -(-base_micros * int(basis_points) // 10_000)


@dataclass(frozen=True)
class Cost:
    base_micros: int
    profit_micros: int
    price_id: int | None
    profit_rule_id: int | None = None

    @property
    def cost_micros(self) -> int:
        return self.base_micros + self.profit_micros


def cost_of(
    usage: RunUsage,
    feature_endpoint_id: str,
    model: str | None,
    prices: list[Price],
    profit_rules: list[ProfitRule],
    *,
    at: datetime,
) -> Cost:
    """By the most specific price in force, or else the guide's rule, with the most specific profit."""
    in_force = [each for each in prices if each.effective_from is None or each.effective_from <= at]
    price = _most_specific(
        sorted(in_force, key=lambda each: each.effective_from or _ALWAYS), feature_endpoint_id, model
    )
    rule = _most_specific(profit_rules, feature_endpoint_id, model)
    base = usage.output_token * DEFAULT_MICROS_PER_OUTPUT_TOKEN if price is None else price.base_micros(usage)
    profit = 0 if rule is None else rule.profit_micros(base)
    return Cost(base, profit, None if price is None else price.id, None if rule is None else rule.id)


_ALWAYS = datetime.min.replace(tzinfo=timezone.utc)


def price_from(price_id: int, said: Mapping[str, Any]) -> Price:
    """A price out of the fields that the server's admin API takes. Raises TypeError for others."""
    missing = [name for name in ("input_per_million", "output_per_million") if said.get(name) is None]
    if missing:
        raise TypeError(f"A price needs {' and '.join(missing)}")
    names = {each.name for each in fields(Rates)}
    own = {name: value for name, value in said.items() if name in names}
    tiers = [
        # A tier repeats what it changes.
        (tier["above_input_token"], Rates(**{**own, **_without(tier, "above_input_token")}))
        for tier in said.get("tiers") or ()
    ]
    about = {name: value for name, value in said.items() if name not in names and name != "tiers"}
    if isinstance(about.get("effective_from"), str):
        about["effective_from"] = datetime.fromisoformat(about["effective_from"].replace("Z", "+00:00"))
    ordered = tuple(sorted(tiers, key=lambda tier: tier[0], reverse=True))
    return Price(price_id, Rates(**own), tiers=ordered, **about)


def _without(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


def _rate(rate: Amount | None, otherwise_micros: int) -> int:
    return otherwise_micros if rate is None else micros(rate)


def _most_specific(rules: list[Any], feature_endpoint_id: str, model: str | None) -> Any:
    covering = [
        (rule.specificity, number, rule)
        for number, rule in enumerate(rules)
        if rule.covers(feature_endpoint_id, model)
    ]
    return max(covering, key=lambda each: each[:2])[2] if covering else None
