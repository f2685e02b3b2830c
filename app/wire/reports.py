"""Answers of reports over all wallets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, NotRequired, TypedDict, cast

from app.domain.amounts import token_number
from app.domain.moments import moment_text
from app.domain.reports import Group
from app.operations.reports import Totals
from app.stores.postgres.archives import Archive
from app.stores.postgres.usage import UsageRow, group_value
from app.wire.types import Count, Day, Moment, Text, Tokens


class UsageKeyAnswer(TypedDict):
    """What it is added up by."""

    day: NotRequired[Day]
    feature_endpoint_id: NotRequired[Text]
    model: NotRequired[Text | None]
    user_id: NotRequired[Text]
    price_id: NotRequired[Annotated[Count | None, "null: priced by the default rule."]]


class UsageFiguresAnswer(TypedDict):
    runs: Count
    input_token: Count
    output_token: Count
    cached_input_token: Count
    cache_write_token: Count
    reasoning_token: Count
    requests: Count
    base_cost: Tokens
    profit: Tokens
    cost: Tokens
    corrected: Annotated[Tokens, "What corrections gave back; negative if they charged more than that."]
    written_off: Tokens
    net: Annotated[Tokens, "Cost, with corrections and without what was written off."]


class UsageRowAnswer(UsageKeyAnswer, UsageFiguresAnswer):
    pass


def usage_row_answer(groups: Sequence[Group], row: UsageRow) -> UsageRowAnswer:
    key = {group.value: _group_value(group, value) for group, value in zip(groups, row.key, strict=True)}
    figures: UsageFiguresAnswer = {
        "runs": row.runs,
        "input_token": row.input_tokens,
        "output_token": row.output_tokens,
        "cached_input_token": row.cached_input_tokens,
        "cache_write_token": row.cache_write_tokens,
        "reasoning_token": row.reasoning_tokens,
        "requests": row.requests,
        "base_cost": token_number(row.base_cost_micros),
        "profit": token_number(row.profit_micros),
        "cost": token_number(row.cost_micros),
        "corrected": token_number(row.corrected_micros),
        "written_off": token_number(row.written_off_micros),
        "net": token_number(row.net_micros),
    }
    return cast(UsageRowAnswer, {**key, **figures})


class FailedEndCountsAnswer(TypedDict):
    retrying: Count
    dead: Count


class TotalsAnswer(TypedDict):
    wallets: Count
    liability_token: Annotated[Tokens, "What is owed to users: the sum of all balances above zero."]
    overdrawn_token: Annotated[Tokens, "The sum of all balances below zero, as a positive number."]
    pending_token: Tokens
    debt_token: Tokens
    held_token: Annotated[Tokens | None, "null: Redis doesn't answer, which keeps the holds."]
    failed_ends: FailedEndCountsAnswer


def totals_answer(totals: Totals) -> TotalsAnswer:
    found = totals.postgres
    return {
        "wallets": found.wallets,
        "liability_token": token_number(found.liability_micros),
        "overdrawn_token": token_number(found.overdrawn_micros),
        "pending_token": token_number(found.pending_micros),
        "debt_token": token_number(found.debt_micros),
        "held_token": None if totals.held_micros is None else token_number(totals.held_micros),
        "failed_ends": {"retrying": found.retrying, "dead": found.dead},
    }


class ArchiveAnswer(TypedDict):
    month: Text
    entries: Count
    last_entry_id: Count
    file_name: Text
    sha256: Text
    sealed_at: Moment
    removed_at: Moment | None


def archive_answer(archive: Archive) -> ArchiveAnswer:
    return {
        "month": f"{archive.month:%Y-%m}",
        "entries": archive.entries,
        "last_entry_id": archive.last_entry_id,
        "file_name": archive.file_name,
        "sha256": archive.sha256,
        "sealed_at": moment_text(archive.sealed_at),
        "removed_at": None if archive.removed_at is None else moment_text(archive.removed_at),
    }


def _group_value(group: Group, value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else group_value(group, value)
