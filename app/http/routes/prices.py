"""Prices: made, listed, and tried out before they are made. Part of the admin API."""

from __future__ import annotations

from flask import Blueprint, Response

from app.domain.errors import AlreadyExists, Invalid, NotFound, ProcessOfAnotherUser, WalletNotFound
from app.http import filters
from app.http.auth import caller_of_call
from app.http.json import read_object
from app.http.openapi.describe import PageOf, answers
from app.http.paging import listed, newest_first
from app.http.query import PAGE, takes
from app.http.routes import container, success
from app.http.schemas.prices import PriceSchema
from app.http.schemas.token_process import TrialSchema
from app.wire import columns
from app.wire.prices import ExplainedEstimateAnswer, PriceAnswer, explained_estimate_answer, price_answer

blueprint = Blueprint("prices", __name__, url_prefix="/api/admin")

_price = PriceSchema()
_trial = TrialSchema()


@blueprint.post("/prices")
@answers(PriceAnswer, status=201, body=_price, refuses=(NotFound, AlreadyExists))
def create_price() -> Response:
    """What a model costs by kind of usage. A price is followed by a newer one, never edited. The most specific counts:
    feature and exact model, feature and longest pattern, exact model, longest pattern, feature, any.
    """
    created = container().price_admin.add(_price.load(read_object()), caller_of_call())
    return success("Price created", price_answer(created), 201)


@blueprint.get("/prices")
@takes(*PAGE, *filters.SCOPE)
@answers(PageOf(PriceAnswer))
def list_prices() -> Response:
    """Newest first."""
    scope, prices = filters.scope(), container().price_admin
    found = newest_first(lambda limit, before_id: prices.list(scope, limit, before_id), price_answer)
    return listed("Prices", found, columns.PRICES)


@blueprint.post("/prices/estimate")
@answers(ExplainedEstimateAnswer, body=_trial, refuses=(NotFound, WalletNotFound, ProcessOfAnotherUser))
def estimate_price() -> Response:
    """What a run would cost now, or if the price in the body were in force."""
    asked, draft = _trial.load(read_object())
    try:
        estimated = container().estimate.explain(asked, draft)
    except Invalid as error:
        raise Invalid(errors={f"price.{field}": reasons for field, reasons in (error.errors or {}).items()}) from error
    return success("Estimated", explained_estimate_answer(estimated))
