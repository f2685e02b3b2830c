"""Bodies of /api/admin. For a PATCH the same schemas are loaded with `partial=True`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields
from marshmallow.validate import OneOf

from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.catalog import Unpriced
from app.domain.corrections import REVERSAL_SECONDS_MAX
from app.domain.inputs import NAME_LENGTH_MAX, REASON_LENGTH_MAX, REFERENCE_LENGTH_MAX
from app.domain.wallets import WalletStatus
from app.http.schemas import RequestSchema, shapes
from app.http.schemas.fields import (
    Flag,
    FreeText,
    Moment,
    NewId,
    NewUserId,
    Percentage,
    Text,
    TokenAmount,
    WholeNumber,
)
from app.http.schemas.shapes import Shape

PACKAGE_FEATURES_MAX = 1_000


class Ids(fields.List[str]):
    """A list of ids."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Text(), **kwargs)

    def shape(self) -> Shape:
        return {"type": "array", "items": shapes.identifier(), "maxItems": PACKAGE_FEATURES_MAX}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[Any]:
        # marshmallow would accept an object, as the list of its names.
        if not isinstance(value, list):
            raise ValidationError("Must be a list.")
        if len(value) > PACKAGE_FEATURES_MAX:
            raise ValidationError(f"Must have at most {PACKAGE_FEATURES_MAX} entries.")
        return super()._deserialize(value, attr, data, **kwargs)


class FeatureSchema(RequestSchema):
    id = NewId(required=True)
    name = FreeText(length_max=NAME_LENGTH_MAX, required=True)
    min_micros = TokenAmount(allow_zero=True, data_key="min_token", load_default=MICROS_PER_TOKEN)
    unpriced = Text(
        load_default=Unpriced.DEFAULT,
        validate=OneOf([choice.value for choice in Unpriced], error="Must be default or refuse."),
    )
    reversal_seconds = WholeNumber(most=REVERSAL_SECONDS_MAX, load_default=0)


class PackageSchema(RequestSchema):
    id = NewId(required=True)
    name = FreeText(length_max=NAME_LENGTH_MAX, required=True)
    feature_ids = Ids(data_key="feature_endpoint_ids", required=True)


class ProfitRuleSchema(RequestSchema):
    basis_points = Percentage(data_key="percentage", required=True)
    feature_endpoint_id = Text(allow_none=True, load_default=None)
    model = Text(allow_none=True, load_default=None)
    effective_from = Moment(allow_none=True, load_default=None)


class WalletSchema(RequestSchema):
    user_id = NewUserId(required=True)
    package_id = Text(required=True, allow_none=True)
    status = Text(
        load_default=WalletStatus.ACTIVE,
        validate=OneOf([status.value for status in WalletStatus], error="Must be active, suspended or closed."),
    )
    overdraft_limit_micros = TokenAmount(allow_zero=True, data_key="overdraft_limit_token", load_default=0)


class WalletChangeSchema(WalletSchema):
    """`reason` stands in the audit log."""

    reason = FreeText(length_max=REASON_LENGTH_MAX, allow_none=True, load_default=None)


class CreditSchema(RequestSchema):
    """A top-up, a refund or a chargeback."""

    amount_micros = TokenAmount(data_key="token", required=True, metadata={"description": "How many tokens."})
    reference = Text(length_max=REFERENCE_LENGTH_MAX, required=True)
    reason = FreeText(length_max=REASON_LENGTH_MAX, allow_none=True, load_default=None)


class ReasonSchema(RequestSchema):
    reason = FreeText(length_max=REASON_LENGTH_MAX, required=True)


class WriteOffSchema(ReasonSchema):
    pass


class ReconciliationSchema(RequestSchema):
    is_full = Flag(data_key="full", load_default=False)


class AdjustmentSchema(CreditSchema):
    amount_micros = TokenAmount(
        allow_negative=True,
        data_key="token",
        required=True,
        metadata={"description": "How many tokens; a negative number takes tokens."},
    )
