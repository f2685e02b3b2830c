"""Events as receivers get them, and answers about webhooks and balance rules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypedDict

from app.domain.amounts import token_number
from app.domain.balance_rules import AutoTopUpRule, LowBalanceRule, RequestState, TopUpRequest
from app.domain.moments import moment_text
from app.domain.pricing import percentage_number
from app.domain.webhooks import SUBSCRIBABLE, DeliveryState, DisabledReason, EndpointState, EventType
from app.stores.postgres.top_up_requests import Standing
from app.stores.postgres.webhooks.deliveries import Attempt, ClaimedDelivery, Delivery
from app.stores.postgres.webhooks.endpoints import Secret
from app.stores.postgres.webhooks.events import Event
from app.webhooks.balance_rules import WalletRules
from app.webhooks.endpoints import EndpointView, NewSecret
from app.webhooks.events import DeliveryView, EventView
from app.wire import json
from app.wire.types import Count, Moment, Percent, Seconds, Text, Tokens, Uuid, Words

# Stored name, as triggers write it -> wire name. Other fields keep their names.
_AMOUNTS = {
    "amount_micros": "token",
    "balance_micros": "balance_token",
    "posted_micros": "posted_token",
    "debt_micros": "debt_token",
    "overdraft_limit_micros": "overdraft_limit_token",
    "below_micros": "below_token",
    "balance_after_micros": "balance_after",
    "cost_micros": "cost",
    "month_micros": "token_of_month",
    "micros_per_month": "token_per_month",
}


def payload(told: Event | ClaimedDelivery) -> dict[str, Any]:
    """An event in the form of Standard Webhooks."""
    return {"type": told.type, "timestamp": moment_text(told.occurred_at), "data": _data(told.data)}


def body(told: Event | ClaimedDelivery) -> bytes:
    """The bytes that are signed and sent. They are the same at each attempt."""
    return json.write(payload(told))


def _data(written: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for name, value in written.items():
        if name in _AMOUNTS:
            answer[_AMOUNTS[name]] = _tokens(value)
        elif name == "below_basis_points":
            answer["below_percent"] = _percent(value)
        elif name.endswith("_at"):
            answer[name] = moment_text(datetime.fromisoformat(value))
        else:
            answer[name] = value
    return answer


class WebhookSecretAnswer(TypedDict):
    id: Count
    created_at: Moment
    expires_at: Annotated[Moment | None, "When it stops signing, because a newer secret has replaced it."]


class WebhookEndpointAnswer(TypedDict):
    id: Count
    url: Annotated[Text, "Where events are sent, by POST."]
    description: Text | None
    event_types: Annotated[list[Annotated[str, Words(SUBSCRIBABLE)]], "Which events; empty: all."]
    state: Annotated[str, Words((EndpointState.ENABLED, EndpointState.DISABLED))]
    disabled_reason: Annotated[
        Annotated[str, Words(DisabledReason)] | None,
        "operator: somebody did. failing: nothing could be delivered for days. gone: it answered 410.",
    ]
    disabled_at: Moment | None
    failing_since: Annotated[Moment | None, "The time since which every delivery has failed."]
    paused_until: Annotated[Moment | None, "No deliveries until then, as the endpoint asked by Retry-After."]
    pending: Annotated[Count, "Pending deliveries; counted up to 10,000."]
    failed: Annotated[Count, "Deliveries that were given up; counted up to 10,000."]
    last_delivered_at: Moment | None
    secrets: Annotated[list[WebhookSecretAnswer], "Those that sign now, the newest first."]
    created_at: Moment


class NewWebhookSecretAnswer(WebhookEndpointAnswer):
    secret: Annotated[Text, "Shown this once."]


class WebhookAttemptAnswer(TypedDict):
    at: Moment
    seconds: Seconds
    status: Annotated[Count | None, "HTTP status of the answer, if one came."]
    error: Text | None
    excerpt: Annotated[Text | None, "The beginning of the answer's body."]


class WebhookDeliveryAnswer(TypedDict):
    id: Count
    event_id: Annotated[Uuid, "The webhook-id that the receiver sees."]
    type: Annotated[str, Words(EventType)]
    user_id: Text | None
    endpoint_id: Count
    state: Annotated[str, Words(DeliveryState)]
    attempts: Count
    next_attempt_at: Moment | None
    last_status: Count | None
    last_error: Text | None
    created_at: Moment
    finished_at: Moment | None


class WebhookDeliveryViewAnswer(WebhookDeliveryAnswer):
    answers: Annotated[list[WebhookAttemptAnswer], "Each attempt, oldest first; empty in lists."]


class WebhookEventAnswer(TypedDict):
    id: Annotated[Uuid, "The webhook-id that receivers see."]
    type: Annotated[str, Words(EventType)]
    user_id: Text | None
    occurred_at: Moment
    data: Annotated[dict[str, Any], "What receivers are told: docs/webhooks.md has each type's fields."]
    deliveries: list[WebhookDeliveryViewAnswer]


class DeletedWebhookEndpointAnswer(TypedDict):
    id: Count


class WebhookReplayAnswer(TypedDict):
    events: Annotated[Count, "How many will be delivered."]


class LowBalanceRuleAnswer(TypedDict):
    id: Count
    user_id: Text | None
    package_id: Annotated[Text | None, "For all wallets with this package that have no rule of their own."]
    below_token: Annotated[Tokens | None, "Below this balance a wallet is low."]
    below_percent: Annotated[Percent | None, "The threshold in percent of the balance right after the last top-up."]
    updated_at: Moment


class AutoTopUpRuleAnswer(TypedDict):
    id: Count
    user_id: Text | None
    package_id: Annotated[Text | None, "For all wallets with this package that have no rule of their own."]
    below_token: Annotated[Tokens | None, "Below this balance a top-up is requested; null: never."]
    token: Annotated[Tokens | None, "How many tokens are requested."]
    requests_per_month: Count | None
    token_per_month: Annotated[Tokens | None, "The most tokens that are requested in a calendar month (UTC)."]
    failures_max: Annotated[Count | None, "After this many failed requests in a row, no more are made."]
    answer_seconds: Annotated[Count | None, "How long a request waits for its top-up, in seconds."]
    updated_at: Moment


class BalanceRuleOwnerAnswer(TypedDict):
    user_id: Text | None
    package_id: Text | None


class AutoTopUpStandingAnswer(TypedDict):
    failed_requests: Annotated[Count, "How many requests in a row failed."]
    next_request_at: Annotated[Moment | None, "The earliest time of the next request."]
    stopped_at: Moment | None
    stopped_reason: Annotated[str, Words((RequestState.DECLINED, RequestState.UNANSWERED))] | None


class WalletRulesAnswer(AutoTopUpStandingAnswer):
    user_id: Text
    low_balance: Annotated[LowBalanceRuleAnswer | None, "The rule that applies: the wallet's own, or its package's."]
    auto_top_up: Annotated[AutoTopUpRuleAnswer | None, "Likewise."]


class RequestedTopUpAnswer(TypedDict):
    id: Uuid
    user_id: Text
    token: Annotated[Tokens, "How many tokens are requested."]
    reference: Annotated[Text, "A top-up under this reference answers it."]
    state: Annotated[str, Words(RequestState)]
    reason: Annotated[Text | None, "Why it was declined."]
    transaction_id: Annotated[Count | None, "The top-up that answered it."]
    requested_at: Moment
    expires_at: Moment
    closed_at: Moment | None


def endpoint_answer(view: EndpointView) -> WebhookEndpointAnswer:
    endpoint, health = view.endpoint, view.health
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": list(endpoint.event_types),
        "state": endpoint.state,
        "disabled_reason": endpoint.disabled_reason,
        "disabled_at": _moment(endpoint.disabled_at),
        "failing_since": _moment(endpoint.failing_since),
        "paused_until": _moment(endpoint.paused_until),
        "pending": health.pending,
        "failed": health.failed,
        "last_delivered_at": _moment(health.last_delivered_at),
        "secrets": [_secret_answer(secret) for secret in view.secrets],
        "created_at": moment_text(endpoint.created_at),
    }


def new_secret_answer(made: NewSecret) -> NewWebhookSecretAnswer:
    """The answer to making a secret: the only one that has the secret."""
    return {**endpoint_answer(made.view), "secret": made.secret}


def _secret_answer(secret: Secret) -> WebhookSecretAnswer:
    return {"id": secret.id, "created_at": moment_text(secret.created_at), "expires_at": _moment(secret.expires_at)}


def event_answer(view: EventView) -> WebhookEventAnswer:
    event = view.event
    return {
        "id": str(event.id),
        "type": event.type,
        "user_id": event.user_id,
        "occurred_at": moment_text(event.occurred_at),
        "data": _data(event.data),
        "deliveries": [delivery_view_answer(delivery) for delivery in view.deliveries],
    }


def delivery_answer(delivery: Delivery) -> WebhookDeliveryAnswer:
    return {
        "id": delivery.id,
        "event_id": str(delivery.event_id),
        "type": delivery.type,
        "user_id": delivery.user_id,
        "endpoint_id": delivery.endpoint_id,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": _moment(delivery.next_attempt_at),
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": moment_text(delivery.created_at),
        "finished_at": _moment(delivery.finished_at),
    }


def delivery_view_answer(view: DeliveryView) -> WebhookDeliveryViewAnswer:
    return {**delivery_answer(view.delivery), "answers": [_attempt_answer(attempt) for attempt in view.attempts]}


def _attempt_answer(attempt: Attempt) -> WebhookAttemptAnswer:
    return {
        "at": moment_text(attempt.started_at),
        "seconds": Decimal(f"{attempt.duration_seconds:.3f}"),
        "status": attempt.status,
        "error": attempt.error,
        "excerpt": attempt.excerpt,
    }


def low_balance_answer(rule: LowBalanceRule) -> LowBalanceRuleAnswer:
    below = rule.low_balance
    return {
        "id": rule.id,
        "user_id": rule.owner.user_id,
        "package_id": rule.owner.package_id,
        "below_token": _tokens(below.below_micros),
        "below_percent": _percent(below.below_basis_points),
        "updated_at": moment_text(rule.updated_at),
    }


def auto_top_up_answer(rule: AutoTopUpRule) -> AutoTopUpRuleAnswer:
    asked = rule.auto_top_up
    return {
        "id": rule.id,
        "user_id": rule.owner.user_id,
        "package_id": rule.owner.package_id,
        "below_token": None if asked is None else token_number(asked.below_micros),
        "token": None if asked is None else token_number(asked.amount_micros),
        "requests_per_month": None if asked is None else asked.requests_per_month,
        "token_per_month": None if asked is None else token_number(asked.micros_per_month),
        "failures_max": None if asked is None else asked.failures_max,
        "answer_seconds": None if asked is None else asked.answer_seconds,
        "updated_at": moment_text(rule.updated_at),
    }


def wallet_rules_answer(user_id: str, rules: WalletRules) -> WalletRulesAnswer:
    return {
        "user_id": user_id,
        "low_balance": None if rules.low_balance is None else low_balance_answer(rules.low_balance),
        "auto_top_up": None if rules.auto_top_up is None else auto_top_up_answer(rules.auto_top_up),
        **standing_answer(rules.standing),
    }


def standing_answer(standing: Standing) -> AutoTopUpStandingAnswer:
    return {
        "failed_requests": standing.failed_requests,
        "next_request_at": _moment(standing.next_request_at),
        "stopped_at": _moment(standing.stopped_at),
        "stopped_reason": standing.stopped_reason,
    }


def top_up_request_answer(request: TopUpRequest) -> RequestedTopUpAnswer:
    return {
        "id": str(request.id),
        "user_id": request.user_id,
        "token": token_number(request.amount_micros),
        "reference": request.reference,
        "state": request.state,
        "reason": request.reason,
        "transaction_id": request.transaction_id,
        "requested_at": moment_text(request.requested_at),
        "expires_at": moment_text(request.expires_at),
        "closed_at": _moment(request.closed_at),
    }


def _tokens(micros: int | None) -> Any:
    return None if micros is None else token_number(micros)


def _percent(basis_points: int | None) -> Any:
    return None if basis_points is None else percentage_number(basis_points)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
