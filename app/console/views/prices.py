"""Prices: present and past ones, making new ones, and the calculator, which tries a price out before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request, url_for

from app.billing.estimate import Estimate, EstimateRequest
from app.catalog.prices import NewPrice
from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, Review, change
from app.console.filters import Filtered, Filters
from app.console.forms import REASON, Field, Form, Kind, identifier, whole
from app.console.pages import page
from app.console.rates_fields import labelled, rate_fields, rates_of, texts_of
from app.console.scopes import dated_index, effective_field, feature_field, from_text, initial_from, scope_text
from app.domain.errors import DomainError, Invalid, Unavailable
from app.domain.inputs import model_or_pattern
from app.domain.keys import KeyScope
from app.domain.pricing import parts_micros
from app.domain.rates import RateCard
from app.domain.usage import REQUESTS_MAX, USAGE_TOKENS_MAX, Usage
from app.wire.statuses import STATUS_OF_CODE

blueprint = Blueprint("prices", __name__, url_prefix="/catalogue/prices")

FILTERS = Filters(
    feature_field(), Field("model", "Model", model_or_pattern, is_required=False, help="As it stands in the price.")
)
_MODEL = Field(
    "model",
    "Model",
    model_or_pattern,
    is_required=False,
    help="An id, or the beginning of ids and a star: gpt-5*. Empty: any model.",
)
_NEW = Form(
    (
        feature_field(help="All: those that have no price of their own for the model.", unchosen="all"),
        _MODEL,
        effective_field(),
        *rate_fields(are_required=True),
        REASON,
    )
)


def _tokens_field(name: str, label: str, *, default: str = "") -> Field:
    return Field(name, label, whole(0, USAGE_TOKENS_MAX), Kind.NUMBER, is_required=False, default=default)


CALCULATOR = Filters(
    feature_field(unchosen="choose"),
    Field("model", "Model", identifier(), is_required=False),
    _tokens_field("input_token", "Input tokens"),
    _tokens_field("output_token", "Output tokens"),
    _tokens_field("cached_input_token", "of them cached input"),
    _tokens_field("cache_write_token", "of them cache writes"),
    _tokens_field("reasoning_token", "of them reasoning"),
    Field("requests", "Requests", whole(0, REQUESTS_MAX), Kind.NUMBER, is_required=False),
    Field("user_id", "Wallet of", identifier(), is_required=False),
    *rate_fields(are_required=False),
)
_DRAFT_FIELDS = tuple(each.name for each in rate_fields(are_required=False))


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    cards = services().catalog.current.rate_cards
    return dated_index(
        "catalog/prices.html", FILTERS, services().price_admin.list, cards, labelled=labelled, proposal=_proposal
    )


@blueprint.route("/new", methods=["GET", "POST"])
@needs(KeyScope.CATALOG)
def new() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        made = services().price_admin.add(_new_price(values), acting(values))
        return Done(url_for("prices.index"), f"Price {made.id} was created.")

    return change(
        _NEW,
        title="New price",
        action="Create it",
        back=url_for("prices.index"),
        review=_review,
        perform=perform,
        initial=initial_from(_NEW, request.args),
        intro=(
            "In tokens. A kind that is left empty costs what its whole costs: cached input and cache writes as input, "
            "reasoning as output. A price is followed by a newer one for the same, never changed."
        ),
    )


@blueprint.get("/calculator")
@needs(KeyScope.READ)
def calculator() -> Response:
    filtered = CALCULATOR.read()
    if not filtered.are_given or not filtered.is_valid:
        return page("catalog/calculator.html", filtered.status, filtered=filtered, now_costs=None, draft_costs=None)
    try:
        asked, draft = _asked(filtered)
        now_costs = services().estimate.explain(asked)
        draft_costs = None if draft is None else services().estimate.explain(asked, draft)
    except Unavailable:
        raise
    except DomainError as error:
        refused = Filtered(filtered.filled.refused(error))
        status = STATUS_OF_CODE[error.code]
        return page("catalog/calculator.html", status, filtered=refused, now_costs=None, draft_costs=None)
    return page(
        "catalog/calculator.html",
        filtered=filtered,
        now_costs=now_costs,
        draft_costs=draft_costs,
        parts=_parts,
        create_url=None if draft is None else _create_url(filtered),
    )


def _asked(filtered: Filtered) -> tuple[EstimateRequest, NewPrice | None]:
    """Raises Invalid."""
    values = filtered.filled.values
    errors: dict[str, list[str]] = {}
    if values["feature_endpoint_id"] is None:
        errors["feature_endpoint_id"] = ["Must be chosen."]
    usage = Usage(
        values["input_token"] or 0,
        values["output_token"] or 0,
        values["cached_input_token"] or 0,
        values["cache_write_token"] or 0,
        values["reasoning_token"] or 0,
        1 if values["requests"] is None else values["requests"],
    )
    errors |= usage.errors()
    draft = None
    if any(filtered.filled.text(name) for name in _DRAFT_FIELDS):
        missing = [name for name in ("input_per_million", "output_per_million") if values[name] is None]
        errors |= {name: ["A draft names input and output."] for name in missing}
        if not missing:
            draft = NewPrice(rates_of(values), values["feature_endpoint_id"], values["model"])
    if errors:
        raise Invalid(errors=errors)
    asked = EstimateRequest(values["feature_endpoint_id"], usage, values["model"], values["user_id"])
    return asked, draft


def _parts(estimate: Estimate) -> list[tuple[str, int, str | None]]:
    """The cost of each kind of usage before profit, without kinds that cost nothing."""
    parts = parts_micros(estimate.usage, estimate.quote.card)
    return [(text.words(kind.value.removesuffix("_token")), micros, None) for kind, micros in parts.items() if micros]


def _create_url(filtered: Filtered) -> str:
    names = {"feature_endpoint_id", "model", *_DRAFT_FIELDS}
    return f"{url_for('prices.new')}?{urlencode([pair for pair in filtered.filled.pairs() if pair[0] in names])}"


def _proposal(card: RateCard) -> str:
    """The address of the form for a successor of this price, filled in with its values."""
    scope = {"feature_endpoint_id": card.feature_endpoint_id, "model": card.model}
    named = {name: value for name, value in {**scope, **texts_of(card.rates)}.items() if value}
    return f"{url_for('prices.new')}?{urlencode(named)}"


def _new_price(values: Mapping[str, Any]) -> NewPrice:
    return NewPrice(rates_of(values), values["feature_endpoint_id"], values["model"], values["effective_from"])


def _review(values: Mapping[str, Any]) -> Review:
    scope = (values["feature_endpoint_id"], values["model"])
    now = services().clock.now()
    at = values["effective_from"] or now
    before = services().catalog.current.rate_cards.in_force(scope[0], _some_model(scope[1]), at)
    old = {} if before is None else dict(labelled(before.rates))
    facts = [(label, _from_to(old.get(label), micros)) for label, micros in labelled(rates_of(values))]
    tiers = texts_of(rates_of(values))["tiers"]
    until_now = "the default rule: output tokens / 4"
    if before is not None:
        until_now = f"price {before.id} for {scope_text(before.feature_endpoint_id, before.model)}"
    return Review(
        f"Runs of {scope_text(*scope)} are billed by this price {from_text(values['effective_from'])}.",
        [("Until then", until_now), *facts, ("Tiers", tiers or "none"), ("Reason", values["reason"])],
        warning=(
            "It holds from a moment that has passed. Runs accepted since then stay as they were billed: a repricing "
            "changes them."
            if values["effective_from"] is not None and at < now
            else None
        ),
    )


def _some_model(model: str | None) -> str | None:
    return None if model is None else model.removesuffix("*")


def _from_to(old: int | None, new: int | None) -> str:
    def write(micros: int | None) -> str:
        return "-" if micros is None else text.money(micros).exact

    return write(new) if old == new or old is None else f"{write(old)} → {write(new)}"
