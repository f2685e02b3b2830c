"""Compiles a schema into a function that does what `schema.load` does at a fraction of its cost, for frequent bodies.

The schema remains the definition: the function is made from its fields when the process starts. A value that is
obviously valid (the field's `is_plain`) is taken as it is, any other value is loaded by its field. An invalid body is
loaded by the schema itself, which raises the errors, so that no message is written twice. A schema that uses a feature
that can't be compiled raises TypeError at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from marshmallow import EXCLUDE, Schema, ValidationError, fields, missing
from marshmallow.decorators import POST_LOAD, PRE_LOAD, VALIDATES, VALIDATES_SCHEMA


class Load(Protocol):
    def __call__(self, body: Any, **more: Any) -> Any:
        """Load a body. `more` is passed to `post_load` beside the body's values. Raises ValidationError."""


def compiled(schema: Schema) -> Load:
    """A function that loads like the schema, and raises the same ValidationErrors."""
    hooks = schema._hooks
    if any(hooks[tag] for tag in (PRE_LOAD, VALIDATES, VALIDATES_SCHEMA)) or schema.unknown != EXCLUDE:
        raise TypeError(f"{type(schema).__name__} does more than its fields and post_load say")
    finishers = [_finisher(schema, name, settings) for name, _, settings in hooks[POST_LOAD]]
    readers = dict(_reader(name, field) for name, field in schema.load_fields.items())
    defaults = {
        _attribute(name, field): field.load_default for name, field in schema.load_fields.items() if not field.required
    }
    required = frozenset(_key(name, field) for name, field in schema.load_fields.items() if field.required)

    def refuse(body: Any) -> NoReturn:
        # Raises all errors together, in the schema's own words.
        schema.load(body)
        raise AssertionError(f"{type(schema).__name__} takes what its fields refuse")

    def load(body: Any, **more: Any) -> Any:
        if type(body) is not dict or not required <= body.keys():
            refuse(body)
        loaded: Any = {**defaults, **more}
        try:
            for key, value in body.items():
                if (reader := readers.get(key)) is not None:
                    attribute, is_plain, deserialize = reader
                    loaded[attribute] = value if is_plain(value) else deserialize(value, key, body)
            for finish in finishers:
                loaded = finish(loaded, many=False, unknown=EXCLUDE, partial=None)
        except ValidationError:
            refuse(body)
        return loaded

    return load


_Reader = tuple[str, Callable[[Any], bool], Callable[..., Any]]


def _reader(name: str, field: fields.Field[Any]) -> tuple[str, _Reader]:
    """A field's key in the body, and how its value is read."""
    if "." in name or callable(field.load_default) or (field.load_default is missing and not field.required):
        raise TypeError(f"{name} is read in a way that isn't compiled")
    does_more = field.validators or field.pre_load or field.post_load
    is_plain = None if does_more else getattr(field, "is_plain", None)
    return _key(name, field), (_attribute(name, field), is_plain or _never, field.deserialize)


def _key(name: str, field: fields.Field[Any]) -> str:
    return name if field.data_key is None else field.data_key


def _attribute(name: str, field: fields.Field[Any]) -> str:
    return name if field.attribute is None else field.attribute


def _never(_: Any) -> bool:
    return False


def _finisher(schema: Schema, name: str, settings: dict[str, Any]) -> Callable[..., Any]:
    if settings.get("pass_original"):
        raise TypeError(f"{name} asks for the original body")
    finish: Callable[..., Any] = getattr(schema, name)
    return finish
