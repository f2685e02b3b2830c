"""The columns of exports: name, kind of value, and how Postgres writes it.

Postgres itself writes the CSV. Amounts are exact decimals of tokens, moments ISO 8601 in UTC, as in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from app.domain.tables import FORMULA_SIGNS, Kind


class Style(StrEnum):
    """Who will read the text."""

    SHEET = "sheet"
    """Also spreadsheets: no cell begins like a formula."""
    EXACT = "exact"
    """Programs: text is written as it is."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    kind: Kind
    value: sa.ColumnElement[Any]

    def written(self, style: Style) -> sa.ColumnElement[Any]:
        """The SQL expression of the value as it is written to the file."""
        match self.kind:
            case Kind.AMOUNT:
                exact = sa.cast(self.value, sa.Numeric) * sa.literal_column("0.000001")
                # 989, and not 989.000000.
                return sa.func.trim_scale(exact).label(self.name)
            case Kind.MOMENT:
                utc = sa.func.timezone("UTC", self.value)
                return sa.func.to_char(utc, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"').label(self.name)
            case Kind.TEXT if style is Style.SHEET:
                return _guarded(self.value).label(self.name)
        return self.value.label(self.name)


def selection(columns: Sequence[Column], style: Style) -> list[sa.ColumnElement[Any]]:
    return [column.written(style) for column in columns]


def _guarded(text: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """An apostrophe before text that a spreadsheet would take for a formula. The apostrophe is visible, but nothing is
    executed.
    """
    signs = sa.func.left(text, 1).in_(list(FORMULA_SIGNS))
    return sa.case((signs, sa.func.concat("'", text)), else_=text)
