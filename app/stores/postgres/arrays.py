"""Arrays as Postgres reads them, for statements with thousands of values.

psycopg turns a list into an array value by value, in Python and through a choice of type for each, which takes several
times as long as these do. The statement names the type: `CAST(:ids AS uuid[])`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID


def id_array(ids: Iterable[UUID]) -> str:
    return f"{{{','.join(map(str, ids))}}}"


def number_array(numbers: Iterable[int | None]) -> str:
    return f"{{{','.join(['NULL' if number is None else str(number) for number in numbers])}}}"


def moment_array(moments: Iterable[datetime | None]) -> str:
    return text_array(None if moment is None else moment.isoformat() for moment in moments)


def text_array(texts: Iterable[str | None]) -> str:
    return f"{{{','.join(['NULL' if text is None else _quoted(text) for text in texts])}}}"


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
