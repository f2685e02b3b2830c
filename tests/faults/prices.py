"""What runs must cost by the price and the profit rule pinned with them, computed independently here.

Prices and rules are added while ends run, so nobody knows beforehand which of them an end meets. The row names them:
they have to cover the run, and the amounts have to follow from them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

import psycopg

from tests.faults.book import Book, PricedEnd, Violation

# The models that priced ends name. Some are covered only by a pattern.
MODELS = ("priced-0", "priced-1", "priced-1-mini", "priced-2")
SCOPES = ("priced-0", "priced-1*", "priced-*")
RATE_MICROS_MAX = 200_000_000_000
USAGE_COLUMNS = (
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "requests",
)  # fmt: skip
_RATE_COLUMNS = (
    "input_micros_per_million",
    "output_micros_per_million",
    "cached_input_micros_per_million",
    "cache_write_micros_per_million",
    "reasoning_micros_per_million",
    "request_micros",
)
BILL_COLUMNS = ("model", "price_id", "profit_rule_id", "base_cost_micros", "profit_micros", *USAGE_COLUMNS)


@dataclass(frozen=True, slots=True)
class Bill:
    """What a row of the ledger or the inbox says about a run and its cost."""

    model: str | None
    price_id: int | None
    rule_id: int | None
    base_micros: int
    profit_micros: int
    usage: tuple[int, ...]

    @property
    def cost_micros(self) -> int:
        return self.base_micros + self.profit_micros


@dataclass(slots=True)
class Tariff:
    """All existing prices and profit rules, by id."""

    prices: dict[int, dict[str, Any]] = field(default_factory=dict)
    rules: dict[int, tuple[int, str | None]] = field(default_factory=dict)


def read_tariff(connection: psycopg.Connection[Any]) -> Tariff:
    tariff = Tariff()
    columns = ("id", "model", "tiers", *_RATE_COLUMNS)
    for row in connection.execute(f"SELECT {', '.join(columns)} FROM prices"):
        named = dict(zip(columns, row, strict=True))
        tariff.prices[named["id"]] = named
    for rule_id, basis_points, model in connection.execute("SELECT id, basis_points, model FROM profit_rules"):
        tariff.rules[rule_id] = (basis_points, model)
    return tariff


def bill_of(values: tuple[Any, ...]) -> Bill | None:
    """A bill from the values of BILL_COLUMNS; None for an entry that bills no run."""
    model, price_id, rule_id, base, profit, *usage = values
    return None if base is None else Bill(model, price_id, rule_id, base, profit, tuple(usage))


def wrong_amounts(bill: Bill, tariff: Tariff) -> str | None:
    """Why a bill doesn't follow from the price and rule that it names; None if it does."""
    if bill.price_id is None:
        base = Fraction(bill.usage[1] * 250_000)
    elif (price := tariff.prices.get(bill.price_id)) is None:
        return f"price {bill.price_id} doesn't exist"
    elif not _covers(price["model"], bill.model):
        return f"price {bill.price_id} is for {price['model']}, the run had {bill.model}"
    else:
        base = _base(price, bill.usage)
    if bill.base_micros != ceil(base):
        return f"base {bill.base_micros} isn't {base} by price {bill.price_id}"
    basis_points, model = tariff.rules.get(bill.rule_id or 0, (0, None))
    if model is not None and model != bill.model:
        return f"rule {bill.rule_id} is for {model}, the run had {bill.model}"
    if bill.profit_micros != ceil(Fraction(bill.base_micros * basis_points, 10_000)):
        return f"profit {bill.profit_micros} isn't {basis_points} basis points of {bill.base_micros}"
    return None


def check_bill(book: Book, key: str | None, bill: Bill | None, tariff: Tariff) -> Iterator[Violation]:
    """Check a row against the price and rule that it names and, for a priced end, against what its client sent and was
    told.
    """
    if bill is None:
        return
    if (reason := wrong_amounts(bill, tariff)) is not None:
        yield Violation("price", f"{key} is billed as {bill}: {reason}", key)
    end = book.ends.get(key or "")
    if isinstance(end, PricedEnd):
        if (bill.model, bill.usage) != (end.model, end.usage):
            yield Violation("price", f"{key} was sent as {end.model} {end.usage}, and stands as {bill}", key)
        if end.told_micros and bill.cost_micros not in end.told_micros:
            yield Violation("price", f"{key} was told {end.told_micros} micros, and stands as {bill}", key)


def new_price(rng: random.Random) -> dict[str, Any]:
    """The body of a new price."""

    def rate() -> float:
        return rng.randint(0, RATE_MICROS_MAX) / 1_000_000

    price: dict[str, Any] = {"model": rng.choice(SCOPES), "input_per_million": rate(), "output_per_million": rate()}
    for name in ("cached_input_per_million", "cache_write_per_million", "reasoning_per_million"):
        if rng.random() < 0.5:
            price[name] = rate()
    if rng.random() < 0.3:
        price["per_request"] = rng.randint(1, 2_000_000) / 1_000_000
    if rng.random() < 0.5:
        price["tiers"] = [{"above_input_token": rng.randint(0, 300), "input_per_million": rate()}]
    return price


def new_rule(rng: random.Random) -> dict[str, Any]:
    """The body of a profit rule for one model, so that the cost of runs without a price stays known."""
    return {"model": rng.choice(MODELS), "percentage": rng.randint(0, 5_000) / 100}


def new_usage(rng: random.Random) -> tuple[int, ...]:
    """In the order of USAGE_COLUMNS."""
    input_tokens, output_tokens = rng.randint(0, 400), rng.randint(1, 400)
    cached = rng.randint(0, input_tokens)
    written = rng.randint(0, input_tokens - cached)
    return input_tokens, output_tokens, cached, written, rng.randint(0, output_tokens), rng.choice([1, 1, 3])


def _covers(scope: str | None, model: str | None) -> bool:
    if scope is None:
        return True
    if model is None:
        return False
    return model.startswith(scope[:-1]) if scope.endswith("*") else model == scope


def _base(price: dict[str, Any], usage: tuple[int, ...]) -> Fraction:
    """The exact base cost in micro-tokens."""
    input_tokens, output_tokens, cached, written, reasoning, requests = usage
    rates = {name: price[name] for name in _RATE_COLUMNS}
    above = [tier for tier in price["tiers"] if input_tokens > tier["above_input_tokens"]]
    if above:
        rates |= max(above, key=lambda tier: tier["above_input_tokens"])
    plain, output, *parts, request = (rates[name] for name in _RATE_COLUMNS)
    cached_rate, written_rate, reasoning_rate = (
        whole if rate is None else rate for rate, whole in zip(parts, (plain, plain, output), strict=True)
    )
    tokens = (
        (input_tokens - cached - written) * plain
        + cached * cached_rate
        + written * written_rate
        + (output_tokens - reasoning) * output
        + reasoning * reasoning_rate
    )
    return Fraction(tokens, 1_000_000) + requests * (request or 0)
