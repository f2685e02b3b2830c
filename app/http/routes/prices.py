"""Prices: made, listed, and tried out before they are made. Part of the admin API."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response
from marshmallow import ValidationError

from app.billing.estimate import EstimateRequest
from app.catalog.prices import NewPrice
from app.domain.errors import Invalid
from app.http import filters
from app.http.errors import messages_of
from app.http.json import read_object
from app.http.paging import listed, newest_first
from app.http.query import PAGE, takes
from app.http.routes import container, success
from app.http.schemas.prices import PriceSchema
from app.http.schemas.token_process import QuoteSchema
from app.wire import columns
from app.wire.prices import explained_estimate_answer, price_answer

blueprint = Blueprint("prices", __name__, url_prefix="/api/admin")

_price = PriceSchema()
_usage = QuoteSchema()


@blueprint.post("/prices")
def create_price() -> Response:
    created = container().price_admin.add(_price.load(read_object()))
    return success("Price created", price_answer(created), 201)


@blueprint.get("/prices")
@takes(*PAGE, *filters.SCOPE)
def list_prices() -> Response:
    scope, prices = filters.scope(), container().price_admin
    found = newest_first(lambda limit, before_id: prices.list(scope, limit, before_id), price_answer)
    return listed("Prices", found, columns.PRICES)


@blueprint.post("/prices/estimate")
def estimate() -> Response:
    """What a run would cost now, or with the price of the body in force."""
    asked, draft = _asked(read_object())
    try:
        estimated = container().estimate.explain(asked, draft)
    except Invalid as error:
        raise Invalid(errors={f"price.{field}": reasons for field, reasons in (error.errors or {}).items()}) from error
    return success("Estimated", explained_estimate_answer(estimated))


def _asked(body: dict[str, Any]) -> tuple[EstimateRequest, NewPrice | None]:
    """What is wrong with the usage and with the draft is said together."""
    errors: dict[str, Any] = {}
    asked: EstimateRequest | None = None
    draft: NewPrice | None = None
    try:
        asked = _usage.load(body)
    except ValidationError as error:
        errors |= messages_of(error)
    if (given := body.get("price")) is not None:
        try:
            draft = _price.load(given)
        except ValidationError as error:
            errors["price"] = messages_of(error) if isinstance(given, dict) else ["Must be a JSON object."]
    if asked is None or errors:
        raise ValidationError(errors)
    return asked, draft
