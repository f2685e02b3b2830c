"""Answers about bulk actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, NotRequired, TypedDict, cast
from uuid import UUID

from app.domain.amounts import token_number
from app.domain.bulk_actions import BulkKind, BulkOutcome, BulkState
from app.domain.ends import EndState
from app.domain.failed_ends import Filter, duration_text
from app.domain.moments import moment_text
from app.domain.reasons import FailureReason
from app.operations.bulk_actions import BulkView
from app.stores.postgres.bulk_actions import BulkAction, BulkEnd, BulkSum
from app.wire.types import Count, Moment, Text, Tokens, Uuid, Words


class SelectionAnswer(TypedDict):
    """What was asked for: a filter, in the words of the list of failed ends, or ids."""

    filter: NotRequired[Annotated[dict[str, Text], "The filter as it was given; none: all failed ends."]]
    ids: NotRequired[list[Uuid]]


class BulkActionHeadAnswer(TypedDict):
    id: Count
    action: Annotated[str, Words(BulkKind)]
    state: Annotated[str, Words(BulkState)]
    selection: SelectionAnswer
    ends: Annotated[Count, "The number of selected ends; repeat it to confirm the action."]
    cost: Annotated[Tokens, "The total cost of the selected ends; repeat it to confirm the action."]
    reference: Text
    reason: Text
    actor: Text
    created_at: Moment
    confirmed_by: Text | None
    confirmed_at: Moment | None
    finished_at: Moment | None


def bulk_action_head_answer(action: BulkAction) -> BulkActionHeadAnswer:
    return {
        "id": action.id,
        "action": action.action,
        "state": action.state,
        "selection": cast(SelectionAnswer, dict(action.selection)),
        "ends": action.ends,
        "cost": token_number(action.cost_micros),
        "reference": action.reference,
        "reason": action.reason,
        "actor": action.actor,
        "created_at": moment_text(action.created_at),
        "confirmed_by": action.confirmed_by,
        "confirmed_at": _moment(action.confirmed_at),
        "finished_at": _moment(action.finished_at),
    }


class StateSumAnswer(TypedDict):
    state: Annotated[str | None, Words(EndState)]
    ends: Count
    cost: Tokens


class ErrorSumAnswer(TypedDict):
    last_error: Annotated[str | None, Words(FailureReason)]
    ends: Count
    cost: Tokens


class UserSumAnswer(TypedDict):
    user_id: Text | None
    ends: Count
    cost: Tokens


class OutcomeSumAnswer(TypedDict):
    outcome: Annotated[str | None, Words(BulkOutcome)]
    ends: Count
    cost: Tokens


class BulkActionAnswer(BulkActionHeadAnswer):
    users: Count
    by_state: list[StateSumAnswer]
    by_error: list[ErrorSumAnswer]
    by_user: Annotated[list[UserSumAnswer], "The largest sums, at most 100."]
    outcomes: Annotated[list[OutcomeSumAnswer], "Their outcome; null: not known yet."]
    open: Annotated[Count, "The number of ends without an outcome."]
    awaited: Annotated[Count, "How many of these were sent to be retried."]


def bulk_action_answer(view: BulkView) -> BulkActionAnswer:
    figures = view.figures
    return {
        **bulk_action_head_answer(view.action),
        "users": figures.users,
        "by_state": [{"state": key, "ends": ends, "cost": cost} for key, ends, cost in _sums(figures.by_state)],
        "by_error": [{"last_error": key, "ends": ends, "cost": cost} for key, ends, cost in _sums(figures.by_error)],
        "by_user": [{"user_id": key, "ends": ends, "cost": cost} for key, ends, cost in _sums(figures.by_user)],
        "outcomes": [{"outcome": key, "ends": ends, "cost": cost} for key, ends, cost in _sums(figures.outcomes)],
        "open": figures.open,
        "awaited": figures.awaited,
    }


class BulkEndAnswer(TypedDict):
    end_id: Uuid
    user_id: Text
    cost: Tokens
    state: Annotated[str, Words(EndState)]
    last_error: Annotated[str | None, Words(FailureReason)]
    outcome: Annotated[str | None, Words(BulkOutcome)]
    detail: Annotated[Text | None, "Why it failed again, or why it was refused."]
    replayed_at: Moment | None
    done_at: Moment | None


def bulk_end_answer(end: BulkEnd) -> BulkEndAnswer:
    return {
        "end_id": str(end.end_id),
        "user_id": end.user_id,
        "cost": token_number(end.cost_micros),
        "state": end.state,
        "last_error": end.last_error,
        "outcome": end.outcome,
        "detail": end.detail,
        "replayed_at": _moment(end.replayed_at),
        "done_at": _moment(end.done_at),
    }


# Fields of `Filter` -> their names on the wire, where these differ.
_WORDS = {
    "since": "from",
    "until": "to",
    "older_than_seconds": "older_than",
    "younger_than_seconds": "younger_than",
    "cost_min_micros": "min_cost",
    "cost_max_micros": "max_cost",
}


def selection_answer(which: Filter | Sequence[UUID]) -> SelectionAnswer:
    """A selection of failed ends in the words of the API, with amounts as texts."""
    if not isinstance(which, Filter):
        return {"ids": [str(end_id) for end_id in which]}
    given = {field.name: getattr(which, field.name) for field in fields(which)}
    words = {_WORDS.get(name, name): _word(name, value) for name, value in given.items() if value is not None}
    return {"filter": words}


def _word(field: str, value: Any) -> str:
    if isinstance(value, datetime):
        return moment_text(value)
    if field.endswith("_seconds"):
        return duration_text(value)
    return str(token_number(value) if field.endswith("_micros") else value)


def _sums(sums: Sequence[BulkSum]) -> list[tuple[str | None, int, Tokens]]:
    return [(each.key, each.ends, token_number(each.cost_micros)) for each in sums]


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
