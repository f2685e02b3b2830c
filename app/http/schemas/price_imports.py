"""Bodies of /api/admin/price-imports."""

from __future__ import annotations

from typing import Any

from marshmallow import fields, post_load
from marshmallow.validate import OneOf

from app.catalog.price_imports import ImportRequest
from app.catalog.price_lists import Format, Selection
from app.http.schemas import RequestSchema
from app.http.schemas.admin import Ids
from app.http.schemas.fields import Flag, Moment, Text, TokenAmount

FORMATS = [choice.value for choice in Format]


class PriceImportSchema(RequestSchema):
    list_format = Text(data_key="format", required=True, validate=OneOf(FORMATS, error="Must be {choices}."))
    micros_per_dollar = TokenAmount(data_key="tokens_per_dollar", required=True)
    document = fields.Raw(data_key="list", required=True, metadata={"shape": {"type": "object"}})
    providers = Ids(load_default=())
    models = Ids(load_default=())
    excluded_models = Ids(data_key="exclude_models", load_default=())
    strips_provider = Flag(data_key="strip_provider", load_default=False)
    with_dated = Flag(data_key="dated_ids", load_default=True)
    feature_endpoint_id = Text(allow_none=True, load_default=None)
    effective_from = Moment(allow_none=True, load_default=None)

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> ImportRequest:
        return ImportRequest(
            document=data["document"],
            list_format=Format(data["list_format"]),
            micros_per_dollar=data["micros_per_dollar"],
            selection=Selection(
                providers=tuple(data["providers"]),
                models=tuple(data["models"]),
                excluded_models=tuple(data["excluded_models"]),
                strips_provider=data["strips_provider"],
                with_dated=data["with_dated"],
            ),
            feature_endpoint_id=data["feature_endpoint_id"],
            effective_from=data["effective_from"],
        )


class ApprovalSchema(RequestSchema):
    allow_jumps = Flag(load_default=False)
