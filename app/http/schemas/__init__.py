"""Schemas of request bodies. They are built once; unknown fields are ignored."""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema


class RequestSchema(Schema):
    """`rules` is what JSON Schema can say of fields together, for the API's description."""

    rules: ClassVar[dict[str, Any]] = {}

    class Meta:
        unknown = EXCLUDE
