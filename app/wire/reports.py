"""What administrators get to see of all wallets together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from app.domain.amounts import token_number
from app.domain.moments import moment_text
from app.domain.reports import Group
from app.operations.reports import Totals
from app.stores.postgres.archives import Archive
from app.stores.postgres.usage import UsageRow, group_value

Answer = dict[str, Any]


def usage_row_answer(groups: Sequence[Group], row: UsageRow) -> Answer:
    key = {group.value: _group_value(group, value) for group, value in zip(groups, row.key, strict=True)}
    return {
        **key,
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


def totals_answer(totals: Totals) -> Answer:
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


def archive_answer(archive: Archive) -> Answer:
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
