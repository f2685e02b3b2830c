"""JSON Schemas of values from outside, which describe the checks of `app/domain/inputs.py`.

A test compares them with the checks: values that fit a schema are accepted, others are refused. The one exception is
unpaired surrogates: the checks refuse them, but no pattern can describe them.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from app.domain.amounts import AMOUNT_MICROS_MAX, MICROS_PER_TOKEN
from app.domain.inputs import ID_LENGTH_MAX, WALLET_PARTS
from app.domain.keys import NAME_LENGTH_MAX, RESERVED_NAMES
from app.domain.pricing import PROFIT_BASIS_POINTS_MAX

Shape = dict[str, Any]

_UNPRINTABLE = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_BIDIRECTIONAL = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
_IDENTIFIER = f"[^{_UNPRINTABLE}{_BIDIRECTIONAL}]"
_NO_DOTS = r"(?!(?:.*/)?\.\.?(?:/|$))"
_NO_WALLET_PARTS = f"(?!.*/(?:{'|'.join(WALLET_PARTS)})(?:/|$))"


def identifier(length_max: int = ID_LENGTH_MAX) -> Shape:
    return _text(length_max, f"^{_IDENTIFIER}+$")


def printable(length_max: int) -> Shape:
    return _text(length_max, f"^[^{_UNPRINTABLE}]+$")


def path_id() -> Shape:
    return _text(ID_LENGTH_MAX, f"^{_NO_DOTS}{_IDENTIFIER}+$")


def new_user_id() -> Shape:
    return _text(ID_LENGTH_MAX, f"^{_NO_DOTS}{_NO_WALLET_PARTS}{_IDENTIFIER}+$")


def key_name() -> Shape:
    """The name of a key. Reserved names are refused in any case of letters."""
    reserved = "|".join("".join(f"[{c}{c.upper()}]" for c in name) for name in sorted(RESERVED_NAMES))
    return _text(NAME_LENGTH_MAX, f"^(?!(?:{reserved})$)[A-Za-z0-9][A-Za-z0-9._-]*$")


def model_or_pattern() -> Shape:
    return _text(ID_LENGTH_MAX, f"^[^*{_UNPRINTABLE}{_BIDIRECTIONAL}]*(?:{_IDENTIFIER})$")


def whole_number(least: int, most: int) -> Shape:
    return {"type": "integer", "minimum": least, "maximum": most}


def amount(*, allow_negative: bool = False, allow_zero: bool = False, micros_max: int = AMOUNT_MICROS_MAX) -> Shape:
    """A number of tokens with at most six decimals. Its upper bound is a whole number of tokens."""
    most = micros_max // MICROS_PER_TOKEN
    bounds: Shape
    if allow_negative:
        bounds = {"minimum": -most}
    elif allow_zero:
        bounds = {"minimum": 0}
    else:
        bounds = {"exclusiveMinimum": 0}
    shape = {"type": "number", **bounds, "maximum": most, "multipleOf": Decimal("0.000001")}
    if allow_negative and not allow_zero:
        shape["not"] = {"const": 0}
    return shape


def percentage(*, above_zero: bool = False, most: int = PROFIT_BASIS_POINTS_MAX // 100) -> Shape:
    least = {"exclusiveMinimum" if above_zero else "minimum": 0}
    return {"type": "number", **least, "maximum": most, "multipleOf": Decimal("0.01")}


def moment() -> Shape:
    return {"type": "string", "format": "date-time"}


def day() -> Shape:
    return {"type": "string", "format": "date"}


def duration() -> Shape:
    return {"type": "string", "pattern": "^[1-9][0-9]{0,4}[smhd]$"}


def moment_or_day() -> Shape:
    return {"anyOf": [moment(), day()]}


def one_of(values: Iterable[str]) -> Shape:
    return {"type": "string", "enum": [str(value) for value in values]}


def some_of(values: Iterable[str]) -> Shape:
    """A comma-separated list of these values, each at most once."""
    return {"type": "array", "items": one_of(values), "uniqueItems": True, "minItems": 1}


def at_least_one(*names: str) -> Shape:
    """A rule for an object: at least one of these fields is there, and isn't null."""
    return {"anyOf": [_given(name) for name in names]}


def exactly_one(*names: str) -> Shape:
    """A rule for an object: exactly one of these fields is there."""
    return {"oneOf": [_given(name) for name in names]}


def _given(name: str) -> Shape:
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def nullable(shape: Shape) -> Shape:
    """This shape, or null."""
    if "enum" in shape:
        return {**shape, "type": [shape["type"], "null"], "enum": [*shape["enum"], None]}
    # With a format, use anyOf: tools ignore a format beside several types.
    if isinstance(shape.get("type"), str) and "format" not in shape:
        return {**shape, "type": [shape["type"], "null"]}
    return {"anyOf": [shape, {"type": "null"}]}


def _text(length_max: int, pattern: str) -> Shape:
    return {"type": "string", "minLength": 1, "maxLength": length_max, "pattern": pattern}
