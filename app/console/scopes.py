"""What the pages of prices and of profit rules share: the scope of an item, and since when it is in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from flask import Response

from app.console import text
from app.console.access import services
from app.console.filters import Filters
from app.console.forms import Choice, Field, Form, Kind, moment, plain
from app.console.pages import page
from app.console.paging import paged
from app.domain.in_force import Dated, ProfitRules, RateCards
from app.domain.pages import Page
from app.domain.reports import Scope
from app.wire.cursors import NEWEST_FIRST


def feature_choices() -> Sequence[Choice]:
    """The feature endpoints, from this process's copy of the catalog, which is at most about a quarter second old."""
    features = sorted(services().catalog.current.features.values(), key=lambda feature: feature.id)
    return [(feature.id, f"{feature.id} ({feature.name})") for feature in features]


def package_choices() -> Sequence[Choice]:
    packages = sorted(services().catalog.current.packages.values(), key=lambda package: package.id)
    return [(package.id, f"{package.id} ({package.name})") for package in packages]


def feature_field(*, is_required: bool = False, help: str = "", unchosen: str = "any") -> Field:
    return Field(
        "feature_endpoint_id",
        "Feature endpoint",
        plain,
        Kind.CHOICE,
        is_required=is_required,
        choices=feature_choices,
        help=help,
        unchosen=unchosen,
    )


def effective_field() -> Field:
    return Field(
        "effective_from",
        "Holds from",
        moment,
        is_required=False,
        unit="UTC",
        help="A day or a day and a time, 2030-01-31 14:30. Empty: from now on.",
    )


def initial_from(form: Form, given: Mapping[str, str]) -> dict[str, str]:
    """Initial values of a form's fields, taken from the address."""
    return {each.name: given[each.name] for each in form.fields if each.name in given}


def scope_text(feature_endpoint_id: str | None, model: str | None) -> str:
    feature = "all features" if feature_endpoint_id is None else f"feature {feature_endpoint_id}"
    return f"{feature} with {'any model' if model is None else f'model {model}'}"


def from_text(at: datetime | None) -> str:
    return "from now on" if at is None else f"from {text.moment(at)} UTC on"


def dated_index(
    template: str,
    filters: Filters,
    fetch: Callable[[Scope, int, int], Page[Any, int]],
    line: ProfitRules | RateCards,
    **values: Any,
) -> Response:
    """The page that lists all items of a scope, newest first, each with whether it is in force."""
    filtered = filters.read()
    found = None
    if filtered.is_valid:
        wanted = Scope(**filtered.values)
        found = paged(NEWEST_FIRST, lambda limit, before_id: fetch(wanted, limit, before_id))
    now = services().clock.now()
    return page(
        template,
        filtered.status,
        filtered=filtered,
        paged=found,
        standing=lambda item: standing(line, item, now),
        **values,
    )


def standing(line: ProfitRules | RateCards, item: Dated, now: datetime) -> tuple[str, str]:
    """Whether an item of a scope is in force now, as a word and its tone."""
    if item.effective_from > now:
        return "upcoming", "warn"
    current: Any = line.latest(item.feature_endpoint_id, item.model, now)
    return ("in force", "good") if current is not None and current.id == item.id else ("followed", "")
