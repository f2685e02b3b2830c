"""Forms: their fields, what was typed into them, and what is wrong with it.

A `Form` is a list of fields, made once. `read` turns what a browser sent into a `Filled`: the texts as typed, which are
always shown again, the values parsed from them, and the errors by field. Errors of use cases have the wire's names of
fields; `Filled.refused` finds the form's fields that they are about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

from werkzeug.datastructures import MultiDict

from app.domain import inputs, reports
from app.domain.errors import DomainError
from app.domain.failed_ends import duration_seconds
from app.domain.failed_ends import duration_text as written_duration
from app.domain.inputs import ID_LENGTH_MAX, REASON_LENGTH_MAX, REFERENCE_LENGTH_MAX

Parse = Callable[[str], Any]
Choice = tuple[str, str]

# Limits and separators of numbers as people write them: digits, in groups of three, with a decimal point.
DIGITS_MAX = 30
_SEPARATORS = str.maketrans("", "", ",_ \u00a0\u202f")


class Kind(StrEnum):
    """How a field is shown."""

    TEXT = "text"
    AREA = "area"
    NUMBER = "number"
    CHOICE = "choice"
    MANY = "many"
    FLAG = "flag"
    DAY = "day"
    FILE = "file"
    HIDDEN = "hidden"
    """Not shown: a value carried along from the page before."""
    SECRET = "secret"  # noqa: S105 - a kind of field


@dataclass(frozen=True)
class Field:
    """A field of a form. `choices` are (value, label), or a function that returns them when the form is shown."""

    name: str
    label: str
    parse: Parse
    kind: Kind = Kind.TEXT
    is_required: bool = True
    help: str = ""
    default: str = ""
    choices: Sequence[Choice] | Callable[[], Sequence[Choice]] = ()
    # The label of choosing nothing, if no choice is required: "any" for filters.
    unchosen: str = "any"
    unit: str = ""
    # Other names that errors of use cases may have for this field.
    wire_names: tuple[str, ...] = ()
    # Values suggested while typing.
    proposals: Callable[[], Sequence[str]] | None = None

    def options(self) -> Sequence[Choice]:
        return self.choices() if callable(self.choices) else self.choices


@dataclass(frozen=True)
class Filled:
    """A form as filled in. `general` are errors that aren't about a single field."""

    form: Form
    texts: Mapping[str, list[str]]
    values: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, list[str]] = field(default_factory=dict)
    general: Sequence[str] = ()

    @property
    def is_valid(self) -> bool:
        return not self.errors and not self.general

    def text(self, name: str) -> str:
        return next(iter(self.texts.get(name, ())), "")

    def pairs(self) -> list[tuple[str, str]]:
        """All that was typed as (name, text), as it would be sent again."""
        return [(name, text) for name, texts in self.texts.items() for text in texts if text]

    def refused(self, error: DomainError) -> Filled:
        """The same form with the errors of a use case."""
        errors: dict[str, list[str]] = {}
        general: list[str] = []
        for name, reasons in (error.errors or {}).items():
            found = self.form.named(name)
            if found is None:
                general += [f"{name}: {reason}" for reason in reasons]
            else:
                errors.setdefault(found.name, []).extend(reasons)
        return replace(self, errors=errors, general=[f"{error.message}." if not errors else error.message, *general])


@dataclass(frozen=True)
class Form:
    fields: Sequence[Field]

    def blank(self, initial: Mapping[str, str | Sequence[str]] | None = None) -> Filled:
        """The form as it is first shown."""
        given = initial or {}
        texts: dict[str, list[str]] = {}
        for each in self.fields:
            value = given.get(each.name, each.default)
            texts[each.name] = [value] if isinstance(value, str) else list(value)
        return Filled(self, texts)

    def read(self, sent: MultiDict[str, str]) -> Filled:
        """Check what was sent, field by field. The value of an empty text is None."""
        texts: dict[str, list[str]] = {}
        values: dict[str, Any] = {}
        errors: dict[str, list[str]] = {}
        for each in self.fields:
            if each.kind is Kind.FILE:
                continue
            given = [text.strip() for text in sent.getlist(each.name)]
            given = [text for text in given if text]
            texts[each.name] = given
            try:
                values[each.name] = _value(each, given)
            except ValueError as error:
                errors[each.name] = [str(error)]
        return Filled(self, texts, values, errors)

    def named(self, wire_name: str) -> Field | None:
        """The field that has this name, or for which errors of use cases have it."""
        for each in self.fields:
            if wire_name == each.name or wire_name in each.wire_names:
                return each
        return None


