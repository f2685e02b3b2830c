"""Answers about wallets, the ledger, the catalog and so on, with the same fields in the admin API and the commands."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NotRequired, TypedDict
from uuid import UUID

from app.billing.corrections import Corrected
from app.billing.holds import HoldView
from app.billing.repricings import RepricingView
from app.domain.amounts import token_number
from app.domain.catalog import FeatureEndpoint, Package, Unpriced
from app.domain.corrections import CorrectionKind
from app.domain.ends import EndState
from app.domain.moments import moment_text
from app.domain.pricing import ProfitRule, parts_micros, percentage_number
from app.domain.rates import RateCard
from app.domain.reasons import DriftKind, FailureReason
from app.domain.reports import CHARGE_KINDS, EntryKind
from app.domain.repricings import RepricingState
from app.domain.usage import Usage
from app.domain.wallets import WalletBalance, WalletStatus
from app.stores.postgres.failed_ends import FailedEndRow
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.reconciliation import Drift, Reconciliation, State
from app.stores.postgres.repricings import RepricingGroup
from app.stores.redis.wallet_calls import ReleaseReply
from app.wire.prices import PartsAnswer, parts_answer
from app.wire.types import Count, Moment, Percent, Text, Tokens, Uuid, Words


class FeatureAnswer(TypedDict):
    id: Text
    name: Text
    min_token: Tokens
    unpriced: Annotated[str, Words(Unpriced)]
    reversal_seconds: Count


def feature_answer(feature: FeatureEndpoint) -> FeatureAnswer:
    return {
        "id": feature.id,
        "name": feature.name,
        "min_token": token_number(feature.min_micros),
        "unpriced": feature.unpriced,
        "reversal_seconds": feature.reversal_seconds,
    }


class PackageAnswer(TypedDict):
    id: Text
    name: Text
    feature_endpoint_ids: list[Text]


def package_answer(package: Package) -> PackageAnswer:
    return {
        "id": package.id,
        "name": package.name,
        "feature_endpoint_ids": list(package.feature_endpoint_ids),
    }


class ProfitRuleAnswer(TypedDict):
    id: Count
    percentage: Percent
    feature_endpoint_id: Annotated[Text | None, "Only for runs of this feature; null: of any feature."]
    model: Annotated[Text | None, "Only for runs with this model; null: with any model."]
    effective_from: Moment


def rule_answer(rule: ProfitRule) -> ProfitRuleAnswer:
    return {
        "id": rule.id,
        "percentage": percentage_number(rule.basis_points),
        "feature_endpoint_id": rule.feature_endpoint_id,
        "model": rule.model,
        "effective_from": moment_text(rule.effective_from),
    }


class WalletAnswer(TypedDict):
    user_id: Text
    status: Annotated[str, Words(WalletStatus)]
    package_id: Text | None
    token: Annotated[Tokens, "What can be spent now: posted, less pending, debt and held."]
    posted_token: Tokens
    pending_token: Tokens
    debt_token: Tokens
    held_token: Tokens
    overdraft_limit_token: Tokens
    changed_at: Annotated[Moment, "When a run, a posting or an operator last changed it."]


def wallet_answer(found: WalletBalance) -> WalletAnswer:
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
        "changed_at": moment_text(found.changed_at),
    }


class HoldAnswer(TypedDict):
    process_id: Text
    hold_token: Tokens
    expires_at: Moment


def hold_answer(hold: HoldView) -> HoldAnswer:
    return {
        "process_id": hold.process_id,
        "hold_token": token_number(hold.amount_micros),
        "expires_at": moment_text(hold.expires_at),
    }


class ReleasedHoldAnswer(TypedDict):
    user_id: Text
    process_id: Text
    hold_token: Annotated[Tokens, "What the hold reserved."]
    token: Tokens


def released_hold_answer(user_id: str, process_id: str, released: ReleaseReply) -> ReleasedHoldAnswer:
    return {
        "user_id": user_id,
        "process_id": process_id,
        "hold_token": token_number(released.released_micros),
        "token": token_number(released.spendable_micros),
    }


class TransactionAnswer(TypedDict):
    id: Count
    user_id: Text
    kind: Annotated[str, Words(EntryKind)]
    token: Annotated[Tokens, "The change of the balance; negative if tokens were taken."]
    base_cost: Tokens | None
    profit: Tokens | None
    cost: Tokens | None
    input_token: Count | None
    output_token: Count | None
    cached_input_token: Count | None
    cache_write_token: Count | None
    reasoning_token: Count | None
    requests: Count | None
    model: Text | None
    feature_endpoint_id: Text | None
    price_id: Count | None
    parts: Annotated[PartsAnswer | None, "What each kind of usage cost; null if it isn't a run."]
    profit_rule_id: Count | None
    balance_after: Tokens
    reference: Text | None
    reason: Text | None
    process_id: Text | None
    end_id: Uuid | None
    corrects: Uuid | None
    request_id: Text | None
    actor: Text | None
    accepted_at: Moment | None
    created_at: Moment


def transaction_answer(entry: LedgerEntry, card: RateCard | None = None) -> TransactionAnswer:
    """The answer for a ledger entry. `card` is the rate card, if it is a run billed by one."""
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
        "parts": run_parts(entry, card),
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


def run_parts(entry: Any, card: RateCard | None) -> PartsAnswer | None:
    """The cost of each kind of usage of a run, computed from its usage and its price. None for other entries.

    `entry` is a ledger entry, or a run's row of the inbox.
    """
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
    # If somebody has changed the base cost by hand, the parts don't add up to it.
    return parts_answer(parts) if sum(parts.values()) == entry.base_cost_micros else None


class CorrectionAnswer(TypedDict):
    """What a run is corrected to stands in a correction of one; a chargeback has none."""

    id: Count
    kind: Annotated[str, Words(CorrectionKind)]
    user_id: Text
    corrects: Uuid | None
    token: Annotated[Tokens, "Positive if tokens were given back, negative if they were charged."]
    posted_token: Annotated[Tokens, "The immediate change of the posted balance."]
    debt_token: Annotated[Tokens, "The change of the debt."]
    charge_id: Annotated[Uuid | None, "The charge's id: among failed ends while it is owed, then the entry's `end_id`."]
    reference: Text
    reason: Text | None
    actor: Text | None
    request_id: Text | None
    created_at: Moment
    cost_before: NotRequired[Tokens | None]
    cost: NotRequired[Tokens | None]
    input_token: NotRequired[Count]
    output_token: NotRequired[Count]
    cached_input_token: NotRequired[Count]
    cache_write_token: NotRequired[Count]
    reasoning_token: NotRequired[Count]
    requests: NotRequired[Count]
    price_id: NotRequired[Count | None]
    profit_rule_id: NotRequired[Count | None]
    transactions: Annotated[list[TransactionAnswer], "The ledger entries that it made."]


def correction_answer(corrected: Corrected) -> CorrectionAnswer:
    correction = corrected.correction
    answer: CorrectionAnswer = {
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
        "transactions": [transaction_answer(entry) for entry in corrected.entries],
    }
    if correction.end_id is not None:
        answer |= {
            "cost_before": _tokens(correction.cost_before_micros),
            "cost": _tokens(correction.cost_after_micros),
            "input_token": correction.usage.input_tokens,
            "output_token": correction.usage.output_tokens,
            "cached_input_token": correction.usage.cached_input_tokens,
            "cache_write_token": correction.usage.cache_write_tokens,
            "reasoning_token": correction.usage.reasoning_tokens,
            "requests": correction.usage.requests,
            "price_id": correction.price_id,
            "profit_rule_id": correction.profit_rule_id,
        }
    return answer


class RepricingGroupAnswer(TypedDict):
    user_id: Text
    model: Text | None
    runs: Count
    old_cost: Tokens
    new_cost: Tokens
    difference: Annotated[Tokens, "New less old."]


# Not a class, as its field `from` is a Python keyword.
RepricingAnswer = TypedDict(
    "RepricingAnswer",
    {
        "id": Count,
        "state": Annotated[str, Words(RepricingState)],
        "price_id": Count,
        "feature_endpoint_id": Text | None,
        "model": Text | None,
        "user_id": Text | None,
        "from": Moment | None,
        "to": Moment | None,
        "reason": Text,
        "reference": Text,
        "actor": Text | None,
        "created_at": Moment,
        "runs": Count,
        "old_cost": Tokens,
        "new_cost": Tokens,
        "amended": Count,
        "unchanged": Count,
        "refused": Count,
        "by_user_and_model": Annotated[list[RepricingGroupAnswer], "The largest changes, at most 1,000."],
    },
)


def repricing_answer(view: RepricingView) -> RepricingAnswer:
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


def repricing_group_answer(group: RepricingGroup) -> RepricingGroupAnswer:
    return {
        "user_id": group.user_id,
        "model": group.model,
        "runs": group.runs,
        "old_cost": token_number(group.old_cost_micros),
        "new_cost": token_number(group.new_cost_micros),
        "difference": token_number(group.new_cost_micros - group.old_cost_micros),
    }


class FailedEndAnswer(TypedDict):
    id: Uuid
    user_id: Text
    kind: Annotated[str, Words(CHARGE_KINDS)]
    corrects: Uuid | None
    reference: Text | None
    feature_endpoint_id: Text | None
    model: Text | None
    cost: Tokens
    state: Annotated[str, Words(EndState)]
    attempts: Count
    next_attempt_at: Moment | None
    last_error: Annotated[str | None, Words(FailureReason)]
    accepted_at: Moment


def failed_end_answer(end: FailedEndRow) -> FailedEndAnswer:
    return {
        "id": str(end.id),
        "user_id": end.user_id,
        "kind": end.kind,
        "corrects": _id_or_none(end.corrects),
        "reference": end.reference,
        "feature_endpoint_id": end.feature_endpoint_id,
        "model": end.model,
        "cost": token_number(end.cost_micros),
        "state": end.state,
        "attempts": end.attempts,
        "next_attempt_at": _moment_or_none(end.next_attempt_at),
        "last_error": end.last_error,
        "accepted_at": moment_text(end.accepted_at),
    }


class DriftAnswer(TypedDict):
    user_id: Text
    kind: Annotated[str, Words(DriftKind)]
    expected_token: Tokens
    found_token: Tokens
    difference_token: Tokens
    repaired: bool
    detail: Text | None


class ReconciliationAnswer(TypedDict):
    id: Count
    state: Annotated[str, Words(State)]
    full: bool
    checked: Count
    cache_checked: bool
    drifted_count: Count
    repaired: Count
    drifted: list[DriftAnswer]
    requested_at: Moment
    started_at: Moment | None
    finished_at: Moment | None


def reconciliation_answer(reconciliation: Reconciliation) -> ReconciliationAnswer:
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


def drift_answer(drift: Drift) -> DriftAnswer:
    return {
        "user_id": drift.wallet_id,
        "kind": drift.kind,
        "expected_token": token_number(drift.expected_micros),
        "found_token": token_number(drift.found_micros),
        "difference_token": token_number(drift.found_micros - drift.expected_micros),
        "repaired": drift.repaired,
        "detail": drift.detail,
    }


def _tokens(micros: int | None) -> int | Decimal | None:
    return None if micros is None else token_number(micros)


def _id_or_none(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _moment_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
