"""The result of reading a price list, in any format: prices, what was left out and why, or why the list is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

from app.domain.errors import PriceListRefused
from app.domain.inputs import ID_LENGTH_MAX, identifier
from app.domain.pricing import COST_MICROS_MAX
from app.domain.rates import TIERS_MAX, Rates, Tier
from app.domain.usage import USAGE_TOKENS_MAX

PROBLEMS_MAX = 100
SHOWN_LENGTH_MAX = 300
# Every real price has fewer digits than this and is above 10^-30 dollars. Anything else is a mistake or an attack.
DIGITS_MAX = 40
EXPONENT_MIN, EXPONENT_MAX = -30, 12
DOLLARS_MAX = Decimal(100_000)
# How a dated id continues the name of its family: gpt-5-2025-08-07, claude-sonnet-4-5-20250929. A shorter suffix, such
# as "-2*", would also match gpt-oss-20b as a dated id of gpt-oss.
DATED_SUFFIX = "-202*"
_DATED = re.compile(r"[-@]\d{4}-?\d{2}(-?\d{2})?$")


class Format(StrEnum):
    LITELLM = "litellm"
    MODELS_DEV = "models.dev"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a list to import; an empty one selects all. Rows that aren't selected aren't even checked."""

    providers: tuple[str, ...] = ()
    # Exact ids, or prefixes of ids followed by a star, as in rate cards.
    models: tuple[str, ...] = ()
    excluded_models: tuple[str, ...] = ()
    # Import `gemini/gemini-2.5-pro` as `gemini-2.5-pro`, the name that the provider's own clients use.
    strips_provider: bool = False
    # Let each model's price hold for its dated ids too, unless they have a price of their own.
    with_dated: bool = True

    def has_provider(self, provider: object) -> bool:
        return not self.providers or provider in self.providers

    def has_model(self, *names: str) -> bool:
        """Whether a model is selected by any of its names (with and without its provider)."""
        is_wanted = not self.models or _is_one_of(names, self.models)
        return is_wanted and not _is_one_of(names, self.excluded_models)


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """`rounded` names the fields whose price isn't a whole number of micro-tokens for a million."""

    model: str
    rates: Rates
    rounded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PriceList:
    prices: tuple[ListedPrice, ...]
    # Models that aren't sold by the text token -> why.
    skipped: Mapping[str, str]
    # Fields of imported models that no rate card has (batch, priority, audio ...) -> in how many models.
    passed_over: Mapping[str, int]


@dataclass
class Problems:
    """Collects what is wrong, by row. Only the first PROBLEMS_MAX rows are named; all problems are counted."""

    by_row: dict[str, list[str]] = field(default_factory=dict)
    count: int = 0

    def add(self, row: str, reason: str) -> None:
        row = shown(row)
        self.count += 1
        if row in self.by_row or len(self.by_row) < PROBLEMS_MAX:
            self.by_row.setdefault(row, []).append(reason)

    def raise_if_any(self) -> None:
        if self.count:
            named = sum(map(len, self.by_row.values()))
            more = f" (the first {named} named)" if self.count > named else ""
            plural = "" if self.count == 1 else "s"
            raise PriceListRefused(f"Price list refused: {self.count} problem{plural}{more}", errors=self.by_row)


