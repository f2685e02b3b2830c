"""Converts the rates of a price to the fields of a form, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.console import text
from app.console.forms import Field, Kind, number, rate, whole
from app.domain import inputs
from app.domain.price_limits import RATE_MICROS_MAX, REQUEST_MICROS_MAX
from app.domain.rates import TIERS_MAX, Rates, Tier
from app.domain.usage import USAGE_TOKENS_MAX

# Field of the form -> field of `Rates` and `Tier`, and the label.
_RATES = {
    "input_per_million": ("input_micros_per_million", "Input"),
    "output_per_million": ("output_micros_per_million", "Output"),
    "cached_input_per_million": ("cached_input_micros_per_million", "Cached input"),
    "cache_write_per_million": ("cache_write_micros_per_million", "Cache writes"),
    "reasoning_per_million": ("reasoning_micros_per_million", "Reasoning"),
    "per_request": ("request_micros", "Each request"),
}
# Word in the text of a tier -> field of the form.
_WORDS = {
    "input": "input_per_million",
    "output": "output_per_million",
    "cached": "cached_input_per_million",
    "write": "cache_write_per_million",
    "reasoning": "reasoning_per_million",
    "request": "per_request",
}
_TIER = re.compile(r"above\s+(\S+)((?:\s+[a-z]+\s+\S+)+)")
TIERS_HELP = (
    "One a line, for runs with more input: above 200000 input 4000 output 12000. Also: cached, write, reasoning, "
    "request."
)


def rate_fields(*, are_required: bool) -> tuple[Field, ...]:
    """The fields of a price. `are_required`: input and output have to be given, as for a price to be made; otherwise
    the fields are those of a draft price.
    """
    fields = []
    for name, (_, label) in _RATES.items():
        is_request = name == "per_request"
        fields.append(
            Field(
                name,
                label if are_required else f"Draft price: {label[0].lower()}{label[1:]}",
                rate(REQUEST_MICROS_MAX if is_request else RATE_MICROS_MAX),
                Kind.NUMBER,
                is_required=are_required and name in ("input_per_million", "output_per_million"),
                unit="tokens" if is_request else "tokens a million",
                wire_names=(f"price.{name}",),
            )
        )
    return (
        *fields,
        Field(
            "tiers",
            "Tiers" if are_required else "Draft price: tiers",
            tiers,
            Kind.AREA,
            is_required=False,
            help=TIERS_HELP,
        ),
    )


def rates_of(values: Mapping[str, Any]) -> Rates:
    named = {name: values[field] for field, (name, _) in _RATES.items()}
    return Rates(**named, tiers=values["tiers"] or ())


def texts_of(rates: Rates) -> dict[str, str]:
    """Rates as texts of the form's fields."""
    found = {field: _typed(getattr(rates, name)) for field, (name, _) in _RATES.items()}
    return {**found, "tiers": "\n".join(map(_tier_text, rates.tiers))}


def labelled(rates: Rates | Tier) -> list[tuple[str, int | None]]:
    """Each rate with its label. None: this kind costs as much as its whole (cached input as input), or as without the
    tier.
    """
    return [(label, getattr(rates, name)) for name, label in _RATES.values()]


def tiers(typed: str) -> tuple[Tier, ...]:
    """Read tiers, one per line. Raises ValueError."""
    found = [_tier(line.strip()) for line in typed.splitlines() if line.strip()]
    if len(found) > TIERS_MAX:
        raise ValueError(f"At most {TIERS_MAX} tiers.")
    if len({tier.above_input_tokens for tier in found}) != len(found):
        raise ValueError("Each tier begins above another input.")
    return tuple(sorted(found, key=lambda tier: tier.above_input_tokens))


def _tier(line: str) -> Tier:
    found = _TIER.fullmatch(line)
    if found is None:
        raise ValueError(f"Not read: {line[:80]!r}. {TIERS_HELP}")
    above = whole(0, USAGE_TOKENS_MAX)(found[1])
    words = found[2].split()
    rates: dict[str, int] = {}
    for word, typed in zip(words[::2], words[1::2], strict=True):
        if word not in _WORDS:
            raise ValueError(f"Nothing is called {word!r}. {TIERS_HELP}")
        name = _RATES[_WORDS[word]][0]
        if name in rates:
            raise ValueError(f"{word} stands twice in a tier.")
        rates[name] = inputs.rate_micros(number(typed), REQUEST_MICROS_MAX if word == "request" else RATE_MICROS_MAX)
    return Tier(above, **rates)


def _tier_text(tier: Tier) -> str:
    parts = [f"above {tier.above_input_tokens}"]
    for word, field in _WORDS.items():
        micros = getattr(tier, _RATES[field][0])
        if micros is not None:
            parts.append(f"{word} {text.tokens(micros)}")
    return " ".join(parts)


def _typed(micros: int | None) -> str:
    return "" if micros is None else text.tokens(micros)
