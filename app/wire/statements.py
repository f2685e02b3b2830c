"""Answers of statements: a page of entries with the balances before and after, or a table in which these balances are
the first and the last line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Annotated, Any, TypedDict

from app.domain.amounts import token_number
from app.domain.moments import moment_text
from app.domain.tables import Kind
from app.operations.exports import Export
from app.operations.statements import Statement
from app.stores.postgres.statements import DayBalance
from app.wire.answers import TransactionAnswer, transaction_answer
from app.wire.cursors import page_answer
from app.wire.tables import csv_of_rows
from app.wire.types import Day, Moment, Text, Tokens

# The names of the two lines of a table that aren't entries.
OPENING, CLOSING = "opening", "closing"

StatementAnswer = TypedDict(
    "StatementAnswer",
    {
        "user_id": Text,
        "from": Moment | None,
        "to": Moment | None,
        "opening_token": Annotated[Tokens, "The posted balance before the first entry of the range."],
        "closing_token": Annotated[Tokens, "The posted balance after the last entry of the range."],
        "items": Annotated[list[TransactionAnswer], "Oldest first; `balance_after` is the running balance."],
        "next_cursor": Text | None,
    },
)


class DayBalanceAnswer(TypedDict):
    day: Day
    balance_token: Annotated[Tokens, "The posted balance when the day ended, or now."]


def statement_answer(statement: Statement) -> StatementAnswer:
    found = page_answer(statement.entries, lambda priced: transaction_answer(priced.entry, priced.card))
    return {
        "user_id": statement.user_id,
        "from": _moment_or_none(statement.since),
        "to": _moment_or_none(statement.until),
        "opening_token": token_number(statement.span.opening_micros),
        "closing_token": token_number(statement.span.closing_micros),
        "items": found["items"],
        "next_cursor": found["next_cursor"],
    }


def statement_lines(statement: Statement, export: Export) -> Iterator[bytes]:
    """Lines of CSV: the opening balance, the entries, the closing balance. Close it to end the export early."""
    with closing(export.blocks):  # type: ignore[type-var]
        yield _balance_line(export.columns, OPENING, statement.since, statement.span.opening_micros)
        yield from export.blocks
        yield _balance_line(export.columns, CLOSING, statement.until, statement.span.closing_micros)


def day_balance_answer(found: DayBalance) -> DayBalanceAnswer:
    return {"day": found.day.isoformat(), "balance_token": token_number(found.balance_micros)}


def _balance_line(columns: Mapping[str, Kind], kind: str, moment: datetime | None, micros: int) -> bytes:
    cells: dict[str, Any] = dict.fromkeys(columns)
    cells |= {"kind": kind, "balance_after": token_number(micros), "created_at": _moment_or_none(moment)}
    return b"".join(csv_of_rows(columns, [cells]))


def _moment_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