def _value(asked: Field, given: Sequence[str]) -> Any:
    """Raises ValueError."""
    if asked.kind is Kind.FLAG:
        return bool(given)
    if asked.kind is Kind.MANY:
        known = {value for value, _ in asked.options()}
        if any(text not in known for text in given):
            raise ValueError("Must be some of those that are offered.")
        return [asked.parse(text) for text in given]
    if len(given) > 1:
        raise ValueError("Must be given once.")
    if not given:
        if asked.is_required:
            raise ValueError("Must be filled in.")
        return None
    if asked.kind is Kind.CHOICE and given[0] not in {value for value, _ in asked.options()}:
        raise ValueError("Must be one of those that are offered.")
    return asked.parse(given[0])


# Parsers. Each takes what was typed, and raises ValueError with the reason if it is wrong.


def identifier(length_max: int = ID_LENGTH_MAX) -> Parse:
    return lambda text: inputs.identifier(text, length_max)


def printable(length_max: int) -> Parse:
    return lambda text: inputs.printable(text, length_max)


def plain(text: str) -> str:
    """A value from a list of choices, which is checked elsewhere."""
    return text


def flag(text: str) -> bool:
    return bool(text)


def number(text: str) -> int | Decimal:
    """A number with or without groups of three: 1250.5, 1,250.5."""
    try:
        found = Decimal(text.translate(_SEPARATORS))
    except InvalidOperation:
        raise ValueError("Must be a number, such as 1250.5.") from None
    if not found.is_finite():
        raise ValueError("Must be a number, such as 1250.5.")
    if found.adjusted() > DIGITS_MAX:
        # Check before converting to an integer: 1e999999999 would exhaust memory.
        raise ValueError("Too large.")
    return found


def amount(*, allow_negative: bool = False, allow_zero: bool = False) -> Parse:
    """An amount of tokens; parsed to micro-tokens."""
    return lambda text: inputs.amount_micros(number(text), allow_negative=allow_negative, allow_zero=allow_zero)


def rate(micros_max: int) -> Parse:
    """A price in tokens for a million tokens, or for a request; parsed to micro-tokens."""
    return lambda text: inputs.rate_micros(number(text), micros_max)


def percentage(text: str) -> int:
    """A percentage; parsed to basis points."""
    return inputs.profit_basis_points(number(text.rstrip("% ")))


def whole(least: int, most: int) -> Parse:
    def parse(text: str) -> int:
        digits = text.translate(_SEPARATORS)
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and least <= int(digits) <= most):
            raise ValueError(f"Must be a whole number from {least:,} to {most:,}.")
        return int(digits)

    return parse


def duration(least_seconds: int, most_seconds: int) -> Parse:
    """A duration; parsed to seconds."""

    def parse(text: str) -> int:
        try:
            seconds = duration_seconds(text.translate(_SEPARATORS))
        except ValueError:
            seconds = whole(0, most_seconds)(text) if text.isascii() and text.isdigit() else -1
        if not least_seconds <= seconds <= most_seconds:
            least, most = duration_text(least_seconds), duration_text(most_seconds)
            raise ValueError(f"Must be from {least} to {most}, such as 90s, 15m, 24h or 7d.")
        return seconds

    return parse


def duration_text(seconds: int) -> str:
    """A duration as it is typed into a form."""
    return written_duration(seconds) if seconds else "0"


def moment(text: str) -> datetime:
    """A day, or a date and time. Without an offset it is in UTC, like all times in the console."""
    try:
        return reports.moment_or_day(text)
    except ValueError:
        try:
            naive = datetime.fromisoformat(text)
        except ValueError:
            naive = None
        if naive is None or naive.tzinfo is not None:
            raise ValueError("Must be a day, or a day and a time in UTC: 2030-01-31 14:30.") from None
        return naive.replace(tzinfo=UTC)


REASON = Field(
    "reason",
    "Reason",
    printable(REASON_LENGTH_MAX),
    help="Why this is done. It is kept with the change, beside who did it.",
)
REFERENCE = Field(
    "reference",
    "Reference",
    identifier(REFERENCE_LENGTH_MAX),
    help="Such as a ticket or an invoice. The same reference never posts twice.",
)
