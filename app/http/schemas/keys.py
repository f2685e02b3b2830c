"""Bodies of /api/admin/keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import ValidationError, fields, post_load
from marshmallow.validate import OneOf

from app.domain.keys import (
    OVERLAP_SECONDS_DEFAULT,
    OVERLAP_SECONDS_MAX,
    SCOPES_OF_KIND,
    KeyKind,
    KeyScope,
    in_order,
    key_name,
    scopes_of,
)
from app.http.schemas import RequestSchema, shapes
from app.http.schemas.fields import MomentOrDay, Text, WholeNumber
from app.http.schemas.shapes import Shape

SCOPES_MAX = 50


class KeyName(fields.Field[str]):
    def shape(self) -> Shape:
        return shapes.key_name()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        try:
            return key_name(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None


class ScopeNames(fields.Field[list[str]]):
    """Names of scopes. Whether a kind of key may have them is checked by the schema, which knows both."""

    def shape(self) -> Shape:
        return {"type": "array", "items": shapes.one_of(KeyScope), "minItems": 1, "maxItems": SCOPES_MAX}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[str]:
        if not isinstance(value, list) or any(not isinstance(name, str) for name in value):
            raise ValidationError("Must be a list of strings.")
        if len(value) > SCOPES_MAX:
            raise ValidationError(f"Must have at most {SCOPES_MAX} entries.")
        return value


class KeySchema(RequestSchema):
    """A new key. One of a service server may do all that they do, unless scopes are named; an operator's are named."""

    # The scopes that each kind of key may be given.
    rules: ClassVar[Shape] = {
        "anyOf": [
            {
                "properties": {
                    "kind": {"const": kind.value},
                    "scopes": {
                        "type": ["array", "null"] if kind is KeyKind.SERVICE else "array",
                        "items": shapes.one_of(in_order(scopes)),
                    },
                },
                "required": ["kind"] if kind is KeyKind.SERVICE else ["kind", "scopes"],
            }
            for kind, scopes in SCOPES_OF_KIND.items()
        ]
    }

    name = KeyName(
        required=True,
        metadata={"description": "The actor of everything done with this key. Only one key in force has it."},
    )
    kind = Text(required=True, validate=OneOf([kind.value for kind in KeyKind], error="Must be service or operator."))
    scopes = ScopeNames(load_default=None, allow_none=True)
    expires_at = MomentOrDay(
        allow_none=True,
        load_default=None,
        metadata={"description": "A time in the future. Not given: the key never expires."},
    )

    @post_load
    def _with_scopes(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        kind = KeyKind(data["kind"])
        names = data["scopes"]
        if names is None and kind is KeyKind.SERVICE:
            names = list(SCOPES_OF_KIND[kind])
        try:
            scopes = scopes_of(kind, names or ())
        except ValueError as error:
            raise ValidationError({"scopes": [str(error)]}) from None
        return {**data, "kind": kind, "scopes": scopes}


class RotationSchema(RequestSchema):
    overlap_seconds = WholeNumber(most=OVERLAP_SECONDS_MAX, load_default=OVERLAP_SECONDS_DEFAULT)
    expires_at = MomentOrDay(
        allow_none=True,
        load_default=None,
        metadata={"description": "When the new key expires. Not given: it gets the old key's lifetime, from now."},
    )
