"""Answers: the TypedDicts of `app/wire` as JSON Schema. `app/wire/types.py` has the annotations that they may use."""

from __future__ import annotations

import types
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from app.domain.tables import Kind
from app.http.openapi import glossary
from app.http.openapi.components import Components, reference
from app.http.schemas import shapes
from app.http.schemas.shapes import Shape
from app.wire.types import Format, Words

TOKENS, PERCENT = "Tokens", "Percent"

_PLAIN: dict[Any, Shape] = {bool: {"type": "boolean"}, str: {"type": "string"}}
_SHAPES: dict[Kind, Shape] = {
    Kind.TEXT: {"type": "string"},
    Kind.WORD: {"type": "string"},
    Kind.COUNT: {"type": "integer"},
    Kind.MOMENT: shapes.moment(),
    Kind.DAY: shapes.day(),
}


def answer_schema(components: Components, hint: Any) -> Shape:
    """The JSON Schema of an answer's type: for a TypedDict, a reference. Raises TypeError for an unsupported type."""
    if is_typeddict(hint):
        return _typed_dict(components, hint)
    origin = get_origin(hint)
    if origin is Annotated:
        return _annotated(components, *get_args(hint))
    if origin in (Union, types.UnionType):
        return _union(components, get_args(hint))
    if origin is list:
        return {"type": "array", "items": answer_schema(components, get_args(hint)[0])}
    if origin is dict:
        inner = get_args(hint)[1]
        # A mapping, such as the changed fields in the audit log: its keys differ from item to item.
        return {"type": "object"} | ({} if inner is Any else {"additionalProperties": answer_schema(components, inner)})
    if hint not in _PLAIN:
        raise TypeError(f"{hint!r} isn't a type of an answer: see app/wire/types.py")
    return dict(_PLAIN[hint])


def _union(components: Components, parts: tuple[Any, ...]) -> Shape:
    rest = [answer_schema(components, part) for part in parts if part is not type(None)]
    shape = rest[0] if len(rest) == 1 else {"anyOf": rest}
    return shapes.nullable(shape) if len(rest) < len(parts) else shape


def _typed_dict(components: Components, answer: Any) -> Shape:
    name = answer.__name__.removesuffix("Answer")
    if not components.reserve(name, answer):
        return reference(name)
    shape: Shape = {"type": "object"}
    # A TypedDict doesn't inherit the description of its base.
    if text := glossary.docstring(answer):
        shape["description"] = text
    hints = get_type_hints(answer, include_extras=True)
    required = [field for field, hint in hints.items() if get_origin(hint) is not NotRequired]
    if required:
        shape["required"] = required
    shape["properties"] = {field: _property(components, field, hint) for field, hint in hints.items()}
    components.schemas[name].update(shape)
    return reference(name)


def _property(components: Components, field: str, hint: Any) -> Shape:
    if get_origin(hint) is NotRequired:
        hint = get_args(hint)[0]
    shape = answer_schema(components, hint)
    if "description" not in shape and (text := glossary.meaning(field)):
        shape = {"description": text, **shape}
    return shape


def _annotated(components: Components, inner: Any, *said: Any) -> Shape:
    text = next((each for each in said if isinstance(each, str) and not isinstance(each, Kind)), None)
    shape = _said(components, inner, said)
    return {"description": text, **shape} if text else shape


def _said(components: Components, inner: Any, said: tuple[Any, ...]) -> Shape:
    for each in said:
        if isinstance(each, Words):
            words = shapes.one_of(each.values)
            return shapes.nullable(words) if type(None) in get_args(inner) else words
        if isinstance(each, Format) and each.name != "percent":
            return {"type": "string", "format": each.name}
        if each is Kind.AMOUNT:
            return _amount(components, PERCENT if Format("percent") in said else TOKENS)
        if isinstance(each, Kind):
            return dict(_SHAPES[each])
    return answer_schema(components, inner)


def _amount(components: Components, name: str) -> Shape:
    if components.reserve(name, name):
        decimals, what = (6, "An amount of tokens") if name == TOKENS else (2, "A percentage")
        components.schemas[name].update(
            {
                "type": "number",
                "description": f"{what}, exact to {decimals} decimals. It is written digit by digit, as 989 or 0.25,"
                " never as 989.0 or in exponent form: read it as a decimal number where each digit counts.",
                "x-decimals-max": decimals,
            }
        )
    return reference(name)
