"""Answers about samples, the state of the installation in a minute."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, TypedDict

from app.domain.amounts import token_number
from app.domain.moments import moment_text
from app.stores.postgres.samples import Sample
from app.wire.types import Count, Moment, Seconds, Tokens


class SampleAnswer(TypedDict):
    minute: Annotated[Moment, "When the minute begins."]
    accepted: Annotated[Count, "Runs accepted in this minute."]
    settled: Annotated[Count, "Runs entered in the ledger in this minute."]
    lag_median_seconds: Annotated[Seconds | None, "Median of the time from acceptance to the ledger entry."]
    lag_p95_seconds: Annotated[Seconds | None, "95 of 100 of these were. Collected debts don't count."]
    backlog: Annotated[Count, "Accepted ends waiting for settlement right after the minute."]
    backlog_age_seconds: Annotated[Seconds | None, "Age of the oldest of these ends."]
    pending_token: Annotated[Tokens, "What they cost."]
    retrying: Annotated[Count, "Failed ends that are retried automatically."]
    retrying_token: Tokens
    dead: Annotated[Count, "Failed ends that aren't retried automatically any more."]
    dead_token: Tokens
    debt_token: Annotated[Tokens, "What all wallets owe."]
    oldest_debt_seconds: Annotated[Seconds | None, "Age of the oldest failed end."]
    liability_token: Annotated[Tokens, "What is owed to users: the sum of all balances above zero."]
    overdrawn_token: Annotated[Tokens, "The sum of all balances below zero, as a positive number."]
    wallets: Count
    held_token: Annotated[Tokens | None, "null: Redis, which keeps the holds, was away."]


def sample_answer(sample: Sample) -> SampleAnswer:
    return {
        "minute": moment_text(sample.minute),
        "accepted": sample.accepted,
        "settled": sample.settled,
        "lag_median_seconds": _seconds(sample.lag_median_seconds),
        "lag_p95_seconds": _seconds(sample.lag_p95_seconds),
        "backlog": sample.backlog,
        "backlog_age_seconds": _seconds(sample.backlog_age_seconds),
        "pending_token": token_number(sample.pending_micros),
        "retrying": sample.retrying,
        "retrying_token": token_number(sample.retrying_micros),
        "dead": sample.dead,
        "dead_token": token_number(sample.dead_micros),
        "debt_token": token_number(sample.debt_micros),
        "oldest_debt_seconds": _seconds(sample.oldest_debt_seconds),
        "liability_token": token_number(sample.liability_micros),
        "overdrawn_token": token_number(sample.overdrawn_micros),
        "wallets": sample.wallets,
        "held_token": None if sample.held_micros is None else token_number(sample.held_micros),
    }


def _seconds(seconds: float | None) -> int | Decimal | None:
    return None if seconds is None else Decimal(f"{seconds:.3f}")
