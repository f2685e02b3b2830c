"""Arrays as Postgres reads them, for statements with thousands of values.

psycopg turns a list into an array value by value, in Python and through a choice of type for each, which takes several
times as long as these do. The statement names the type: `CAST(:ids AS uuid[])`.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID


def id_array(ids: Iterable[UUID]) -> str:
    return f"{{{','.join(map(str, ids))}}}"


def text_array(texts: Iterable[str | None]) -> str:
    return f"{{{','.join(['NULL' if text is None else _quoted(text) for text in texts])}}}"


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
