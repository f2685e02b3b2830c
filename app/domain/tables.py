"""What a column of a table that leaves the server holds, and what no cell for spreadsheets may begin with."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    TEXT = "text"
    """From outside: ids, names, reasons."""
    WORD = "word"
    """One of a few words of our own, or a UUID."""
    COUNT = "count"
    """A whole number."""
    AMOUNT = "amount"
    """Tokens, from micro-tokens: an exact decimal."""
    MOMENT = "moment"
    DAY = "day"


# By which spreadsheets know a formula, in the full width of East Asia too. Control characters no text of ours has.
FORMULA_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"


def guarded(text: str) -> str:
    """A cell's text with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text[:1] and text[0] in FORMULA_SIGNS else text
