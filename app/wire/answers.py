"""What administrators get to see of things: the same fields from the admin API and the command line."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from app.billing.corrections import Corrected
from app.billing.holds import HoldView
from app.billing.repricings import RepricingView
from app.domain.amounts import token_number
from app.domain.catalog import FeatureEndpoint, Package
from app.domain.moments import moment_text
from app.domain.pricing import ProfitRule, parts_micros, percentage_number
from app.domain.rates import RateCard
from app.domain.usage import Usage
from app.domain.wallets import WalletBalance
from app.stores.postgres.failed_ends import FailedEndRow
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.reconciliation import Drift, Reconciliation
from app.stores.postgres.repricings import RepricingGroup
from app.stores.redis.wallet_calls import ReleaseReply
from app.wire.prices import parts_answer

Answer = dict[str, Any]


def feature_answer(feature: FeatureEndpoint) -> Answer:
    return {
        "id": feature.id,
        "name": feature.name,
        "min_token": token_number(feature.min_micros),
        "unpriced": feature.unpriced,
        "reversal_seconds": feature.reversal_seconds,
    }


def package_answer(package: Package) -> Answer:
    return {
        "id": package.id,
        "name": package.name,
        "feature_endpoint_ids": list(package.feature_endpoint_ids),
    }


def rule_answer(rule: ProfitRule) -> Answer:
    return {
        "id": rule.id,
        "percentage": percentage_number(rule.basis_points),
        "feature_endpoint_id": rule.feature_endpoint_id,
        "model": rule.model,
        "effective_from": moment_text(rule.effective_from),
    }


def wallet_answer(found: WalletBalance) -> Answer:
    wallet, balance = found.wallet, found.balance
    return {
        "user_id": found.user_id,
        "status": wallet.status,
        "package_id": wallet.package_id,
        "token": token_number(balance.spendable_micros),
        "posted_token": token_number(balance.posted_micros),
        "pending_token": token_number(balance.pending_micros),
        "debt_token": token_number(balance.debt_micros),
        "held_token": token_number(balance.held_micros),
        "overdraft_limit_token": token_number(balance.overdraft_limit_micros),
    }


def hold_answer(hold: HoldView) -> Answer:
    return {
        "process_id": hold.process_id,
        "hold_token": token_number(hold.amount_micros),
        "expires_at": moment_text(hold.expires_at),
    }


def released_hold_answer(user_id: str, process_id: str, released: ReleaseReply) -> Answer:
    return {
        "user_id": user_id,
        "process_id": process_id,
        "hold_token": token_number(released.released_micros),
        "token": token_number(released.spendable_micros),
    }


def transaction_answer(entry: LedgerEntry, card: RateCard | None = None) -> Answer:
    """`card` is the rate card of a run that was billed by one."""
    return {
        "id": entry.id,
        "user_id": entry.user_id,
        "kind": entry.kind,
        "token": token_number(entry.amount_micros),
        "base_cost": _tokens(entry.base_cost_micros),
        "profit": _tokens(entry.profit_micros),
        "cost": _tokens(entry.cost_micros),
        "input_token": entry.input_tokens,
        "output_token": entry.output_tokens,
        "cached_input_token": entry.cached_input_tokens,
        "cache_write_token": entry.cache_write_tokens,
        "reasoning_token": entry.reasoning_tokens,
        "requests": entry.requests,
        "model": entry.model,
        "feature_endpoint_id": entry.feature_endpoint_id,
        "price_id": entry.price_id,
        "parts": _parts(entry, card),
        "profit_rule_id": entry.profit_rule_id,
        "balance_after": token_number(entry.balance_after_micros),
        "reference": entry.reference,
        "reason": entry.reason,
        "process_id": entry.process_id,
        "end_id": _id_or_none(entry.end_id),
        "corrects": _id_or_none(entry.corrects),
        "request_id": entry.request_id,
        "actor": entry.actor,
        "accepted_at": _moment_or_none(entry.accepted_at),
        "created_at": moment_text(entry.created_at),
    }


def _parts(entry: LedgerEntry, card: RateCard | None) -> Answer | None:
    """What each kind of a run's usage has cost, which follows from the usage and the price; None of other entries."""
    if entry.kind != "usage" or entry.input_tokens is None or entry.output_tokens is None:
        return None
    usage = Usage(
        entry.input_tokens,
        entry.output_tokens,
        entry.cached_input_tokens or 0,
        entry.cache_write_tokens or 0,
        entry.reasoning_tokens or 0,
        1 if entry.requests is None else entry.requests,
    )
    parts = parts_micros(usage, card)
    # A base cost that somebody changed by hand has no parts that would explain it.
    return parts_answer(parts) if sum(parts.values()) == entry.base_cost_micros else None


