"""Forms: what they ask for, what was typed, and what is wrong with it.

A `Form` is a list of fields, made once. `read` makes a `Filled` of what a browser sent: the texts as they were typed,
which are shown again whatever becomes of them, the values that they mean, and what is wrong, by field. Use cases name
fields by the wire's names: `Filled.refused` finds the field that an error is about.
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

# A number as people write it: digits, groups of three, a decimal point.
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
    """Carried along from where somebody came."""
    SECRET = "secret"  # noqa: S105 - a kind of field


@dataclass(frozen=True)
class Field:
    """`choices` are (value, label), or a function that tells them when the form is shown."""

    name: str
    label: str
    parse: Parse
    kind: Kind = Kind.TEXT
    is_required: bool = True
    help: str = ""
    default: str = ""
    choices: Sequence[Choice] | Callable[[], Sequence[Choice]] = ()
    # What stands for no choice where none has to be made: "any" for filters.
    unchosen: str = "any"
    unit: str = ""
    # Names, besides its own, by which use cases speak of it in errors.
    wire_names: tuple[str, ...] = ()
    # Proposed while typing.
    proposals: Callable[[], Sequence[str]] | None = None

    def options(self) -> Sequence[Choice]:
        return self.choices() if callable(self.choices) else self.choices


@dataclass(frozen=True)
class Filled:
    """A form as somebody has filled it in. `general` are errors of no field."""

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
        """Name and text of all that was typed, as it would be sent once more."""
        return [(name, text) for name, texts in self.texts.items() for text in texts if text]

    def refused(self, error: DomainError) -> Filled:
        """The same, with what a use case says against it."""
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
        """As it is first shown."""
        given = initial or {}
        texts: dict[str, list[str]] = {}
        for each in self.fields:
            value = given.get(each.name, each.default)
            texts[each.name] = [value] if isinstance(value, str) else list(value)
        return Filled(self, texts)

    def read(self, sent: MultiDict[str, str]) -> Filled:
        """What was sent, checked field by field. An empty text is none, for which the value is None."""
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
        """The field that a use case means."""
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


# Parsers. Each takes what was typed and raises ValueError with the reason.


def identifier(length_max: int = ID_LENGTH_MAX) -> Parse:
    return lambda text: inputs.identifier(text, length_max)


def printable(length_max: int) -> Parse:
    return lambda text: inputs.printable(text, length_max)


def plain(text: str) -> str:
    """What comes from a list of choices."""
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
        # Before it becomes an integer: 1e999999999 would fill the memory.
        raise ValueError("Too large.")
    return found


def amount(*, allow_negative: bool = False, allow_zero: bool = False) -> Parse:
    """Tokens, as micro-tokens."""
    return lambda text: inputs.amount_micros(number(text), allow_negative=allow_negative, allow_zero=allow_zero)


def rate(micros_max: int) -> Parse:
    """Tokens for a million tokens, or for a request, as micro-tokens."""
    return lambda text: inputs.rate_micros(number(text), micros_max)


def percentage(text: str) -> int:
    """As basis points."""
    return inputs.profit_basis_points(number(text.rstrip("% ")))


def whole(least: int, most: int) -> Parse:
    def parse(text: str) -> int:
        digits = text.translate(_SEPARATORS)
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and least <= int(digits) <= most):
            raise ValueError(f"Must be a whole number from {least:,} to {most:,}.")
        return int(digits)

    return parse


def duration(least_seconds: int, most_seconds: int) -> Parse:
    """As seconds."""

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
    """As it is typed."""
    return written_duration(seconds) if seconds else "0"


def moment(text: str) -> datetime:
    """A day, or a moment; without an offset it is meant in UTC, as everything on these pages is."""
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
