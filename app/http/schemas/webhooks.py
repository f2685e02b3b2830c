"""Bodies about webhooks and balance rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, post_load, validates_schema
from marshmallow.validate import OneOf

from app.domain.balance_rules import (
    ANSWER_SECONDS_DEFAULT,
    ANSWER_SECONDS_MAX,
    ANSWER_SECONDS_MIN,
    FAILURES_DEFAULT,
    FAILURES_MAX,
    REQUESTS_PER_MONTH_DEFAULT,
    REQUESTS_PER_MONTH_MAX,
    AutoTopUp,
    LowBalance,
)
from app.domain.inputs import REASON_LENGTH_MAX
from app.domain.pages import NEWEST
from app.domain.webhook_secrets import checked_secret
from app.domain.webhook_urls import URL_LENGTH_MAX
from app.domain.webhooks import SUBSCRIBABLE
from app.http.schemas import RequestSchema, shapes
from app.http.schemas.fields import FreeText, MomentOrDay, Percentage, Text, TokenAmount, WholeNumber
from app.http.schemas.shapes import Shape
from app.webhooks.endpoints import OVERLAP_SECONDS_DEFAULT, OVERLAP_SECONDS_MAX

DESCRIPTION_LENGTH_MAX = 200
SECRET_LENGTH_MAX = 100


class EventTypes(fields.List[str]):
    """The types of events that an endpoint gets. Empty: all."""

    def __init__(self, **kwargs: Any) -> None:
        error = f"Must be one of {', '.join(SUBSCRIBABLE)}."
        super().__init__(Text(validate=OneOf([kind.value for kind in SUBSCRIBABLE], error=error)), **kwargs)

    def shape(self) -> Shape:
        return {"type": "array", "items": shapes.one_of(SUBSCRIBABLE)}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[Any]:
        # marshmallow would accept an object, as the list of its names.
        if not isinstance(value, list):
            raise ValidationError("Must be a list.")
        return super()._deserialize(value, attr, data, **kwargs)


class WebhookSecret(Text):
    """A secret that the caller has chosen, in the form of Standard Webhooks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(length_max=SECRET_LENGTH_MAX, **kwargs)

    def shape(self) -> Shape:
        # The base64 of 24 to 64 bytes.
        return {
            "type": "string",
            "pattern": "^whsec_(?:[A-Za-z0-9+/]{4}){8,20}(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$",
        }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        try:
            return checked_secret(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None


class WebhookEndpointSchema(RequestSchema):
    url = FreeText(length_max=URL_LENGTH_MAX, required=True)
    event_types = EventTypes(load_default=())
    description = FreeText(length_max=DESCRIPTION_LENGTH_MAX, allow_none=True, load_default=None)
    secret = WebhookSecret(allow_none=True, load_default=None)


class SecretRotationSchema(RequestSchema):
    secret = WebhookSecret(allow_none=True, load_default=None)
    overlap_seconds = WholeNumber(most=OVERLAP_SECONDS_MAX, load_default=OVERLAP_SECONDS_DEFAULT)


class WebhookReplaySinceSchema(RequestSchema):
    since = MomentOrDay(data_key="from", required=True)
    until = MomentOrDay(data_key="to", allow_none=True, load_default=None)

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        if data["until"] is not None and data["since"] >= data["until"]:
            raise ValidationError({"to": ["Must be later than from."]})


class WebhookReplaySchema(RequestSchema):
    endpoint_id = WholeNumber(least=1, most=NEWEST, allow_none=True, load_default=None)


class OwnerSchema(RequestSchema):
    """Whom a rule is for: one of the two."""

    rules = shapes.exactly_one("user_id", "package_id")

    user_id = Text(allow_none=True, load_default=None)
    package_id = Text(allow_none=True, load_default=None)

    @validates_schema(skip_on_field_errors=False)
    def _check_owner(self, data: dict[str, Any], **_: Any) -> None:
        if (data.get("user_id") is None) == (data.get("package_id") is None):
            reasons = ["Give either user_id or package_id."]
            raise ValidationError({"user_id": reasons, "package_id": reasons})


class LowBalanceSchema(OwnerSchema):
    below_micros = TokenAmount(data_key="below_token", allow_none=True, load_default=None)
    below_basis_points = Percentage(
        data_key="below_percent",
        allow_none=True,
        load_default=None,
        metadata={"shape": shapes.percentage(above_zero=True, most=100)},
    )

    @validates_schema
    def _check_amounts(self, data: dict[str, Any], **_: Any) -> None:
        points = data["below_basis_points"]
        if data["below_micros"] is not None and points is not None:
            raise ValidationError({"below_percent": ["Give below_token or below_percent, not both."]})
        if points is not None and not 0 < points <= 10_000:
            raise ValidationError({"below_percent": ["Must be above 0, and at most 100."]})

    @post_load
    def _low_balance(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**_owner_of(data), "low_balance": LowBalance(data["below_micros"], data["below_basis_points"])}


class AutoTopUpSchema(OwnerSchema):
    below_micros = TokenAmount(data_key="below_token", allow_none=True, load_default=None)
    amount_micros = TokenAmount(data_key="token", allow_none=True, load_default=None)
    requests_per_month = WholeNumber(least=1, most=REQUESTS_PER_MONTH_MAX, load_default=REQUESTS_PER_MONTH_DEFAULT)
    micros_per_month = TokenAmount(data_key="token_per_month", allow_none=True, load_default=None)
    failures_max = WholeNumber(least=1, most=FAILURES_MAX, load_default=FAILURES_DEFAULT)
    answer_seconds = WholeNumber(least=ANSWER_SECONDS_MIN, most=ANSWER_SECONDS_MAX, load_default=ANSWER_SECONDS_DEFAULT)

    @validates_schema
    def _check_amounts(self, data: dict[str, Any], **_: Any) -> None:
        below, amount, month = data["below_micros"], data["amount_micros"], data["micros_per_month"]
        if (below is None) != (amount is None):
            missing = "below_token" if below is None else "token"
            raise ValidationError({missing: ["Give below_token and token, or neither for no top-ups."]})
        if amount is not None and month is not None and month < amount:
            raise ValidationError({"token_per_month": ["Must not be less than token."]})

    @post_load
    def _auto_top_up(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        amount = data["amount_micros"]
        if amount is None:
            return {**_owner_of(data), "auto_top_up": None}
        requests, month = data["requests_per_month"], data["micros_per_month"]
        rule = AutoTopUp(
            below_micros=data["below_micros"],
            amount_micros=amount,
            requests_per_month=requests,
            micros_per_month=amount * requests if month is None else month,
            failures_max=data["failures_max"],
            answer_seconds=data["answer_seconds"],
        )
        return {**_owner_of(data), "auto_top_up": rule}


class DeclineSchema(RequestSchema):
    reason = FreeText(length_max=REASON_LENGTH_MAX, required=True)


def _owner_of(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"user_id": data["user_id"], "package_id": data["package_id"]}