@dataclass(slots=True)
class Reading:
    """What has been read of a list so far: prices by their rows, what was left out and why, and what is wrong."""

    found: list[tuple[str, ListedPrice]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Model -> why it isn't sold by the token."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Field that no rate card has -> how many models have it."""
    problems: Problems = field(default_factory=Problems)

    def concluded(self, selection: Selection) -> PriceList:
        """Raises PriceListRefused with the rows that are wrong."""
        prices = _collected(self.found, selection, self.problems)
        self.problems.raise_if_any()
        if not prices:
            raise PriceListRefused("Price list refused: it has no model that is sold by the token (is it this format?)")
        return PriceList(
            tuple(prices),
            {shown(model): shown(reason) for model, reason in self.skipped.items()},
            {shown(field_name): models for field_name, models in self.passed_over.items()},
        )


class Converter:
    """Converts dollars to micro-tokens for one row of a list. Adds what is wrong to `problems` under the row's name.

    The conversion is exact. A price that isn't a whole number of micro-tokens for a million tokens (or for a request)
    is rounded to the nearest, half up, and named in `rounded`; one that would become 0 is a problem.
    """

    def __init__(self, row: str, micros_per_dollar: int, problems: Problems) -> None:
        self._row = row
        self._micros_per_dollar = micros_per_dollar
        self._problems = problems
        self.rounded: list[str] = []

    def problem(self, field_name: str, reason: str) -> None:
        self._problems.add(f"{self._row}.{field_name}" if field_name else self._row, reason)

    def check(self, field_name: str, value: object) -> Decimal | None:
        """A price as the list has it. If the value can't be a price, adds a problem and returns None."""
        try:
            return _price(value)
        except ValueError as error:
            self.problem(field_name, str(error))
            return None

    def micros(self, field_name: str, value: object, *, per: int, of: int, dollars_max: Decimal = DOLLARS_MAX) -> int:
        """Convert a price in dollars for `per` units to micro-tokens for `of` units. 0 if there is a problem."""
        dollars = self.check(field_name, value)
        if not dollars:
            return 0
        if dollars > dollars_max:
            self.problem(field_name, f"More than {dollars_max} dollars for {'one' if per == 1 else 'a million'}.")
            return 0
        exact = Fraction(dollars) * self._micros_per_dollar * of / per
        micros = (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)
        if micros == 0:
            self.problem(field_name, "Would become 0 micro-tokens: too few tokens per dollar.")
        elif micros > COST_MICROS_MAX:
            self.problem(field_name, "Too large.")
            return 0
        elif micros != exact:
            self.rounded.append(field_name)
        return micros

    def rates(self, base: Mapping[str, int], tiers: Mapping[int, Mapping[str, int]]) -> Rates:
        """Rates made of a rate's name -> micro-tokens, and the same for each tier."""
        rates = Rates(
            **{"input_micros_per_million": 0, "output_micros_per_million": 0, **base},
            tiers=tuple(Tier(above, **_without_free_writes(named)) for above, named in sorted(tiers.items())),
        )
        if rates.cache_write_micros_per_million == 0:
            rates = replace(rates, cache_write_micros_per_million=None)
        if len(tiers) > TIERS_MAX:
            self.problem("", f"More than {TIERS_MAX} tiers.")
        if not all(1 <= above <= USAGE_TOKENS_MAX for above in tiers):
            self.problem("", f"A tier must begin above 1 to {USAGE_TOKENS_MAX} tokens of input.")
        if rates.cost_micros_max > COST_MICROS_MAX:
            self.problem(
                "", "Too large at so many tokens per dollar: the largest run would cost more than a wallet can hold."
            )
        return rates


def _is_one_of(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in patterns
        for name in names
    )


def _collected(found: Iterable[tuple[str, ListedPrice]], selection: Selection, problems: Problems) -> list[ListedPrice]:
    """One price for each model, from (row, price) pairs.

    Rows may have the same model (sold by two providers), but then they have to agree on its price.
    """
    by_model: dict[str, tuple[str, ListedPrice]] = {}
    for row, listed in found:
        try:
            identifier(listed.model, ID_LENGTH_MAX)
        except ValueError as error:
            problems.add(row, f"Not a model's name: {error}")
            continue
        if listed.model.endswith("*"):
            problems.add(row, "Not a model's name: ends in *.")
            continue
        first_row, first = by_model.setdefault(listed.model, (row, listed))
        if first.rates != listed.rates:
            problems.add(row, f"The same model as {first_row}, at another price: choose one, or exclude the model.")
    prices = [listed for _, listed in by_model.values()]
    if selection.with_dated:
        prices += [dated for listed in prices for dated in _dated(listed)]
    return prices


def _dated(listed: ListedPrice) -> Iterator[ListedPrice]:
    if _DATED.search(listed.model):
        return
    pattern = f"{listed.model}{DATED_SUFFIX}"
    if len(pattern) <= ID_LENGTH_MAX:
        yield replace(listed, model=pattern, rounded=())


def repeated_names(row_name: str, row: Any, problems: Problems) -> None:
    for name in getattr(row, "repeated", ()):
        problems.add(f"{row_name}.{name}" if row_name else name, "Stands here twice.")


def shown(text: str) -> str:
    """A text of the list, safe to show and to store: shortened, with unprintable characters escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:SHOWN_LENGTH_MAX]
    )


def _price(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ValueError("Must be a number.")  # noqa: TRY004
    if isinstance(value, int) and abs(value) >= 10**EXPONENT_MAX:
        raise ValueError("Too large.")
    dollars = Decimal(value)
    if not dollars.is_finite():
        raise ValueError("Must be a finite number.")
    if dollars.is_zero():
        return Decimal(0)
    if dollars < 0:
        raise ValueError("Must not be negative.")
    if dollars.adjusted() >= EXPONENT_MAX:
        raise ValueError("Too large.")
    if dollars.adjusted() < EXPONENT_MIN or len(dollars.as_tuple().digits) > DIGITS_MAX:
        raise ValueError("Finer than any price.")
    return dollars


def _without_free_writes(named: Mapping[str, int]) -> dict[str, int]:
    return {name: micros for name, micros in named.items() if (name, micros) != ("cache_write_micros_per_million", 0)}
