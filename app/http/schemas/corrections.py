"""Bodies of corrections."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, post_load

from app.domain.inputs import REASON_LENGTH_MAX, REFERENCE_LENGTH_MAX
from app.domain.pages import NEWEST
from app.domain.usage import REQUESTS_MAX, Usage
from app.http.schemas import RequestSchema
from app.http.schemas.fields import FreeText, MomentOrDay, Text, WholeNumber


class ReversalSchema(RequestSchema):
    reference = Text(length_max=REFERENCE_LENGTH_MAX, required=True)
    reason = FreeText(length_max=REASON_LENGTH_MAX, required=True)


class AmendmentSchema(ReversalSchema):
    input_token = WholeNumber(required=True)
    output_token = WholeNumber(required=True)
    cached_input_token = WholeNumber(load_default=0)
    cache_write_token = WholeNumber(load_default=0)
    reasoning_token = WholeNumber(load_default=0)
    requests = WholeNumber(least=0, most=REQUESTS_MAX, load_default=1)

    @post_load
    def _usage(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        usage = Usage(
            data["input_token"],
            data["output_token"],
            data["cached_input_token"],
            data["cache_write_token"],
            data["reasoning_token"],
            data["requests"],
        )
        if errors := usage.errors():
            raise ValidationError(dict(errors))
        return {"reference": data["reference"], "reason": data["reason"], "usage": usage}


class RepricingSchema(RequestSchema):
    price_id = WholeNumber(least=1, most=NEWEST, required=True)
    reason = FreeText(length_max=REASON_LENGTH_MAX, required=True)
    feature_endpoint_id = Text(allow_none=True, load_default=None)
    model = Text(allow_none=True, load_default=None)
    user_id = Text(allow_none=True, load_default=None)
    accepted_from = MomentOrDay(data_key="from", allow_none=True, load_default=None)
    accepted_to = MomentOrDay(data_key="to", allow_none=True, load_default=None)

    @post_load
    def _check(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        begins, ends = data["accepted_from"], data["accepted_to"]
        if begins is not None and ends is not None and begins >= ends:
            raise ValidationError({"to": ["Must be later than from."]})
        return data
