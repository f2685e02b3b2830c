"""Answers about price imports."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, TypedDict

from app.catalog.price_lists import Format
from app.domain.amounts import token_number
from app.domain.moments import moment_text
from app.domain.price_changes import RateChange
from app.domain.rates import Kind
from app.stores.postgres.price_imports import APPROVED, PriceImport, PriceImportHead, stored_rates
from app.wire.prices import RatesAnswer, rates_answer
from app.wire.types import Count, Moment, Percent, Text, Tokens, Words

_FIELD_OF_KIND = {
    Kind.INPUT: "input_per_million",
    Kind.CACHED_INPUT: "cached_input_per_million",
    Kind.CACHE_WRITE: "cache_write_per_million",
    Kind.OUTPUT: "output_per_million",
    Kind.REASONING: "reasoning_per_million",
    Kind.REQUESTS: "per_request",
}


class CountsAnswer(TypedDict):
    changed: Count
    new: Count
    jumps: Count
    unchanged: Count
    kept: Count
    skipped: Count
    rounded: Count
    free: Count


class PriceImportHeadAnswer(TypedDict):
    id: Count
    state: Annotated[str, Words(("draft", APPROVED))]
    format: Annotated[str, Words(Format)]
    tokens_per_dollar: Tokens
    feature_endpoint_id: Text | None
    effective_from: Annotated[Moment | None, "null: from the approval on."]
    counts: CountsAnswer
    actor: Text | None
    created_at: Moment
    approved_by: Text | None
    approved_at: Moment | None


def price_import_head_answer(found: PriceImportHead) -> PriceImportHeadAnswer:
    return {
        "id": found.id,
        "state": found.state,
        "format": found.format,
        "tokens_per_dollar": token_number(found.micros_per_dollar),
        "feature_endpoint_id": found.feature_endpoint_id,
        "effective_from": _moment_or_none(found.effective_from),
        "counts": {
            "changed": found.counts["changed"],
            "new": found.counts["new"],
            "jumps": found.counts["jumps"],
            "unchanged": found.counts["unchanged"],
            "kept": found.counts["kept"],
            "skipped": found.counts["skipped"],
            "rounded": found.counts["rounded"],
            "free": found.counts["free"],
        },
        "actor": found.actor,
        "created_at": moment_text(found.created_at),
        "approved_by": found.approved_by,
        "approved_at": _moment_or_none(found.approved_at),
    }


class RateChangeAnswer(TypedDict):
    kind: Annotated[str, Words(_FIELD_OF_KIND.values())]
    above_input_token: Count
    old: Tokens
    new: Tokens
    percent: Annotated[Percent | None, "null: from nothing."]
    jump: Annotated[bool, "A change by more than half, up or down, or from 0."]


class ProposedPriceHeadAnswer(TypedDict):
    model: Text
    price_id: Annotated[Count | None, "Once it is approved."]
    today_price_id: Annotated[Count | None, "The price that covers the model without this one."]
    jump: bool


class ProposedPriceAnswer(ProposedPriceHeadAnswer, RatesAnswer):
    changes: list[RateChangeAnswer]


class KeptPriceAnswer(TypedDict):
    model: Text
    price_id: Count


class RoundedPriceAnswer(TypedDict):
    model: Text
    fields: list[Text]


class EffectAnswer(TypedDict):
    runs: Count
    old_cost: Tokens
    new_cost: Tokens


class ModelEffectAnswer(EffectAnswer):
    feature_endpoint_id: Text
    model: Text | None


class UserEffectAnswer(EffectAnswer):
    user_id: Text


# Not a class, as its field `from` is a Python keyword.
ImportUsageAnswer = TypedDict(
    "ImportUsageAnswer",
    {
        "from": Moment,
        "to": Moment,
        "runs": Count,
        "old_cost": Tokens,
        "new_cost": Tokens,
        "models": Annotated[Count, "Of how many models."],
        "users": Annotated[Count, "Of how many users."],
        "by_model": Annotated[list[ModelEffectAnswer], "The largest changes, at most 200."],
        "by_user": Annotated[list[UserEffectAnswer], "The largest changes, at most 200."],
    },
)


class PriceImportAnswer(PriceImportHeadAnswer):
    changed: Annotated[list[ProposedPriceAnswer], "Models that have another price today."]
    new: Annotated[list[ProposedPriceAnswer], "Models without a price of their own today."]
    kept: Annotated[list[KeptPriceAnswer], "Prices of models that the list doesn't contain; they stay."]
    skipped: Annotated[dict[str, Text], "Models that aren't priced by text tokens, and why."]
    rounded: Annotated[list[RoundedPriceAnswer], "Prices with more than six decimals: rounded."]
    free: Annotated[list[Text], "Models that cost nothing."]
    passed_over: Annotated[dict[str, Count], "Fields of the list that were ignored, and in how many models."]
    usage: Annotated[ImportUsageAnswer, "The effect on the last 30 days' runs."]


def price_import_answer(found: PriceImport) -> PriceImportAnswer:
    price_ids: list[int] | list[None] = found.price_ids or [None] * len(found.proposed)
    rows = [_price_answer(row, price_id) for row, price_id in zip(found.proposed, price_ids, strict=True)]
    report = found.report
    return {
        **price_import_head_answer(found),
        "changed": [row for row, proposed in zip(rows, found.proposed, strict=True) if not proposed["is_new"]],
        "new": [row for row, proposed in zip(rows, found.proposed, strict=True) if proposed["is_new"]],
        "kept": report["kept"],
        "skipped": report["skipped"],
        "rounded": report["rounded"],
        "free": report["free"],
        # The most frequent first.
        "passed_over": dict(sorted(report["passed_over"].items(), key=lambda item: (-item[1], item[0]))),
        "usage": _usage_answer(report["usage"]),
    }


def _price_answer(row: Mapping[str, Any], price_id: int | None) -> ProposedPriceAnswer:
    return {
        "model": row["model"],
        "price_id": price_id,
        "today_price_id": row["today_id"],
        "jump": row["is_jump"],
        **rates_answer(stored_rates(row["rates"])),
        "changes": [
            _change_answer(RateChange(**{**change, "kind": Kind(change["kind"])})) for change in row["changes"]
        ],
    }


def _change_answer(change: RateChange) -> RateChangeAnswer:
    return {
        "kind": _FIELD_OF_KIND[change.kind],
        "above_input_token": change.above_input_tokens,
        "old": token_number(change.old_micros),
        "new": token_number(change.new_micros),
        "percent": _plain(change.percent),
        "jump": change.is_jump,
    }


def _usage_answer(usage: Mapping[str, Any]) -> ImportUsageAnswer:
    return {
        "from": usage["since"],
        "to": usage["until"],
        **_effect_answer(usage),
        "models": usage["models"],
        "users": usage["users"],
        "by_model": [
            {"feature_endpoint_id": each["feature_endpoint_id"], "model": each["model"], **_effect_answer(each)}
            for each in usage["by_model"]
        ],
        "by_user": [{"user_id": each["user_id"], **_effect_answer(each)} for each in usage["by_user"]],
    }


def _effect_answer(effect: Mapping[str, Any]) -> EffectAnswer:
    return {
        "runs": effect["runs"],
        "old_cost": token_number(effect["old_cost_micros"]),
        "new_cost": token_number(effect["new_cost_micros"]),
    }


def _plain(percent: Decimal | None) -> int | Decimal | None:
    """A percentage without trailing zeros: 12.5 rather than 12.50, 25 rather than 25.00."""
    if percent is None:
        return None
    whole = int(percent)
    return whole if percent == whole else percent.normalize()


def _moment_or_none(moment: Any) -> str | None:
    return None if moment is None else moment_text(moment)
