"""Bodies of /api/admin/prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, post_load

from app.catalog.prices import NewPrice
from app.domain.price_limits import REQUEST_MICROS_MAX
from app.domain.rates import TIERS_MAX, Rates, Tier
from app.http.schemas import RequestSchema
from app.http.schemas.fields import ModelOrPattern, Moment, Rate, Text, WholeNumber
from app.http.schemas.shapes import Shape


class _RatesSchema(RequestSchema):
    """What a kind costs that a price or a tier may leave out."""

    cached_input_micros_per_million = Rate(data_key="cached_input_per_million", allow_none=True, load_default=None)
    cache_write_micros_per_million = Rate(data_key="cache_write_per_million", allow_none=True, load_default=None)
    reasoning_micros_per_million = Rate(data_key="reasoning_per_million", allow_none=True, load_default=None)
    request_micros = Rate(data_key="per_request", micros_max=REQUEST_MICROS_MAX, allow_none=True, load_default=None)


class TierSchema(_RatesSchema):
    above_input_tokens = WholeNumber(data_key="above_input_token", required=True)
    input_micros_per_million = Rate(data_key="input_per_million", allow_none=True, load_default=None)
    output_micros_per_million = Rate(data_key="output_per_million", allow_none=True, load_default=None)

    @post_load
    def _tier(self, data: dict[str, Any], **_: Any) -> Tier:
        return Tier(**data)


class Tiers(fields.Field[tuple[Tier, ...]]):
    """Tiers in any order; loads in the order of their input."""

    item_schema = TierSchema()

    def shape(self) -> Shape:
        return {"type": "array", "maxItems": TIERS_MAX}

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> tuple[Tier, ...]:
        if not isinstance(value, list):
            raise ValidationError("Must be a list.")
        if len(value) > TIERS_MAX:
            raise ValidationError(f"Must have at most {TIERS_MAX} entries.")
        tiers: list[Tier] = []
        errors: dict[str, Any] = {}
        for i, given in enumerate(value):
            try:
                tiers.append(self.item_schema.load(given))
            except ValidationError as error:
                errors[str(i)] = error.messages if isinstance(given, dict) else ["Must be a JSON object."]
        if errors:
            raise ValidationError(errors)
        times = Counter(tier.above_input_tokens for tier in tiers)
        errors = {
            str(i): {"above_input_token": ["Must differ from tier to tier."]}
            for i, tier in enumerate(tiers)
            if times[tier.above_input_tokens] > 1
        }
        if errors:
            raise ValidationError(errors)
        return tuple(sorted(tiers, key=lambda tier: tier.above_input_tokens))


class PriceSchema(_RatesSchema):
    feature_endpoint_id = Text(allow_none=True, load_default=None)
    model = ModelOrPattern(allow_none=True, load_default=None)
    effective_from = Moment(allow_none=True, load_default=None)
    input_micros_per_million = Rate(data_key="input_per_million", required=True)
    output_micros_per_million = Rate(data_key="output_per_million", required=True)
    tiers = Tiers(allow_none=True, load_default=())

    @post_load
    def _price(self, data: dict[str, Any], **_: Any) -> NewPrice:
        scope = {name: data.pop(name) for name in ("feature_endpoint_id", "model", "effective_from")}
        return NewPrice(Rates(**{**data, "tiers": data["tiers"] or ()}), **scope)


class Draft(fields.Field[NewPrice]):
    """A price to try out, which isn't made yet."""

    body_schema = PriceSchema()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> NewPrice:
        if not isinstance(value, dict):
            raise ValidationError("Must be a JSON object.")
        price: NewPrice = self.body_schema.load(value)
        return price
