"""Bodies of /api/token-process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, post_load, validates_schema

from app.billing.estimate import EstimateRequest
from app.billing.holds import ExtendRequest
from app.billing.start import StartRequest
from app.catalog.prices import NewPrice
from app.domain.corrections import OwnReversal
from app.domain.ends import EndRequest
from app.domain.holds import HOLD_SECONDS_MAX
from app.domain.inputs import REASON_LENGTH_MAX, REFERENCE_LENGTH_MAX
from app.domain.usage import REQUESTS_MAX, Usage
from app.http.schemas import RequestSchema, shapes
from app.http.schemas.fields import IDEMPOTENCY_KEY_LENGTH_MAX, FreeText, Text, TokenAmount, WholeNumber
from app.http.schemas.prices import Draft
from app.http.schemas.shapes import Shape

BATCH_ENDS_MAX = 1_000


class StartSchema(RequestSchema):
    user_id = Text(required=True)
    feature_endpoint_id = Text(required=True)
    hold_token = TokenAmount(allow_none=True, load_default=None)
    hold_seconds = WholeNumber(least=1, most=HOLD_SECONDS_MAX, allow_none=True, load_default=None)
    model = Text(allow_none=True, load_default=None)

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> StartRequest:
        return StartRequest(
            data["user_id"],
            data["feature_endpoint_id"],
            data["hold_token"] or 0,
            data["hold_seconds"],
            model=data["model"],
        )


class _UsageSchema(RequestSchema):
    """A run's usage, of which kind it was, and by which model."""

    feature_endpoint_id = Text(required=True)
    input_token = WholeNumber(required=True)
    output_token = WholeNumber(required=True)
    cached_input_token = WholeNumber(allow_none=True, load_default=None)
    cache_write_token = WholeNumber(allow_none=True, load_default=None)
    reasoning_token = WholeNumber(allow_none=True, load_default=None)
    requests = WholeNumber(least=1, most=REQUESTS_MAX, allow_none=True, load_default=None)
    model = Text(allow_none=True, load_default=None)
    process_id = Text(allow_none=True, load_default=None)


class EndSchema(_UsageSchema):
    """What isn't in the body may stand beside it (see `compiled.py`): a key, the request and on whose behalf it is."""

    user_id = Text(required=True)

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> EndRequest:
        return EndRequest(
            user_id=data["user_id"],
            feature_endpoint_id=data["feature_endpoint_id"],
            usage=_usage(data),
            model=data["model"],
            process_id=data["process_id"],
            idempotency_key=data.get("idempotency_key"),
            request_id=data.get("request_id"),
            actor=data.get("actor"),
        )


class EndOfBatchSchema(EndSchema):
    """An end's body, with its key."""

    idempotency_key = Text(length_max=IDEMPOTENCY_KEY_LENGTH_MAX, allow_none=True, load_default=None)


class Ends(fields.Field[list[Any]]):
    """A list of ends. Each is validated by itself later, so that an invalid one is refused alone."""

    item_schema = EndOfBatchSchema()
    _reason = f"Must be a list of 1 to {BATCH_ENDS_MAX} ends."

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(error_messages={"required": self._reason, "null": self._reason}, **kwargs)

    def shape(self) -> Shape:
        return {"type": "array", "minItems": 1, "maxItems": BATCH_ENDS_MAX}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list) or not 1 <= len(value) <= BATCH_ENDS_MAX:
            raise ValidationError(self._reason)
        return value


class BatchSchema(RequestSchema):
    ends = Ends(required=True, metadata={"description": "Only the invalid ones are refused."})


class QuoteSchema(_UsageSchema):
    """An end's body, whoever is to pay for it or nobody yet."""

    user_id = Text(allow_none=True, load_default=None)

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> EstimateRequest:
        return EstimateRequest(
            feature_endpoint_id=data["feature_endpoint_id"],
            usage=_usage(data),
            model=data["model"],
            user_id=data["user_id"],
            process_id=data["process_id"],
        )


class EstimateSchema(QuoteSchema):
    user_id = Text(required=True)


class TrialSchema(QuoteSchema):
    """The same, and a price to try out."""

    price = Draft(allow_none=True, load_default=None)

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> Any:
        price: NewPrice | None = data.pop("price")
        return super()._request(data), price


def _usage(data: dict[str, Any]) -> Usage:
    """Raises ValidationError if a part of the usage exceeds its whole, such as cached tokens the input tokens."""
    usage = Usage(
        data["input_token"],
        data["output_token"],
        data["cached_input_token"] or 0,
        data["cache_write_token"] or 0,
        data["reasoning_token"] or 0,
        # Without a count of requests, any usage counts as one request.
        data["requests"] or int(data["input_token"] + data["output_token"] > 0),
    )
    if errors := usage.errors():
        raise ValidationError(errors)
    return usage


class CancelSchema(RequestSchema):
    user_id = Text(required=True)
    process_id = Text(required=True)


class ExtendSchema(RequestSchema):
    user_id = Text(required=True)
    process_id = Text(required=True)
    hold_token = TokenAmount(allow_none=True, load_default=None)
    hold_seconds = WholeNumber(least=1, most=HOLD_SECONDS_MAX, allow_none=True, load_default=None)

    rules = shapes.at_least_one("hold_token", "hold_seconds")

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> ExtendRequest:
        if data["hold_token"] is None and data["hold_seconds"] is None:
            reasons = ["Give hold_token, hold_seconds or both."]
            raise ValidationError({"hold_token": reasons, "hold_seconds": reasons})
        return ExtendRequest(data["user_id"], data["process_id"], data["hold_token"] or 0, data["hold_seconds"] or 0)


class OwnReversalSchema(RequestSchema):
    user_id = Text(required=True)
    process_id = Text(allow_none=True, load_default=None)
    idempotency_key = Text(length_max=IDEMPOTENCY_KEY_LENGTH_MAX, allow_none=True, load_default=None)
    reference = Text(length_max=REFERENCE_LENGTH_MAX, required=True)
    reason = FreeText(length_max=REASON_LENGTH_MAX, required=True)

    rules = shapes.at_least_one("process_id", "idempotency_key")

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def _names_a_run(self, _data: dict[str, Any], body: Mapping[str, Any], **_: Any) -> None:
        if body.get("process_id") is None and body.get("idempotency_key") is None:
            reasons = ["Give process_id, idempotency_key or both."]
            raise ValidationError({"process_id": reasons, "idempotency_key": reasons})

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> OwnReversal:
        return OwnReversal(**data)
