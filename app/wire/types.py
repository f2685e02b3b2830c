"""Types of the fields of answers.

An answer is a TypedDict beside the function that returns it, and mypy checks that they agree. The API's description
(`app/http/openapi/answers.py`) and the columns of tables (`columns.py`) are generated from it. A text in an annotation
explains a field whose name alone doesn't.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from app.domain.tables import Kind


@dataclass(frozen=True, slots=True, init=False)
class Words:
    """The field is one of a few fixed words."""

    values: tuple[str, ...]

    def __init__(self, values: Iterable[str]) -> None:
        object.__setattr__(self, "values", tuple(str(value) for value in values))


@dataclass(frozen=True, slots=True)
class Format:
    """The field is a text in one of JSON Schema's formats."""

    name: str


Text = Annotated[str, Kind.TEXT]
"""A text from outside: an id, a name, a reason."""
Uuid = Annotated[str, Kind.WORD, Format("uuid")]
Count = Annotated[int, Kind.COUNT]
Tokens = Annotated[int | Decimal, Kind.AMOUNT]
"""An amount of tokens, or a rate or a percentage: exact, never a float."""
Percent = Annotated[int | Decimal, Kind.AMOUNT, Format("percent")]
Moment = Annotated[str, Kind.MOMENT]
Day = Annotated[str, Kind.DAY]
Seconds = Annotated[int | Decimal, Kind.AMOUNT]
"""Seconds, to the millisecond."""
