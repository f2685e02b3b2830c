"""Answers about top-ups of many wallets, and about their schedules."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, TypedDict

from app.billing.top_up_schedules import Outlook, ScheduleView
from app.billing.top_ups import TopUpView
from app.domain.amounts import token_number
from app.domain.errors import BalanceOutOfRange, IdempotencyConflict, WalletNotFound
from app.domain.moments import moment_text
from app.domain.reasons import FailureReason
from app.domain.top_ups import (
    CatchUp,
    Period,
    ScheduleState,
    TopUpAmount,
    TopUpMode,
    TopUpOutcome,
    TopUpState,
)
from app.domain.wallets import WalletStatus
from app.stores.postgres.top_up_schedules import TopUpSchedule
from app.stores.postgres.top_ups import BatchWallet
from app.wire.types import Count, Day, Moment, Text, Tokens, Words

# The outcomes of a wallet: a TopUpOutcome, or the code of the error for which it wasn't topped up.
OUTCOMES = (
    *TopUpOutcome,
    WalletNotFound.code,
    IdempotencyConflict.code,
    BalanceOutOfRange.code,
    FailureReason.DATABASE_REFUSED,
)


class TopUpAnswer(TypedDict):
    id: Count
    reference: Text
    state: Annotated[str, Words(TopUpState)]
    schedule_id: Annotated[Count | None, "The schedule that made it; null: an operator did."]
    due_on: Annotated[Day | None, "The day of the schedule's period."]
    package_id: Text | None
    user_id: Annotated[Text | None, "The user, if it is for one wallet only."]
    wallet_status: Annotated[str | None, Words(WalletStatus), "Only wallets of this status; null: of any."]
    token: Annotated[Tokens | None, "What each wallet gets; null: it is filled up."]
    fill_up_to_token: Annotated[Tokens | None, "Up to which posted balance each wallet is filled."]
    reason: Text
    actor: Text | None
    created_at: Moment
    applied_by: Text | None
    applied_at: Moment | None
    finished_at: Moment | None
    wallets: Annotated[Count, "How many were frozen."]
    planned_token: Annotated[Tokens, "The total that the wallets needed when they were selected."]
    topped_up: Count
    skipped: Annotated[Count, "Wallets that were full, had it already, or have left since the dry run."]
    refused: Count
    waiting: Count
    posted_token: Tokens


class TopUpWalletAnswer(TypedDict):
    user_id: Text
    planned_token: Tokens
    outcome: Annotated[str | None, Words(OUTCOMES), "Null: not processed yet."]
    posted_token: Tokens
    transaction_id: Count | None


class OutlookAnswer(TypedDict):
    """What a schedule would do."""

    dates: Annotated[list[Day], "When it falls due next."]
    wallets: Annotated[Count, "How many wallets match now."]
    planned_token: Annotated[Tokens, "The total that they would get if it fell due now."]


class ScheduleHeadAnswer(TypedDict):
    id: Count
    reference: Text
    state: Annotated[str, Words(ScheduleState)]
    package_id: Text | None
    user_id: Text | None
    wallet_status: Annotated[str | None, Words(WalletStatus), "Only wallets of this status; null: of any."]
    token: Annotated[Tokens | None, "What each wallet gets; null: it is filled up."]
    fill_up_to_token: Annotated[Tokens | None, "Up to which posted balance each wallet is filled."]
    period: Annotated[str, Words(Period)]
    day: Annotated[Count | None, "1 (Monday) to 7 of a week; 1 to 31 of a month, its last where it is shorter."]
    starts_on: Day
    ends_on: Annotated[Day | None, "The last day on which it may fall due."]
    catch_up: Annotated[str, Words(CatchUp)]
    next_on: Annotated[Day | None, "When it falls due next; null: never again."]
    reason: Text
    actor: Text | None
    created_at: Moment


class ScheduleAnswer(ScheduleHeadAnswer, OutlookAnswer):
    pass


def top_up_answer(view: TopUpView) -> TopUpAnswer:
    batch, results = view.batch, view.results
    done = results.topped_up + results.skipped + results.refused
    return {
        "id": batch.id,
        "reference": batch.reference,
        "state": batch.state,
        "schedule_id": batch.schedule_id,
        "due_on": _text(batch.due_on),
        "package_id": batch.target.package_id,
        "user_id": batch.target.user_id,
        "wallet_status": batch.target.status,
        "token": _added(batch.amount),
        "fill_up_to_token": _filled(batch.amount),
        "reason": batch.reason,
        "actor": batch.actor,
        "created_at": moment_text(batch.created_at),
        "applied_by": batch.applied_by,
        "applied_at": _moment(batch.applied_at),
        "finished_at": _moment(batch.finished_at),
        "wallets": batch.planned.wallets,
        "planned_token": token_number(batch.planned.micros),
        "topped_up": results.topped_up,
        "skipped": results.skipped,
        "refused": results.refused,
        "waiting": batch.planned.wallets - done,
        "posted_token": token_number(results.posted_micros),
    }


def top_up_wallet_answer(member: BatchWallet) -> TopUpWalletAnswer:
    return {
        "user_id": member.user_id,
        "planned_token": token_number(member.planned_micros),
        "outcome": member.outcome,
        "posted_token": token_number(member.posted_micros),
        "transaction_id": member.transaction_id,
    }


def schedule_head_answer(schedule: TopUpSchedule) -> ScheduleHeadAnswer:
    """A schedule as it is in lists, without what it would do now."""
    calendar = schedule.rhythm.calendar
    return {
        "id": schedule.id,
        "reference": schedule.reference,
        "state": schedule.state,
        "package_id": schedule.target.package_id,
        "user_id": schedule.target.user_id,
        "wallet_status": schedule.target.status,
        "token": _added(schedule.amount),
        "fill_up_to_token": _filled(schedule.amount),
        "period": calendar.period,
        "day": calendar.day,
        "starts_on": schedule.starts_on.isoformat(),
        "ends_on": _text(schedule.rhythm.ends_on),
        "catch_up": schedule.rhythm.catch_up,
        "next_on": _text(schedule.next_on),
        "reason": schedule.reason,
        "actor": schedule.actor,
        "created_at": moment_text(schedule.created_at),
    }


def schedule_answer(view: ScheduleView) -> ScheduleAnswer:
    return {**schedule_head_answer(view.schedule), **outlook_answer(view.outlook)}


def outlook_answer(outlook: Outlook) -> OutlookAnswer:
    return {
        "dates": [day.isoformat() for day in outlook.dates],
        "wallets": outlook.planned.wallets,
        "planned_token": token_number(outlook.planned.micros),
    }


def _added(amount: TopUpAmount) -> int | Decimal | None:
    return token_number(amount.micros) if amount.mode is TopUpMode.ADD else None


def _filled(amount: TopUpAmount) -> int | Decimal | None:
    return token_number(amount.micros) if amount.mode is TopUpMode.FILL else None


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)


def _text(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
