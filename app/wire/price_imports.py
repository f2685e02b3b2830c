"""What administrators get to see of an import of prices."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from app.domain.amounts import token_number
from app.domain.moments import moment_text
from app.domain.price_changes import RateChange
from app.domain.rates import Kind
from app.stores.postgres.price_imports import PriceImport, PriceImportHead, stored_rates
from app.wire.prices import rates_answer

Answer = dict[str, Any]

_COUNTS = ("changed", "new", "jumps", "unchanged", "kept", "skipped", "rounded", "free")
_FIELD_OF_KIND = {
    Kind.INPUT: "input_per_million",
    Kind.CACHED_INPUT: "cached_input_per_million",
    Kind.CACHE_WRITE: "cache_write_per_million",
    Kind.OUTPUT: "output_per_million",
    Kind.REASONING: "reasoning_per_million",
    Kind.REQUESTS: "per_request",
}


def price_import_head_answer(found: PriceImportHead) -> Answer:
    return {
        "id": found.id,
        "state": found.state,
        "format": found.format,
        "tokens_per_dollar": token_number(found.micros_per_dollar),
        "feature_endpoint_id": found.feature_endpoint_id,
        "effective_from": _moment_or_none(found.effective_from),
        "counts": {name: found.counts[name] for name in _COUNTS},
        "actor": found.actor,
        "created_at": moment_text(found.created_at),
        "approved_by": found.approved_by,
        "approved_at": _moment_or_none(found.approved_at),
    }


def price_import_answer(found: PriceImport) -> Answer:
    price_ids: list[int] | list[None] = found.price_ids or [None] * len(found.proposed)
    rows = [_price_answer(row, price_id) for row, price_id in zip(found.proposed, price_ids, strict=True)]
    report = found.report
    return {
        **price_import_head_answer(found),
        "changed": [row for row, proposed in zip(rows, found.proposed, strict=True) if not proposed["is_new"]],
        "new": [row for row, proposed in zip(rows, found.proposed, strict=True) if proposed["is_new"]],
        **{name: report[name] for name in ("kept", "skipped", "rounded", "free")},
        # The most frequent first.
        "passed_over": dict(sorted(report["passed_over"].items(), key=lambda item: (-item[1], item[0]))),
        "usage": _usage_answer(report["usage"]),
    }


def _price_answer(row: Mapping[str, Any], price_id: int | None) -> Answer:
    return {
        "model": row["model"],
        # Once it is approved.
        "price_id": price_id,
        # What prices the model without it.
        "today_price_id": row["today_id"],
        "jump": row["is_jump"],
        **rates_answer(stored_rates(row["rates"])),
        "changes": [
            _change_answer(RateChange(**{**change, "kind": Kind(change["kind"])})) for change in row["changes"]
        ],
    }


def _change_answer(change: RateChange) -> Answer:
    return {
        "kind": _FIELD_OF_KIND[change.kind],
        "above_input_token": change.above_input_tokens,
        "old": token_number(change.old_micros),
        "new": token_number(change.new_micros),
        "percent": _plain(change.percent),
        "jump": change.is_jump,
    }


def _usage_answer(usage: Mapping[str, Any]) -> Answer:
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


def _effect_answer(effect: Mapping[str, Any]) -> Answer:
    return {
        "runs": effect["runs"],
        "old_cost": token_number(effect["old_cost_micros"]),
        "new_cost": token_number(effect["new_cost_micros"]),
    }


def _plain(percent: Decimal | None) -> int | Decimal | None:
    """12.5, not 12.50; 25, not 25.00."""
    if percent is None:
        return None
    whole = int(percent)
    return whole if percent == whole else percent.normalize()


def _moment_or_none(moment: Any) -> str | None:
    return None if moment is None else moment_text(moment)
