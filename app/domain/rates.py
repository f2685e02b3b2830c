"""Rate cards: what a model's maker, or you, charge for each kind of usage.

A rate is a whole number of micro-tokens for a million tokens of a kind, so a run's exact cost may have a fraction of a
micro-token. The exact sum over all kinds is rounded up once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from app.domain.usage import REQUESTS_MAX, USAGE_TOKENS_MAX, Usage

MILLION = 1_000_000
TIERS_MAX = 10

T = TypeVar("T")


class Kind(StrEnum):
    """What is charged for, under the wire's names. INPUT and OUTPUT are the tokens that belong to no other kind."""

    INPUT = "input_token"
    CACHED_INPUT = "cached_input_token"
    CACHE_WRITE = "cache_write_token"
    OUTPUT = "output_token"
    REASONING = "reasoning_token"
    REQUESTS = "requests"


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates for a whole run with more input than this. A rate that is None is the same as without the tier."""

    above_input_tokens: int
    input_micros_per_million: int | None = None
    output_micros_per_million: int | None = None
    cached_input_micros_per_million: int | None = None
    cache_write_micros_per_million: int | None = None
    reasoning_micros_per_million: int | None = None
    request_micros: int | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-tokens for a million tokens of each kind, and for a request. A kind without a rate costs what the kind that
    it is part of costs (cached input and cache writes: input; reasoning: output). Tiers are ordered by their input,
    each once.
    """

    input_micros_per_million: int
    output_micros_per_million: int
    cached_input_micros_per_million: int | None = None
    cache_write_micros_per_million: int | None = None
    reasoning_micros_per_million: int | None = None
    request_micros: int | None = None
    tiers: tuple[Tier, ...] = ()

    def cost_micros(self, usage: Usage) -> int:
        """The cost of a run: exact, then rounded up once."""
        micro_millionths = sum(amount for _, amount in self._charges(usage, usage.input_tokens))
        return -(-micro_millionths // MILLION)

    def cost_micros_of_many(self, total: Usage, input_tokens: int) -> int:
        """The cost of the summed usage of many runs with about this much input each: exact, then rounded up once for
        all of them.
        """
        return -(-sum(amount for _, amount in self._charges(total, input_tokens)) // MILLION)

    def parts_micros(self, usage: Usage) -> dict[Kind, int]:
        """What each kind costs in a run. Each part differs from the exact one by less than a micro-token, and the parts
        add up to the run's cost: what rounding up adds to one part is taken off the next ones.
        """
        parts: dict[Kind, int] = {}
        exact = charged = 0
        for kind, amount in self._charges(usage, usage.input_tokens):
            exact += amount
            parts[kind] = -(-exact // MILLION) - charged
            charged += parts[kind]
        return parts

    @property
    def cost_micros_max(self) -> int:
        """The highest cost before profit of any run that the API accepts."""
        return max(
            -(-USAGE_TOKENS_MAX * (max(rates[:3]) + max(rates[3:5])) // MILLION) + REQUESTS_MAX * rates[5]
            for rates in (self._in_tier(None), *map(self._in_tier, self.tiers))
        )

    def by_kind(self, input_tokens: int) -> dict[Kind, int]:
        """What each kind costs in a run with this much input: micro-tokens for a million tokens, or for a request."""
        return dict(zip(Kind, self._in_tier(self._tier_of(input_tokens)), strict=True))

    def _charges(self, usage: Usage, input_tokens: int) -> Iterator[tuple[Kind, int]]:
        """Charges by kind, in millionths of a micro-token, in the tier of this much input."""
        plain, cached, written, output, reasoning, request = self._in_tier(self._tier_of(input_tokens))
        yield Kind.INPUT, usage.plain_input_tokens * plain
        yield Kind.CACHED_INPUT, usage.cached_input_tokens * cached
        yield Kind.CACHE_WRITE, usage.cache_write_tokens * written
        yield Kind.OUTPUT, usage.plain_output_tokens * output
        yield Kind.REASONING, usage.reasoning_tokens * reasoning
        yield Kind.REQUESTS, usage.requests * request * MILLION

    def _tier_of(self, input_tokens: int) -> Tier | None:
        found = None
        for tier in self.tiers:
            if input_tokens > tier.above_input_tokens:
                found = tier
        return found

    def _in_tier(self, tier: Tier | None) -> tuple[int, int, int, int, int, int]:
        """The rates in a tier, in the order of `Kind`: input, cached input, cache writes, output, reasoning,
        request.
        """
        plain = self.input_micros_per_million
        cached = self.cached_input_micros_per_million
        written = self.cache_write_micros_per_million
        output = self.output_micros_per_million
        reasoning = self.reasoning_micros_per_million
        request = self.request_micros
        if tier is not None:
            plain = _first(tier.input_micros_per_million, plain)
            cached = _first(tier.cached_input_micros_per_million, cached)
            written = _first(tier.cache_write_micros_per_million, written)
            output = _first(tier.output_micros_per_million, output)
            reasoning = _first(tier.reasoning_micros_per_million, reasoning)
            request = _first(tier.request_micros, request)
        return (
            plain,
            plain if cached is None else cached,
            plain if written is None else written,
            output,
            output if reasoning is None else reasoning,
            request or 0,
        )


@dataclass(frozen=True, slots=True)
class RateCard:
    """Rates for a feature endpoint, a model, both, or everything (neither named), from a moment on.

    `model` is an exact id, or the beginning of ids followed by a `*`.
    """

    id: int
    rates: Rates
    feature_endpoint_id: str | None
    model: str | None
    effective_from: datetime

    @property
    def is_pattern(self) -> bool:
        return self.model is not None and self.model.endswith("*")

    def covers_model(self, model: str | None) -> bool:
        if self.model is None:
            return True
        if model is None:
            return False
        return model.startswith(self.model[:-1]) if self.is_pattern else model == self.model


def _first(named: int | None, otherwise: T) -> int | T:
    return otherwise if named is None else named
