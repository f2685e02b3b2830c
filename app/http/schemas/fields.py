"""Fields that neither guess nor round: a wrong type is an error, and no number passes through a float.

For the API's description, each field has its JSON Schema (`shape`), and writes loaded values back (`wire_value`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar

from marshmallow import ValidationError, fields

from app.domain import inputs, top_ups
from app.domain.amounts import token_number
from app.domain.inputs import ID_LENGTH_MAX
from app.domain.price_limits import RATE_MICROS_MAX
from app.domain.reports import moment_or_day
from app.domain.usage import USAGE_TOKENS_MAX
from app.http.schemas import shapes
from app.http.schemas.shapes import Shape

IDEMPOTENCY_KEY_LENGTH_MAX = 255

T = TypeVar("T")


def _checked(check: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return check(*args, **kwargs)
    except ValueError as error:
        raise ValidationError(str(error)) from None


def is_plain_text(value: Any, length_max: int) -> bool:
    """Whether this is obviously a valid text: nothing but printable ASCII."""
    return type(value) is str and value.isascii() and value.isprintable() and 0 < len(value) <= length_max


def check_text(value: Any, length_max: int) -> str:
    """An id, a key or a reference. Raises ValidationError."""
    if is_plain_text(value, length_max):
        return str(value)
    return _checked(inputs.identifier, value, length_max)


def whole_number(value: Any, least: int, most: int) -> int:
    """An integer, also written as 40.0 or 4e1, within bounds. Raises ValidationError."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ValidationError("Must be a number.")
    # Check the exponent first: converting 1e999999999 to an integer would exhaust memory.
    if isinstance(value, Decimal) and (not value.is_finite() or value.adjusted() > 18):
        raise ValidationError(f"Must be from {least} to {most}.")
    if value != int(value):
        raise ValidationError("Must be a whole number.")
    if not least <= value <= most:
        raise ValidationError(f"Must be from {least} to {most}.")
    return int(value)


class Text(fields.Field[str]):
    """The text of an id, a key or a reference."""

    def __init__(self, *, length_max: int = ID_LENGTH_MAX, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._length_max = length_max

    def is_plain(self, value: Any) -> bool:
        """Whether a value is obviously valid and loaded as it is. Used by `compiled.py`."""
        return is_plain_text(value, self._length_max)

    def shape(self) -> Shape:
        return shapes.identifier(self._length_max)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        return check_text(value, self._length_max)


class FreeText(Text):
    """A name or a reason, for people to read."""

    def shape(self) -> Shape:
        return shapes.printable(self._length_max)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        return _checked(inputs.printable, value, self._length_max)


class NewId(fields.Field[str]):
    """The id of a thing to be created. It will be used in paths."""

    _check = staticmethod(inputs.path_id)

    def shape(self) -> Shape:
        return shapes.path_id()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        return _checked(self._check, value)


class NewUserId(NewId):
    """The id of a user whose wallet is to be created."""

    _check = staticmethod(inputs.new_user_id)

    def shape(self) -> Shape:
        return shapes.new_user_id()


class Flag(fields.Field[bool]):
    """A boolean: true or false, and no other value that could stand for one."""

    def shape(self) -> Shape:
        return {"type": "boolean"}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Must be true or false.")
        return value


class WholeNumber(fields.Field[int]):
    def __init__(self, *, least: int = 0, most: int = USAGE_TOKENS_MAX, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._least = least
        self._most = most

    def is_plain(self, value: Any) -> bool:
        """Whether a value is obviously valid and loaded as it is. Used by `compiled.py`."""
        return type(value) is int and self._least <= value <= self._most

    def shape(self) -> Shape:
        return shapes.whole_number(self._least, self._most)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        return whole_number(value, self._least, self._most)


class TokenAmount(fields.Field[int]):
    """A JSON number of tokens with at most six decimals; loads as micro-tokens."""

    def __init__(self, *, allow_negative: bool = False, allow_zero: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._allow_negative = allow_negative
        self._allow_zero = allow_zero

    def shape(self) -> Shape:
        return shapes.amount(allow_negative=self._allow_negative, allow_zero=self._allow_zero)

    def wire_value(self, micros: int) -> int | Decimal:
        return token_number(micros)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        return _checked(inputs.amount_micros, value, allow_negative=self._allow_negative, allow_zero=self._allow_zero)


class Rate(fields.Field[int]):
    """The price of a million tokens or of a request, as a JSON number of tokens; loads as micro-tokens."""

    def __init__(self, *, micros_max: int = RATE_MICROS_MAX, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._micros_max = micros_max

    def shape(self) -> Shape:
        return shapes.amount(allow_zero=True, micros_max=self._micros_max)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        return _checked(inputs.rate_micros, value, self._micros_max)


class ModelOrPattern(fields.Field[str]):
    """A model's id, or a prefix of ids followed by a star."""

    def shape(self) -> Shape:
        return shapes.model_or_pattern()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        return _checked(inputs.model_or_pattern, value)


class Percentage(fields.Field[int]):
    """A percentage from 0 to 10,000 with at most two decimals; loads as basis points."""

    def shape(self) -> Shape:
        return shapes.percentage()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        return _checked(inputs.profit_basis_points, value)


class Moment(fields.Field[datetime]):
    """An ISO 8601 date and time with its offset."""

    def shape(self) -> Shape:
        return shapes.moment()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        return _checked(inputs.moment, value)


class MomentOrDay(fields.Field[datetime]):
    """An ISO 8601 date and time with its offset, or a day, which means its beginning."""

    def shape(self) -> Shape:
        return shapes.moment_or_day()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        return _checked(moment_or_day, value)


class Day(fields.Field[date]):
    """A day, such as 2030-01-31."""

    def shape(self) -> Shape:
        return shapes.day()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> date:
        return _checked(top_ups.due_day, value)
