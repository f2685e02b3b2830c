"""LiteLLM's `model_prices_and_context_window.json`: an object of models, with dollars for one token in each field.

Read are the standard prices of text: `input_cost_per_token`, `output_cost_per_token`, `cache_read_input_token_cost`,
`cache_creation_input_token_cost`, `output_cost_per_reasoning_token`, each also `..._above_200k_tokens` (or another
length), `input_cost_per_request`, and `tiered_pricing`. Batch, flex and priority prices, audio, images, searches and
caches that live longer have no place in a rate card: they are passed over, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from app.catalog.price_lists.listed import (
    Converter,
    ListedPrice,
    Problems,
    Reading,
    Selection,
    repeated_names,
)
from app.domain.rates import MILLION

MODES = ("chat", "completion", "responses", "embedding")
# Ten thousand dollars per million tokens. A higher price was probably given per million instead of per token.
DOLLARS_PER_TOKEN_MAX = Decimal("0.01")
# Entries of the list that aren't models.
NO_MODELS = ("sample_spec", "fallback_generalizations")

_RATES = {
    "input_cost_per_token": "input_micros_per_million",
    "output_cost_per_token": "output_micros_per_million",
    # DeepSeek's older name for the field in the next line.
    "input_cost_per_token_cache_hit": "cached_input_micros_per_million",
    "cache_read_input_token_cost": "cached_input_micros_per_million",
    "cache_creation_input_token_cost": "cache_write_micros_per_million",
    "output_cost_per_reasoning_token": "reasoning_micros_per_million",
}
_REQUEST = "input_cost_per_request"
_ABOVE = re.compile(r"(.+)_above_([0-9]{1,6})k_tokens")
_INPUT, _OUTPUT = "input_cost_per_token", "output_cost_per_token"


class _NotByToken(Exception):
    """Raised for a valid model that can't have a rate card because it isn't sold by the token."""


def read(document: Mapping[str, Any], selection: Selection, micros_per_dollar: int, reading: Reading) -> None:
    for name, entry in _entries(document, selection, reading.problems):
        mode = entry.get("mode", "chat")
        if mode not in MODES:
            reading.skipped[name] = f"mode {str(mode)[:40]}"
            continue
        others: list[str] = []
        try:
            converter = Converter(name, micros_per_dollar, reading.problems)
            reading.found.append((name, _price(_called(name, entry, selection), entry, converter, others)))
        except _NotByToken as reason:
            reading.skipped[name] = str(reason)
        else:
            reading.passed_over.update(others)


def _entries(
    document: Mapping[str, Any], selection: Selection, problems: Problems
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The selected entries, with aliases resolved."""
    for name, value in document.items():
        if name in NO_MODELS:
            continue
        entry = _resolved(value, document)
        provider = entry.get("litellm_provider") if isinstance(entry, dict) else None
        if not selection.has_provider(provider) or not selection.has_model(name, _without_provider(name, provider)):
            continue
        if isinstance(entry, dict):
            repeated_names(name, entry, problems)
            yield name, entry
        else:
            problems.add(name, "Must be an object, or stand for one of this list.")


def _resolved(value: Any, document: Mapping[str, Any]) -> Any:
    """An entry, or the entry that it is an alias of."""
    if isinstance(value, dict) and "alias_of" in value:
        target = value["alias_of"]
        return document.get(target) if isinstance(target, str) else None
    return value


def _called(name: str, entry: Mapping[str, Any], selection: Selection) -> str:
    return _without_provider(name, entry.get("litellm_provider")) if selection.strips_provider else name


def _without_provider(name: str, provider: object) -> str:
    return name.removeprefix(f"{provider}/") if isinstance(provider, str) else name


