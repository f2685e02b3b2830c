"""What a new price list would change: price by price, against what each model costs today."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from app.domain.rates import Kind, RateCard, Rates

JUMP_PERCENT = 50
CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class RateChange:
    """The change of one kind's price, for runs with more input than `above_input_tokens`: micro-tokens for a million
    tokens, or for a request.
    """

    kind: Kind
    above_input_tokens: int
    old_micros: int
    new_micros: int

    @property
    def percent(self) -> Decimal | None:
        """The change in percent, with two decimals. None where the old price is 0: no percentage expresses that."""
        if self.old_micros == 0:
            return None
        change = Decimal(100 * (self.new_micros - self.old_micros)) / self.old_micros
        return change.quantize(CENT, ROUND_HALF_UP)

    @property
    def is_jump(self) -> bool:
        """Whether the price rises or falls by more than half, or rises from 0."""
        return 100 * abs(self.new_micros - self.old_micros) > JUMP_PERCENT * self.old_micros


@dataclass(frozen=True, slots=True)
class PriceChange:
    """A model's new price beside the card that prices it today: its own card, or one that covers it."""

    model: str
    rates: Rates
    today: RateCard | None
    changes: tuple[RateChange, ...]
    # The model has no price of its own yet.
    is_new: bool

    @property
    def is_jump(self) -> bool:
        return any(change.is_jump for change in self.changes)


@dataclass(frozen=True, slots=True)
class Difference:
    """`kept` are prices of the same scope that the list doesn't have: they stay in force."""

    changed: tuple[PriceChange, ...]
    new: tuple[PriceChange, ...]
    unchanged_count: int
    kept: tuple[RateCard, ...]

    @property
    def proposed(self) -> tuple[PriceChange, ...]:
        return self.changed + self.new

    @property
    def jumps(self) -> tuple[PriceChange, ...]:
        return tuple(change for change in self.proposed if change.is_jump)


def difference(
    listed: Iterable[tuple[str, Rates]],
    *,
    own: Iterable[RateCard],
    today: Callable[[str], RateCard | None],
) -> Difference:
    """Compare a list with the cards in force. `own` are the cards of the list's scope; `today` returns the card that
    prices a model, or a pattern's models, now.
    """
    own_by_model = {card.model: card for card in own}
    changed, new = [], []
    unchanged = 0
    names = set()
    for model, rates in listed:
        names.add(model)
        card = own_by_model.get(model) or today(model)
        changes = () if card is None else rate_changes(card.rates, rates)
        change = PriceChange(model, rates, card, changes, is_new=model not in own_by_model)
        if change.is_new:
            new.append(change)
        elif change.changes:
            changed.append(change)
        else:
            unchanged += 1
    kept = tuple(card for model, card in own_by_model.items() if model not in names)
    return Difference(tuple(changed), tuple(new), unchanged, kept)


# The kind whose price applies where a card doesn't name a price for this kind.
_WHOLES = {Kind.CACHED_INPUT: Kind.INPUT, Kind.CACHE_WRITE: Kind.INPUT, Kind.REASONING: Kind.OUTPUT}


def rate_changes(old: Rates, new: Rates) -> tuple[RateChange, ...]:
    """Changes by kind and length of input. Two cards that price every run the same have no changes, however they are
    written.

    A change that a kind shares with its whole (cached input with input), or a longer run with a shorter one, is listed
    once.
    """
    changes: list[RateChange] = []
    previous: dict[Kind, tuple[int, int]] = {}
    lengths = sorted({0} | {tier.above_input_tokens for rates in (old, new) for tier in rates.tiers})
    for above in lengths:
        before, after = old.by_kind(above + 1), new.by_kind(above + 1)
        pairs = {kind: (before[kind], after[kind]) for kind in Kind}
        changes += [
            RateChange(kind, above, *pair)
            for kind, pair in pairs.items()
            if pair[0] != pair[1]
            and pair != previous.get(kind)
            and not (kind in _WHOLES and pair == pairs[_WHOLES[kind]])
        ]
        previous = pairs
    return tuple(changes)
