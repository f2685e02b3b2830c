"""What the fields of answers hold.

An answer is a TypedDict beside the function that writes it: mypy holds the two together. The API's description is made
of it (`app/http/openapi/answers.py`), and the columns of a list that is answered as a table (`columns.py`). A text in
an annotation says what a field means where its name alone doesn't.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from app.domain.tables import Kind


@dataclass(frozen=True, slots=True, init=False)
class Words:
    """One of a few words of ours."""

    values: tuple[str, ...]

    def __init__(self, values: Iterable[str]) -> None:
        object.__setattr__(self, "values", tuple(str(value) for value in values))


@dataclass(frozen=True, slots=True)
class Format:
    """A text of ours in a form that JSON Schema has a name for."""

    name: str


Text = Annotated[str, Kind.TEXT]
"""From outside: an id, a name, a reason."""
Uuid = Annotated[str, Kind.WORD, Format("uuid")]
Count = Annotated[int, Kind.COUNT]
Tokens = Annotated[int | Decimal, Kind.AMOUNT]
"""An amount of tokens, or a rate or a percentage: exact, never a float."""
Percent = Annotated[int | Decimal, Kind.AMOUNT, Format("percent")]
Moment = Annotated[str, Kind.MOMENT]
Day = Annotated[str, Kind.DAY]
Seconds = Annotated[int | Decimal, Kind.AMOUNT]
"""To the millisecond."""
