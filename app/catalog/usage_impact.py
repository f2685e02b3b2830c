"""What the runs of the last days would have cost at other prices: old and new cost, by model and by user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from app.domain.catalog import Catalog
from app.domain.in_force import RateCards
from app.domain.pricing import BASE_MICROS_PER_OUTPUT_TOKEN, ProfitRule, profit_micros
from app.domain.rates import RateCard
from app.domain.usage import Usage
from app.stores.postgres.price_imports import UsageSum

# How many entries one statement reads. It takes tens of milliseconds, so that nothing else waits for it.
ENTRIES_PER_STATEMENT = 50_000
# The order of entries' ids and that of their times may differ by as long as a transaction takes.
SPARE = timedelta(hours=1)


class PastUsage(Protocol):
    """The usage of runs in the ledger."""

    def entries_since(self, since: datetime) -> tuple[int, int]:
        """The ids of the first and the last entry since about this moment. Raises Unavailable."""

    def sums(
        self, first_id: int, last_id: int, *, since: datetime, lengths: Sequence[int], models: Sequence[str]
    ) -> Sequence[UsageSum]:
        """Usage added up by wallet, feature, model and length of input. Raises Unavailable."""


@dataclass(slots=True)
class Effect:
    """Costs, profit included, of the runs of a model or a user whose price would change."""

    runs: int = 0
    old_cost_micros: int = 0
    new_cost_micros: int = 0

    def add(self, runs: int, old_cost_micros: int, new_cost_micros: int) -> None:
        self.runs += runs
        self.old_cost_micros += old_cost_micros
        self.new_cost_micros += new_cost_micros


@dataclass(frozen=True, slots=True)
class Impact:
    """The effect of proposed prices on past usage. Old costs are by the prices in force now, not by those that the runs
    were billed by, so that the difference comes from the proposed prices alone.

    Usage is added up before it is priced, so a cost may be lower than the sum of its runs' costs, by less than one
    micro-token per run.
    """

    since: datetime
    until: datetime
    total: Effect = field(default_factory=Effect)
    # (feature endpoint, model) -> effect
    by_model: dict[tuple[str, str | None], Effect] = field(default_factory=dict)
    by_user: dict[str, Effect] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Cards:
    old: RateCard | None
    new: RateCard | None
    rule: ProfitRule | None

    @property
    def is_change(self) -> bool:
        return (self.old is None) != (self.new is None) or (
            self.old is not None and self.new is not None and self.old.rates != self.new.rates
        )


def usage_impact(
    past: PastUsage,
    *,
    today: Catalog,
    proposed: Sequence[RateCard],
    since: datetime,
    until: datetime,
    at: datetime,
) -> Impact:
    """Price the ledger's usage since a moment by the prices of `today`, and by those with the `proposed` ones added,
    both as in force at the moment `at`. Raises Unavailable.
    """
    impact = Impact(since, until)
    models = [card.model for card in proposed if card.model is not None]
    if not models:
        return impact
    as_proposed = RateCards([*today.rate_cards, *proposed])
    lengths = sorted({tier.above_input_tokens for card in as_proposed for tier in card.rates.tiers})
    cards: dict[tuple[str, str | None], _Cards] = {}
    for sums in _slices(past, since, lengths, models):
        for found in sums:
            model = (found.feature_endpoint_id, found.model)
            if model not in cards:
                cards[model] = _Cards(
                    today.rate_cards.in_force(*model, at),
                    as_proposed.in_force(*model, at),
                    today.profit_rules.in_force(*model, at),
                )
            if cards[model].is_change:
                _add(impact, found, cards[model], lengths)
    return impact


def _slices(
    past: PastUsage, since: datetime, lengths: Sequence[int], models: Sequence[str]
) -> Iterator[Sequence[UsageSum]]:
    first, last = past.entries_since(since - SPARE)
    for start in range(first, last + 1, ENTRIES_PER_STATEMENT):
        end = min(start + ENTRIES_PER_STATEMENT - 1, last)
        yield past.sums(start, end, since=since, lengths=lengths, models=models)


def _add(impact: Impact, found: UsageSum, cards: _Cards, lengths: Sequence[int]) -> None:
    input_tokens = lengths[found.length_index - 1] + 1 if found.length_index else 0
    old = _cost_micros(cards.old, cards.rule, found.usage, input_tokens)
    new = _cost_micros(cards.new, cards.rule, found.usage, input_tokens)
    model = (found.feature_endpoint_id, found.model)
    for effect in (
        impact.total,
        impact.by_model.setdefault(model, Effect()),
        impact.by_user.setdefault(found.user_id, Effect()),
    ):
        effect.add(found.runs, old, new)


def _cost_micros(card: RateCard | None, rule: ProfitRule | None, usage: Usage, input_tokens: int) -> int:
    if card is None:
        base_micros = usage.output_tokens * BASE_MICROS_PER_OUTPUT_TOKEN
    else:
        base_micros = card.rates.cost_micros_of_many(usage, input_tokens)
    return base_micros + (0 if rule is None else profit_micros(base_micros, rule.basis_points))
