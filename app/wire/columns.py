"""The columns of lists where they are answered as tables: the names of `answers`, and what each holds."""

from __future__ import annotations

from app.domain.tables import Kind
from app.wire.prices import RATE_FIELDS

FEATURES = {
    "id": Kind.TEXT,
    "name": Kind.TEXT,
    "min_token": Kind.AMOUNT,
    "unpriced": Kind.WORD,
    "reversal_seconds": Kind.COUNT,
}
PACKAGES = {"id": Kind.TEXT, "name": Kind.TEXT, "feature_endpoint_ids": Kind.TEXT}
PROFIT_RULES = {
    "id": Kind.COUNT,
    "percentage": Kind.AMOUNT,
    "feature_endpoint_id": Kind.TEXT,
    "model": Kind.TEXT,
    "effective_from": Kind.MOMENT,
}
PRICES = {
    "id": Kind.COUNT,
    "feature_endpoint_id": Kind.TEXT,
    "model": Kind.TEXT,
    "effective_from": Kind.MOMENT,
    **dict.fromkeys(RATE_FIELDS, Kind.AMOUNT),
    "tiers": Kind.TEXT,
}
PRICE_IMPORTS = {
    "id": Kind.COUNT,
    "state": Kind.WORD,
    "format": Kind.WORD,
    "tokens_per_dollar": Kind.AMOUNT,
    "feature_endpoint_id": Kind.TEXT,
    "effective_from": Kind.MOMENT,
    "counts": Kind.TEXT,
    "actor": Kind.TEXT,
    "created_at": Kind.MOMENT,
    "approved_by": Kind.TEXT,
    "approved_at": Kind.MOMENT,
}
REPRICINGS = {
    "id": Kind.COUNT,
    "state": Kind.WORD,
    "price_id": Kind.COUNT,
    "feature_endpoint_id": Kind.TEXT,
    "model": Kind.TEXT,
    "user_id": Kind.TEXT,
    "from": Kind.MOMENT,
    "to": Kind.MOMENT,
    "reason": Kind.TEXT,
    "reference": Kind.TEXT,
    "actor": Kind.TEXT,
    "created_at": Kind.MOMENT,
    "runs": Kind.COUNT,
    "old_cost": Kind.AMOUNT,
    "new_cost": Kind.AMOUNT,
    "amended": Kind.COUNT,
    "unchanged": Kind.COUNT,
    "refused": Kind.COUNT,
    "by_user_and_model": Kind.TEXT,
}
WALLETS = {
    "user_id": Kind.TEXT,
    "status": Kind.WORD,
    "package_id": Kind.TEXT,
    "token": Kind.AMOUNT,
    "posted_token": Kind.AMOUNT,
    "pending_token": Kind.AMOUNT,
    "debt_token": Kind.AMOUNT,
    "held_token": Kind.AMOUNT,
    "overdraft_limit_token": Kind.AMOUNT,
}
HOLDS = {"process_id": Kind.TEXT, "hold_token": Kind.AMOUNT, "expires_at": Kind.MOMENT}
FAILED_ENDS = {
    "id": Kind.WORD,
    "user_id": Kind.TEXT,
    "kind": Kind.WORD,
    "corrects": Kind.WORD,
    "reference": Kind.TEXT,
    "feature_endpoint_id": Kind.TEXT,
    "cost": Kind.AMOUNT,
    "state": Kind.WORD,
    "attempts": Kind.COUNT,
    "next_attempt_at": Kind.MOMENT,
    "last_error": Kind.TEXT,
    "accepted_at": Kind.MOMENT,
}