def correction_answer(corrected: Corrected) -> Answer:
    correction = corrected.correction
    answer: Answer = {
        "id": correction.id,
        "kind": correction.kind,
        "user_id": correction.user_id,
        "corrects": _id_or_none(correction.end_id),
        "token": token_number(correction.amount_micros),
        "posted_token": token_number(correction.posted_change_micros),
        "debt_token": token_number(correction.debt_change_micros),
        "charge_id": _id_or_none(correction.charge_id),
        "reference": correction.reference,
        "reason": correction.reason,
        "actor": correction.actor,
        "request_id": correction.request_id,
        "created_at": moment_text(correction.created_at),
    }
    if correction.end_id is not None:
        answer |= {
            "cost_before": _tokens(correction.cost_before_micros),
            "cost": _tokens(correction.cost_after_micros),
            **usage_answer(correction.usage),
            "price_id": correction.price_id,
            "profit_rule_id": correction.profit_rule_id,
        }
    return answer | {"transactions": [transaction_answer(entry) for entry in corrected.entries]}


def repricing_answer(view: RepricingView) -> Answer:
    repricing, sums = view.repricing, view.sums
    return {
        "id": repricing.id,
        "state": repricing.state,
        "price_id": repricing.price_id,
        "feature_endpoint_id": repricing.feature_endpoint_id,
        "model": repricing.model,
        "user_id": repricing.user_id,
        "from": _moment_or_none(repricing.accepted_from),
        "to": _moment_or_none(repricing.accepted_to),
        "reason": repricing.reason,
        "reference": repricing.reference,
        "actor": repricing.actor,
        "created_at": moment_text(repricing.created_at),
        "runs": sums.runs,
        "old_cost": token_number(sums.old_cost_micros),
        "new_cost": token_number(sums.new_cost_micros),
        "amended": sums.amended,
        "unchanged": sums.unchanged,
        "refused": sums.refused,
        "by_user_and_model": [repricing_group_answer(group) for group in view.groups],
    }


def repricing_group_answer(group: RepricingGroup) -> Answer:
    return {
        "user_id": group.user_id,
        "model": group.model,
        "runs": group.runs,
        "old_cost": token_number(group.old_cost_micros),
        "new_cost": token_number(group.new_cost_micros),
        "difference": token_number(group.new_cost_micros - group.old_cost_micros),
    }


def usage_answer(usage: Usage) -> Answer:
    return {
        "input_token": usage.input_tokens,
        "output_token": usage.output_tokens,
        "cached_input_token": usage.cached_input_tokens,
        "cache_write_token": usage.cache_write_tokens,
        "reasoning_token": usage.reasoning_tokens,
        "requests": usage.requests,
    }


def failed_end_answer(end: FailedEndRow) -> Answer:
    return {
        "id": str(end.id),
        "user_id": end.user_id,
        "kind": end.kind,
        "corrects": _id_or_none(end.corrects),
        "reference": end.reference,
        "feature_endpoint_id": end.feature_endpoint_id,
        "cost": token_number(end.cost_micros),
        "state": end.state,
        "attempts": end.attempts,
        "next_attempt_at": _moment_or_none(end.next_attempt_at),
        "last_error": end.last_error,
        "accepted_at": moment_text(end.accepted_at),
    }


def reconciliation_answer(reconciliation: Reconciliation) -> Answer:
    return {
        "id": reconciliation.id,
        "state": reconciliation.state,
        "full": reconciliation.is_full,
        "checked": reconciliation.checked,
        "cache_checked": reconciliation.cache_checked,
        "drifted_count": reconciliation.drifted_count,
        "repaired": reconciliation.repaired,
        "drifted": [drift_answer(drift) for drift in reconciliation.drifted],
        "requested_at": moment_text(reconciliation.requested_at),
        "started_at": _moment_or_none(reconciliation.started_at),
        "finished_at": _moment_or_none(reconciliation.finished_at),
    }


def drift_answer(drift: Drift) -> Answer:
    return {
        "user_id": drift.wallet_id,
        "kind": drift.kind,
        "expected_token": token_number(drift.expected_micros),
        "found_token": token_number(drift.found_micros),
        "difference_token": token_number(drift.found_micros - drift.expected_micros),
        "repaired": drift.repaired,
        "detail": drift.detail,
    }


def _tokens(micros: int | None) -> Any:
    return None if micros is None else token_number(micros)


def _id_or_none(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _moment_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