def _price(model: str, entry: Mapping[str, Any], converter: Converter, others: list[str]) -> ListedPrice:
    """Raises _NotByToken. Fields that no rate card has are added to `others`."""
    base: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for name, value in entry.items():
        if value is None or "cost" not in name:
            continue
        above = _ABOVE.fullmatch(name)
        if name == _REQUEST:
            base["request_micros"] = converter.micros(name, value, per=1, of=1)
        elif name in _RATES:
            _set(base, name, name, value, converter)
        elif above and above[1] in _RATES:
            _set(tiers.setdefault(int(above[2]) * 1_000, {}), above[1], name, value, converter)
        else:
            _check_other(name, value, converter)
            others.append(name)
    if entry.get("tiered_pricing") is not None:
        _read_ranges(entry["tiered_pricing"], base, tiers, converter)
    _check_whole(entry, base, converter)
    return ListedPrice(model, converter.rates(base, tiers), tuple(converter.rounded))


def _set(rates: dict[str, int], kind: str, field: str, value: object, converter: Converter) -> None:
    micros = converter.micros(field, value, per=1, of=MILLION, dollars_max=DOLLARS_PER_TOKEN_MAX)
    if rates.setdefault(_RATES[kind], micros) != micros:
        converter.problem(field, "Another field has another price for the same tokens.")


def _read_ranges(ranges: object, base: dict[str, int], tiers: dict[int, dict[str, int]], converter: Converter) -> None:
    """Read tiers as Alibaba writes them: all prices for each range of input tokens. The length of a run's whole input
    decides which range applies.
    """
    field = "tiered_pricing"
    if tiers or not isinstance(ranges, list) or not ranges or not all(isinstance(each, dict) for each in ranges):
        converter.problem(field, "Must be a list of ranges, and the only tiers.")
        return
    end = 0
    for each in ranges:
        bounds = each.get("range")
        if not isinstance(bounds, list) or len(bounds) != 2 or not all(map(_is_length, bounds)):
            raise _NotByToken("its tiers aren't lengths of input")
        if bounds[0] != end or bounds[1] <= end:
            converter.problem(field, "Ranges must follow each other, from 0 on.")
            return
        rates = tiers.setdefault(end, {}) if end else base
        for name, value in each.items():
            if name in _RATES and value is not None:
                _set(rates, name, f"{field}.{name}", value, converter)
        end = int(bounds[1])


def _is_length(value: object) -> bool:
    """Whether it is a whole number, which the list sometimes writes as 256000.0."""
    if isinstance(value, Decimal):
        return value.is_finite() and value.adjusted() < 10 and value == int(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _check_other(name: str, value: object, converter: Converter) -> None:
    """Check a price that no rate card has, too: a list with an invalid price isn't trusted in part."""
    if isinstance(value, dict):
        for inner, price in value.items():
            if isinstance(price, (dict, list)) or price is None:
                continue
            converter.check(f"{name}.{inner}", price)
        return
    if converter.check(name, value) is not None and "_per_" not in name and "token_cost" not in name:
        converter.problem(name, "Its unit is absent: per what?")


def _check_whole(entry: Mapping[str, Any], base: dict[str, int], converter: Converter) -> None:
    """Input and output both need a price per token; embeddings have no output."""
    if entry.get("mode") == "embedding" and _RATES[_INPUT] in base:
        base.setdefault("output_micros_per_million", 0)
    missing = [(side, name) for side, name in (("input", _INPUT), ("output", _OUTPUT)) if _RATES[name] not in base]
    if len(missing) == 2:
        raise _NotByToken("not sold by the token")
    for side, name in missing:
        if _is_sold_otherwise(entry, side):
            raise _NotByToken(f"{side} is not sold by the token")
        converter.problem(name, "Is absent.")


def _is_sold_otherwise(entry: Mapping[str, Any], side: str) -> bool:
    """Whether a side is sold by the second, the character or the picture."""
    prefix = f"{side}_cost_per_"
    return any(
        name.startswith(prefix) and not name.startswith(f"{prefix}token")
        for name, value in entry.items()
        if value is not None
    )
