"""What request bodies must look like. Schemas are built once; unknown fields are ignored."""

from __future__ import annotations

from marshmallow import EXCLUDE, Schema


class RequestSchema(Schema):
    class Meta:
        unknown = EXCLUDE
