"""Checks of values from outside, for every edge. Each check raises ValueError with the reason."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from app.domain.amounts import MICROS_PER_TOKEN, micros_from_number
from app.domain.pricing import PROFIT_BASIS_POINTS_MAX

Word = TypeVar("Word", bound=StrEnum)

ID_LENGTH_MAX = 128
NAME_LENGTH_MAX = 200
REFERENCE_LENGTH_MAX = 255
REASON_LENGTH_MAX = 1_000
ACTOR_LENGTH_MAX = 128
PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 200

# Long enough to match numbers with too many digits: the error then says that there are too many.
_NUMBER = re.compile(r"-?[0-9]{1,256}(\.[0-9]{1,256})?")
_EXPONENT = re.compile(r"[eE][+-]?[0-9]{1,3}\Z")
# Control characters (C0 and C1), line separators and surrogate halves: Postgres, logs or people can't take these.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# These change the order in which a text is displayed, so that two different ids could look the same.
_BIDIRECTIONAL = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f]")
# What can follow a user id in paths. An id with such a part inside would be read as another id and a part.
WALLET_PARTS = (
    "top-ups",
    "refunds",
    "adjustments",
    "chargebacks",
    "transactions",
    "statement",
    "balances",
    "holds",
    "balance-rules",
    "auto-top-up",
)


def printable(value: object, length_max: int) -> str:
    """A non-empty printable string of bounded length, for people to read, such as a name or a reason."""
    if not isinstance(value, str):
        raise ValueError("Must be a string.")  # noqa: TRY004
    if not 1 <= len(value) <= length_max:
        raise ValueError(f"Must have 1 to {length_max} characters.")
    if _UNPRINTABLE.search(value):
        raise ValueError("Must not contain control characters.")
    return value


def identifier(value: object, length_max: int) -> str:
    """A string by which something is found again, such as an id, a key or a reference."""
    text = printable(value, length_max)
    if _BIDIRECTIONAL.search(text):
        raise ValueError("Must not contain characters that change the direction of writing.")
    return text


def path_id(value: object) -> str:
    """An id to be created, which will be part of paths. It may contain slashes, but no '.' or '..' as a part."""
    text = identifier(value, ID_LENGTH_MAX)
    if {".", ".."} & set(text.split("/")):
        # Clients and proxies turn `a/../b` into `b`, however it is encoded.
        raise ValueError("Must not have '.' or '..' as a part between slashes.")
    return text


def new_user_id(value: object) -> str:
    """The id of a user whose wallet is to be created."""
    text = path_id(value)
    if set(WALLET_PARTS) & set(text.split("/")[1:]):
        raise ValueError(f"Must not have {', '.join(WALLET_PARTS)} as a part behind a slash.")
    return text


def amount_micros(number: object, *, allow_negative: bool = False, allow_zero: bool = False) -> int:
    """Micro-tokens of a number of tokens with at most six decimals."""
    micros = micros_from_number(_number(number))
    if micros < 0 and not allow_negative:
        raise ValueError("Must not be negative.")
    if micros == 0 and not allow_zero:
        raise ValueError("Must not be zero.")
    return micros


def profit_basis_points(percentage: object) -> int:
    """Basis points of a percentage from 0 to 10,000 with at most two decimals."""
    # Micro-units are finer than basis points, and `micros_from_number` reads them exactly.
    basis_points, rest = divmod(micros_from_number(_number(percentage)), 10_000)
    if rest:
        raise ValueError("At most 2 decimals.")
    if not 0 <= basis_points <= PROFIT_BASIS_POINTS_MAX:
        raise ValueError("Must be from 0 to 10000.")
    return basis_points


def number(text: str) -> Decimal:
    """A number as people write it: without an exponent, which would be a slip."""
    if not _NUMBER.fullmatch(text):
        raise ValueError("Must be a number, such as 12.5.")
    return Decimal(text)


def json_number(text: str) -> Decimal:
    """A number as programs write it, also with an exponent, such as 1e-06."""
    number(_EXPONENT.sub("", text))
    return Decimal(text)


def moment(value: object) -> datetime:
    """An ISO 8601 date and time with its offset, in UTC."""
    text = printable(value, 64)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("Must be an ISO 8601 date and time.") from None
    if parsed.tzinfo is None:
        raise ValueError("Must carry an offset, such as Z.")
    try:
        return parsed.astimezone(UTC)
    except OverflowError:
        # Postgres would store it, but Python couldn't read it back.
        raise ValueError("Must be within the years 1 to 9999.") from None


def model_or_pattern(value: object) -> str:
    """The id of a model, or the beginning of ids followed by a star."""
    text = identifier(value, ID_LENGTH_MAX)
    if "*" in text[:-1]:
        raise ValueError("May have a * as its last character only.")
    return text


def rate_micros(number: object, micros_max: int) -> int:
    """Micro-tokens of a rate in tokens with at most six decimals; 0 is free."""
    micros = amount_micros(number, allow_zero=True)
    if micros > micros_max:
        raise ValueError(f"Must be at most {micros_max // MICROS_PER_TOKEN}.")
    return micros


def some_of(words: type[Word], text: str) -> tuple[Word, ...]:
    """The words named in a comma-separated list, each at most once. Raises ValueError."""
    names = text.split(",")
    known = {word.value for word in words}
    if not set(names) <= known:
        raise ValueError(f"Must be some of {', '.join(words)}, separated by commas.")
    if len(set(names)) != len(names):
        raise ValueError("Must name each once.")
    return tuple(words(name) for name in names)


def _number(value: object) -> int | Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ValueError("Must be a number.")  # noqa: TRY004
    return value
