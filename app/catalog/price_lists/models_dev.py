"""models.dev's `api.json`: an object of providers, each with its models, and dollars for a million tokens in `cost`.

Read are `input`, `output`, `cache_read`, `cache_write`, `reasoning`, and of longer contexts `tiers`, or where there are
none `context_over_200k`. Audio has no place in a rate card: it is passed over, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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

_RATES = {
    "input": "input_micros_per_million",
    "output": "output_micros_per_million",
    "cache_read": "cached_input_micros_per_million",
    "cache_write": "cache_write_micros_per_million",
    "reasoning": "reasoning_micros_per_million",
}
_AUDIO = ("input_audio", "output_audio")
_TIERS, _OVER_200K = "tiers", "context_over_200k"


def read(document: Mapping[str, Any], selection: Selection, micros_per_dollar: int, reading: Reading) -> None:
    for row, model, entry in _entries(document, selection, reading.problems):
        cost = entry.get("cost")
        reason = _why_not_by_token(entry)
        if reason is not None:
            reading.skipped[row] = reason
        elif not isinstance(cost, dict):
            reading.problems.add(f"{row}.cost", "Must be an object.")
        else:
            repeated_names(f"{row}.cost", cost, reading.problems)
            converter = Converter(f"{row}.cost", micros_per_dollar, reading.problems)
            reading.found.append((row, _price(model, cost, converter, reading.passed_over)))


def _entries(
    document: Mapping[str, Any], selection: Selection, problems: Problems
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for provider_id, provider in document.items():
        if not selection.has_provider(provider_id):
            continue
        models = provider.get("models") if isinstance(provider, dict) else None
        if not isinstance(models, dict):
            problems.add(provider_id, "Must be a provider with `models`, an object.")
            continue
        repeated_names(provider_id, models, problems)
        for model, entry in models.items():
            if not selection.has_model(model, f"{provider_id}/{model}"):
                continue
            row = f"{provider_id}/{model}"
            if isinstance(entry, dict):
                repeated_names(row, entry, problems)
                yield row, model, entry
            else:
                problems.add(row, "Must be an object.")


def _why_not_by_token(entry: Mapping[str, Any]) -> str | None:
    modalities = entry.get("modalities")
    output = modalities.get("output") if isinstance(modalities, dict) else None
    if isinstance(output, list) and "text" not in output:
        return f"its output is {', '.join(map(str, output))[:40]}"
    return "no price" if entry.get("cost") is None else None


def _price(model: str, cost: Mapping[str, Any], converter: Converter, passed_over: Counter[str]) -> ListedPrice:
    base = _named(cost, "", converter)
    for name in ("input", "output"):
        if _RATES[name] not in base:
            converter.problem(name, "Is absent.")
    tiers: dict[int, dict[str, int]] = {}
    if cost.get(_TIERS) is not None:
        # `context_over_200k` only repeats a tier, even one that begins at 272,000, for clients that can't read tiers.
        _read_tiers(cost[_TIERS], tiers, converter)
    elif isinstance(over := cost.get(_OVER_200K), dict):
        tiers[200_000] = _named(over, f"{_OVER_200K}.", converter)
    elif over is not None:
        converter.problem(_OVER_200K, "Must be an object.")
    for name, value in cost.items():
        if name in _AUDIO:
            converter.check(name, value)
            passed_over[name] += 1
        elif name not in _RATES and name not in (_TIERS, _OVER_200K):
            converter.problem(name, "Unknown: no one can tell what it is charged for.")
    return ListedPrice(model, converter.rates(base, tiers), tuple(converter.rounded))


def _named(cost: Mapping[str, Any], prefix: str, converter: Converter) -> dict[str, int]:
    return {
        rate: converter.micros(f"{prefix}{name}", cost[name], per=MILLION, of=MILLION)
        for name, rate in _RATES.items()
        if cost.get(name) is not None
    }


def _read_tiers(listed: object, tiers: dict[int, dict[str, int]], converter: Converter) -> None:
    if not isinstance(listed, list):
        converter.problem(_TIERS, "Must be a list.")
        return
    for place, each in enumerate(listed):
        field = f"{_TIERS}.{place}"
        tier = each.get("tier") if isinstance(each, dict) else None
        size = tier.get("size") if isinstance(tier, dict) and tier.get("type") == "context" else None
        if isinstance(size, bool) or not isinstance(size, int) or size in tiers:
            converter.problem(field, "Must be a tier by length of context, each length once.")
        else:
            tiers[size] = _named(each, f"{field}.", converter)
