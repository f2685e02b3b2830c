"""Answers about failed ends: sums, debts, and one end's whole history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, NotRequired, TypedDict, cast

from app.domain.amounts import token_number
from app.domain.bulk_actions import BulkKind, BulkOutcome
from app.domain.ends import EndState
from app.domain.failed_ends import AgeBand, Group
from app.domain.moments import moment_text
from app.domain.reasons import FailureReason
from app.domain.reports import CHARGE_KINDS
from app.domain.wallets import Deduction
from app.operations.end_stories import SETTLED, WRITTEN_OFF, EndStory, Wait
from app.operations.failed_end_sums import Debt
from app.stores.postgres.bulk_actions import BulkAction, BulkEnd
from app.stores.postgres.end_stories import Attempt
from app.stores.postgres.failed_end_groups import FailedEndGroup
from app.wire.answers import CorrectionAnswer, TransactionAnswer, correction_answer, run_parts, transaction_answer
from app.wire.prices import PartsAnswer
from app.wire.types import Count, Moment, Text, Tokens, Uuid, Words


class FailedEndKeyAnswer(TypedDict):
    """What it is added up by."""

    user_id: NotRequired[Text]
    feature_endpoint_id: NotRequired[Text | None]
    model: NotRequired[Text | None]
    last_error: NotRequired[Annotated[str | None, Words(FailureReason)]]
    age: NotRequired[Annotated[str, Words(AgeBand)]]
    state: NotRequired[Annotated[str, Words(EndState)]]
    kind: NotRequired[Annotated[str, Words(CHARGE_KINDS)]]
    package_id: NotRequired[Text | None]


class FailedEndSumsAnswer(TypedDict):
    ends: Count
    users: Count
    cost: Tokens
    retrying: Count
    retrying_cost: Tokens
    dead: Count
    dead_cost: Tokens
    oldest_accepted_at: Moment | None
    newest_accepted_at: Moment | None


class FailedEndGroupAnswer(FailedEndKeyAnswer, FailedEndSumsAnswer):
    pass


def failed_end_group_answer(groups: Sequence[Group], found: FailedEndGroup) -> FailedEndGroupAnswer:
    sums: FailedEndSumsAnswer = {
        "ends": found.ends,
        "users": found.users,
        "cost": token_number(found.cost_micros),
        "retrying": found.retrying,
        "retrying_cost": token_number(found.retrying_micros),
        "dead": found.dead,
        "dead_cost": token_number(found.dead_micros),
        "oldest_accepted_at": _moment(found.oldest_accepted_at),
        "newest_accepted_at": _moment(found.newest_accepted_at),
    }
    return cast(FailedEndGroupAnswer, {**_key(groups, found), **sums})


class DebtSumsAnswer(TypedDict):
    ends: Count
    users: Count
    debt_token: Tokens
    room_token: Annotated[Tokens | None, "Only when grouped by user alone: what the wallet can pay debts with now."]
    missing_token: Annotated[
        Tokens | None, "Only when grouped by user alone: the top-up that would pay all of its debt."
    ]
    oldest_accepted_at: Moment | None
    newest_accepted_at: Moment | None


class DebtAnswer(FailedEndKeyAnswer, DebtSumsAnswer):
    pass


def debt_answer(groups: Sequence[Group], debt: Debt) -> DebtAnswer:
    found = debt.group
    sums: DebtSumsAnswer = {
        "ends": found.ends,
        "users": found.users,
        "debt_token": token_number(found.cost_micros),
        "room_token": _tokens(debt.room_micros),
        "missing_token": _tokens(debt.missing_micros),
        "oldest_accepted_at": _moment(found.oldest_accepted_at),
        "newest_accepted_at": _moment(found.newest_accepted_at),
    }
    return cast(DebtAnswer, {**_key(groups, found), **sums})


class FirstAnswerAnswer(TypedDict):
    status: Annotated[str, Words(Deduction)]
    token: Annotated[Tokens, "What the user could spend at that time."]


class WaitAnswer(TypedDict):
    why: Annotated[Text, "Why it waits, and what would help, in plain words."]
    last_error: Annotated[str | None, Words(FailureReason)]
    attempts: Annotated[Count, "Failed attempts since it was accepted or last replayed."]
    attempts_total: Annotated[Count, "Failed attempts over all replays."]
    next_attempt_at: Moment | None
    ahead_ends: Annotated[Count, "Debts of its wallet that are paid before it."]
    ahead_token: Tokens
    room_token: Annotated[Tokens, "What its wallet can pay debts with now."]
    missing_token: Annotated[Tokens, "The top-up that would pay this end and all debts before it."]


def wait_answer(wait: Wait) -> WaitAnswer:
    return {
        "why": wait.why,
        "last_error": wait.last_error,
        "attempts": wait.attempts,
        "attempts_total": wait.attempts_total,
        "next_attempt_at": _moment(wait.next_attempt_at),
        "ahead_ends": wait.line.ahead_ends,
        "ahead_token": token_number(wait.line.ahead_micros),
        "room_token": token_number(wait.line.room_micros),
        "missing_token": token_number(wait.missing_micros),
    }


class AttemptAnswer(TypedDict):
    number: Count
    attempted_at: Moment
    error: Annotated[str, Words(FailureReason)]


def attempt_answer(attempt: Attempt) -> AttemptAnswer:
    return {"number": attempt.number, "attempted_at": moment_text(attempt.attempted_at), "error": attempt.error}


class OpenChargeAnswer(TypedDict):
    id: Uuid
    state: Annotated[str, Words(EndState)]
    cost: Tokens


class EndBulkAnswer(TypedDict):
    id: Count
    action: Annotated[str, Words(BulkKind)]
    outcome: Annotated[str | None, Words(BulkOutcome)]
    detail: Annotated[Text | None, "Why it failed again, or why it was refused."]
    reference: Text
    reason: Text
    confirmed_by: Text | None
    confirmed_at: Moment | None


def end_bulk_answer(action: BulkAction, end: BulkEnd) -> EndBulkAnswer:
    return {
        "id": action.id,
        "action": action.action,
        "outcome": end.outcome,
        "detail": end.detail,
        "reference": action.reference,
        "reason": action.reason,
        "confirmed_by": action.confirmed_by,
        "confirmed_at": _moment(action.confirmed_at),
    }


class EndStoryAnswer(TypedDict):
    id: Uuid
    state: Annotated[str, Words((*EndState, SETTLED, WRITTEN_OFF))]
    user_id: Text
    kind: Annotated[str, Words(CHARGE_KINDS)]
    corrects: Uuid | None
    feature_endpoint_id: Text | None
    model: Text | None
    cost: Tokens
    base_cost: Tokens | None
    profit: Tokens | None
    input_token: Count | None
    output_token: Count | None
    cached_input_token: Count | None
    cache_write_token: Count | None
    reasoning_token: Count | None
    requests: Count | None
    price_id: Count | None
    profit_rule_id: Count | None
    parts: Annotated[PartsAnswer | None, "What each kind of usage costs; null if it isn't a run."]
    process_id: Text | None
    idempotency_key: Text | None
    reference: Text | None
    reason: Text | None
    request_id: Text | None
    actor: Text | None
    accepted_at: Moment | None
    answered: Annotated[FirstAnswerAnswer | None, "The first answer to its caller; null for an end without a key."]
    wait: Annotated[WaitAnswer | None, "What it waits for; null once it is settled."]
    attempts: Annotated[list[AttemptAnswer], "The last 24 failed attempts, oldest first."]
    corrections: list[CorrectionAnswer]
    open_charges: Annotated[list[OpenChargeAnswer], "Charges of corrections that are still owed."]
    bulk_actions: Annotated[list[EndBulkAnswer], "Confirmed bulk actions that include it, and their outcomes."]
    transactions: Annotated[list[TransactionAnswer], "Its ledger entries and those of its corrections."]


def end_story_answer(story: EndStory) -> EndStoryAnswer:
    accepted, first = story.accepted, story.first_answer
    return {
        "id": str(story.id),
        "state": story.state,
        "user_id": accepted.user_id,
        "kind": accepted.kind,
        "corrects": None if accepted.corrects is None else str(accepted.corrects),
        "feature_endpoint_id": accepted.feature_endpoint_id,
        "model": accepted.model,
        "cost": token_number(story.cost_micros),
        "base_cost": _tokens(accepted.base_cost_micros),
        "profit": _tokens(accepted.profit_micros),
        "input_token": accepted.input_tokens,
        "output_token": accepted.output_tokens,
        "cached_input_token": accepted.cached_input_tokens,
        "cache_write_token": accepted.cache_write_tokens,
        "reasoning_token": accepted.reasoning_tokens,
        "requests": accepted.requests,
        "price_id": accepted.price_id,
        "profit_rule_id": accepted.profit_rule_id,
        "parts": run_parts(accepted, story.card),
        "process_id": accepted.process_id,
        "idempotency_key": story.idempotency_key,
        "reference": accepted.reference,
        "reason": accepted.reason,
        "request_id": accepted.request_id,
        "actor": accepted.actor,
        "accepted_at": _moment(accepted.accepted_at),
        "answered": (
            None if first is None else {"status": first.deduction, "token": token_number(first.spendable_micros)}
        ),
        "wait": None if story.wait is None else wait_answer(story.wait),
        "attempts": [attempt_answer(attempt) for attempt in story.attempts],
        "corrections": [correction_answer(correction) for correction in story.corrections],
        "open_charges": [
            {"id": str(charge.id), "state": charge.state, "cost": token_number(charge.cost_micros)}
            for charge in story.open_charges
        ],
        "bulk_actions": [end_bulk_answer(action, end) for action, end in story.bulk],
        "transactions": [transaction_answer(entry, story.card) for entry in story.entries],
    }


def _key(groups: Sequence[Group], found: FailedEndGroup) -> dict[str, str | None]:
    return {group.value: value for group, value in zip(groups, found.key, strict=True)}


def _tokens(micros: int | None) -> Tokens | None:
    return None if micros is None else token_number(micros)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
