"""Profit rules: present, past and coming ones. A rule is never edited: a newer one takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request, url_for

from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, Review, change
from app.console.filters import Filters
from app.console.forms import REASON, Field, Form, Kind, identifier, percentage
from app.console.scopes import dated_index, effective_field, feature_field, from_text, initial_from, scope_text
from app.domain.keys import KeyScope

blueprint = Blueprint("profit_rules", __name__, url_prefix="/catalogue/profit-rules")

FILTERS = Filters(feature_field(), Field("model", "Model", identifier(), is_required=False))
_NEW = Form(
    (
        Field("percentage", "Profit", percentage, Kind.NUMBER, unit="%"),
        feature_field(help="All: those that have no rule of their own.", unchosen="all"),
        Field("model", "Model", identifier(), is_required=False, help="Exactly as service servers send it."),
        effective_field(),
        REASON,
    )
)


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    rules = services().catalog.current.profit_rules
    return dated_index("catalog/profit_rules.html", FILTERS, services().catalog_admin.rules, rules)


@blueprint.route("/new", methods=["GET", "POST"])
@needs(KeyScope.CATALOG)
def new() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        made = services().catalog_admin.create_rule(
            values["percentage"],
            feature_endpoint_id=values["feature_endpoint_id"],
            model=values["model"],
            effective_from=values["effective_from"],
            caller=acting(values),
        )
        return Done(url_for("profit_rules.index"), f"Profit rule {made.id} was created.")

    return change(
        _NEW,
        title="New profit rule",
        action="Create it",
        back=url_for("profit_rules.index"),
        review=_review,
        perform=perform,
        initial=initial_from(_NEW, request.args),
        intro="The most specific rule in force counts: feature and model, feature, model, none of both.",
    )


def _review(values: Mapping[str, Any]) -> Review:
    scope = (values["feature_endpoint_id"], values["model"])
    at = values["effective_from"] or services().clock.now()
    before = services().catalog.current.profit_rules.latest(*scope, at)
    return Review(
        f"Runs of {scope_text(*scope)} bring {text.percent(values['percentage'])} profit"
        f" {from_text(values['effective_from'])}.",
        [
            ("Until then", "no rule of its own" if before is None else text.percent(before.basis_points)),
            ("Reason", values["reason"]),
        ],
        warning="It holds from a moment that has passed: runs accepted since then stay as they were billed."
        if values["effective_from"] is not None and values["effective_from"] < services().clock.now()
        else None,
    )
