"""Kinds of columns in exported tables, and how cells are protected from being read as formulas."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    TEXT = "text"
    """Text from outside: ids, names, reasons."""
    WORD = "word"
    """One of a few words of our own, or a UUID."""
    COUNT = "count"
    """A whole number."""
    AMOUNT = "amount"
    """An amount of tokens, converted from micro-tokens: an exact decimal."""
    MOMENT = "moment"
    DAY = "day"


# Spreadsheets take a cell that begins with one of these, also in East Asian full width, for a formula. Control
# characters need no check: no text of ours has any.
FORMULA_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"


def guarded(text: str) -> str:
    """A cell's text, with an apostrophe in front where a spreadsheet would take it for a formula."""
    return f"'{text}" if text[:1] and text[0] in FORMULA_SIGNS else text
