"""Request bodies: marshmallow schemas as JSON Schema.

The fields in `app/http/schemas/fields.py` give their JSON Schema by `shape`. Unknown fields are ignored, so they aren't
described.
"""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, missing
from marshmallow.validate import OneOf

from app.http.openapi import glossary
from app.http.openapi.components import Components, reference
from app.http.schemas import shapes
from app.http.schemas.shapes import Shape


def body_schema(components: Components, schema: Schema) -> Shape:
    """A reference to a schema's JSON Schema. Raises TypeError for a field without a `shape`."""
    name = (
        f"{type(schema).__name__.removeprefix('_').removesuffix('Schema')}{'Change' if schema.partial else ''}Request"
    )
    source = (type(schema), bool(schema.partial), frozenset(schema.load_fields))
    if components.reserve(name, source):
        components.schemas[name].update(_object(components, schema))
    return reference(name)


def _object(components: Components, schema: Schema) -> Shape:
    shape: Shape = {"type": "object"}
    if text := glossary.docstring(type(schema)):
        shape["description"] = text
    loaded = {(name if field.data_key is None else field.data_key): field for name, field in schema.load_fields.items()}
    required = [key for key, field in loaded.items() if field.required and not schema.partial]
    if required:
        shape["required"] = required
    shape["properties"] = {key: _property(components, key, field, schema) for key, field in loaded.items()}
    return {**shape, **getattr(schema, "rules", {})}


def _property(components: Components, key: str, field: fields.Field[Any], schema: Schema) -> Shape:
    shape = _shape(components, field)
    if field.allow_none:
        shape = shapes.nullable(shape)
    text = field.metadata.get("description") or glossary.meaning(key)
    shape = {"description": text, **shape} if text else shape
    default = field.load_default
    if default is not missing and default not in (None, ()) and not schema.partial:
        write = getattr(field, "wire_value", None)
        shape = {**shape, "default": write(default) if write is not None else _plain(default)}
    return shape


def _shape(components: Components, field: fields.Field[Any]) -> Shape:
    if "shape" in field.metadata:
        return dict(field.metadata["shape"])
    if words := next((validator for validator in field.validators if isinstance(validator, OneOf)), None):
        return shapes.one_of(words.choices)
    # A nested object, or a list of them, with a schema of its own.
    if (schema := getattr(field, "body_schema", None)) is not None:
        return body_schema(components, schema)
    if (schema := getattr(field, "item_schema", None)) is not None:
        return {**_own(field), "items": body_schema(components, schema)}
    return _own(field)


def _own(field: fields.Field[Any]) -> Shape:
    shape = getattr(field, "shape", None)
    if shape is None:
        raise TypeError(f"{field!r} doesn't say what it takes: give {type(field).__name__} a method `shape`")
    return dict(shape())


def _plain(value: Any) -> Any:
    """A default as a JSON value: of an enum, its value."""
    return str(value) if isinstance(value, str) else value
