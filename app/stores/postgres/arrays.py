"""Arrays as text literals, for statements with thousands of values.

psycopg turns a list into an array value by value in Python, choosing a type for each, which takes several times as long
as these functions. The statement names the type: `CAST(:ids AS uuid[])`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg


def id_array(ids: Iterable[UUID]) -> str:
    return f"{{{','.join(map(str, ids))}}}"


def number_array(numbers: Iterable[int | None]) -> str:
    return f"{{{','.join(['NULL' if number is None else str(number) for number in numbers])}}}"


def moment_array(moments: Iterable[datetime | None]) -> str:
    return text_array(None if moment is None else moment.isoformat() for moment in moments)


def text_array(texts: Iterable[str | None]) -> str:
    return f"{{{','.join(['NULL' if text is None else _quoted(text) for text in texts])}}}"


def is_any(column: sa.ColumnElement[Any], ids: Iterable[UUID]) -> sa.ColumnElement[bool]:
    """That a column is one of these ids: one parameter, where IN would take one for each id."""
    return column == sa.func.any(sa.cast(sa.literal(id_array(ids), sa.Text), pg.ARRAY(pg.UUID)))


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
