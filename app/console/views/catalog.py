"""Feature endpoints and packages: what is sold, and what a wallet may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, url_for

from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, Review, change
from app.console.filters import Filters
from app.console.forms import REASON, Choice, Field, Form, Kind, amount, duration, duration_text, plain, printable
from app.console.navigation import is_within
from app.console.pages import page
from app.console.paging import paged
from app.console.scopes import feature_choices
from app.domain.catalog import FeatureEndpoint, Package, Unpriced
from app.domain.errors import NotFound
from app.domain.inputs import NAME_LENGTH_MAX, path_id
from app.domain.keys import KeyScope
from app.wire.cursors import BY_ID

blueprint = Blueprint("catalog", __name__, url_prefix="/catalogue")

REVERSAL_SECONDS_MAX = 31_536_000
_UNPRICED: Sequence[Choice] = (
    (Unpriced.DEFAULT, "sold by the default rule: output tokens / 4"),
    (Unpriced.REFUSE, "refused"),
)
_NAME = Field("name", "Name", printable(NAME_LENGTH_MAX))
_FEATURE_FIELDS = (
    _NAME,
    Field(
        "min_token",
        "Least spendable to start it",
        amount(allow_zero=True),
        Kind.NUMBER,
        default="1",
        unit="tokens",
        wire_names=("min_micros",),
    ),
    Field("unpriced", "A model without a price is", plain, Kind.CHOICE, choices=_UNPRICED, default=Unpriced.DEFAULT),
    Field(
        "reversal_seconds",
        "Service servers may reverse a run for",
        duration(0, REVERSAL_SECONDS_MAX),
        default="0",
        help="Such as 15m, 24h or 7d. 0: never.",
    ),
)
_NEW_FEATURE = Form((Field("id", "Id", path_id, help="As service servers send it."), *_FEATURE_FIELDS, REASON))
_FEATURE = Form((*_FEATURE_FIELDS, REASON))


_PACKAGE_FIELDS = (
    _NAME,
    Field(
        "feature_endpoint_ids",
        "Feature endpoints",
        plain,
        Kind.MANY,
        is_required=False,
        choices=feature_choices,
        help="What a wallet with this package may use.",
    ),
)
_NEW_PACKAGE = Form((Field("id", "Id", path_id), *_PACKAGE_FIELDS, REASON))
_PACKAGE = Form((*_PACKAGE_FIELDS, REASON))
_NO_FILTERS = Filters()


@blueprint.get("")
@needs(KeyScope.READ)
def features() -> Response:
    _NO_FILTERS.read()
    found = paged(BY_ID, services().catalog_admin.features)
    return page("catalog/features.html", paged=found, catalog=services().catalog.current)


@blueprint.route("/features/new", methods=["GET", "POST"])
@needs(KeyScope.CATALOG)
def new_feature() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        feature = FeatureEndpoint(
            values["id"],
            values["name"],
            values["min_token"],
            Unpriced(values["unpriced"]),
            values["reversal_seconds"],
        )
        services().catalog_admin.create_feature(feature, acting(values))
        return Done(url_for("catalog.features"), f"Feature endpoint {feature.id} was created.")

    return change(
        _NEW_FEATURE,
        title="New feature endpoint",
        action="Create it",
        back=url_for("catalog.features"),
        review=lambda values: Review(
            f"The feature endpoint {values['id']} is created. Nobody can start it until a package includes it.",
            _feature_facts(values),
        ),
        perform=perform,
    )


@blueprint.route("/features/change/<id:feature_id>", methods=["GET", "POST"])
@needs(KeyScope.CATALOG)
def change_feature(feature_id: str) -> Response:
    feature = services().catalog.current.features.get(feature_id)
    if feature is None:
        raise NotFound("Feature endpoint not found")

    def changes(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": values["name"],
            "min_micros": values["min_token"],
            "unpriced": Unpriced(values["unpriced"]),
            "reversal_seconds": values["reversal_seconds"],
        }

    def perform(values: Mapping[str, Any]) -> Done:
        services().catalog_admin.update_feature(feature_id, changes(values), acting(values))
        return Done(url_for("catalog.features"), f"Feature endpoint {feature_id} was changed.")

    return change(
        _FEATURE,
        title=f"Change feature endpoint {feature_id}",
        action="Change it",
        back=url_for("catalog.features"),
        review=lambda values: Review(
            f"The feature endpoint {feature_id} is changed, for calls from now on.", _feature_facts(values, feature)
        ),
        perform=perform,
        initial={
            "name": feature.name,
            "min_token": text.tokens(feature.min_micros),
            "unpriced": feature.unpriced,
            "reversal_seconds": duration_text(feature.reversal_seconds),
        },
    )


@blueprint.get("/packages")
@needs(KeyScope.READ)
def packages() -> Response:
    _NO_FILTERS.read()
    found = paged(BY_ID, services().catalog_admin.packages)
    return page("catalog/packages.html", paged=found)


@blueprint.route("/packages/new", methods=["GET", "POST"])
@needs(KeyScope.CATALOG)
def new_package() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        made = services().catalog_admin.create_package(
            values["id"], values["name"], values["feature_endpoint_ids"], acting(values)
        )
        return Done(url_for("catalog.packages"), f"Package {made.id} was created.")

    return change(
        _NEW_PACKAGE,
        title="New package",
        action="Create it",
        back=url_for("catalog.packages"),
        review=lambda values: Review(
            f"The package {values['id']} is created. No wallet has it yet.", _package_facts(values)
        ),
        perform=perform,
    )


@blueprint.route("/packages/change/<id:package_id>", methods=["GET", "POST"])
@needs(KeyScope.CATALOG)
def change_package(package_id: str) -> Response:
    package = services().catalog.current.packages.get(package_id)
    if package is None:
        raise NotFound("Package not found")

    def perform(values: Mapping[str, Any]) -> Done:
        services().catalog_admin.update_package(
            package_id, name=values["name"], feature_ids=values["feature_endpoint_ids"], caller=acting(values)
        )
        return Done(url_for("catalog.packages"), f"Package {package_id} was changed.")

    return change(
        _PACKAGE,
        title=f"Change package {package_id}",
        action="Change it",
        back=url_for("catalog.packages"),
        review=lambda values: Review(
            f"The package {package_id} is changed, for all its wallets and for starts from now on.",
            _package_facts(values, package),
            warning=_taken_away(values, package),
        ),
        perform=perform,
        initial={"name": package.name, "feature_endpoint_ids": package.feature_endpoint_ids},
    )


_TABS = (
    ("Feature endpoints", "catalog.features"),
    ("Packages", "catalog.packages"),
    ("Prices", "prices.index"),
    ("Profit rules", "profit_rules.index"),
    ("Calculator", "prices.calculator"),
    ("Price lists", "price_imports.index"),
)
_TAB_PAGES = [endpoint for _, endpoint in _TABS]


@blueprint.app_context_processor
def _tabs() -> dict[str, Any]:
    return {
        "catalog_tabs": lambda: [
            (label, url_for(endpoint), is_within(_TAB_PAGES, endpoint)) for label, endpoint in _TABS
        ]
    }


def _feature_facts(values: Mapping[str, Any], before: FeatureEndpoint | None = None) -> list[tuple[str, str]]:
    old = None if before is None else (before.name, before.min_micros, before.unpriced, before.reversal_seconds)
    new = (values["name"], values["min_token"], values["unpriced"], values["reversal_seconds"])
    labels = ("Name", "Least spendable to start it", "A model without a price is", "Reversals by service servers")
    writes = (str, lambda micros: f"{text.money(micros).exact} tokens", _unpriced, _reversals)
    return [
        *(
            (label, _from_to(write, None if old is None else old[i], new[i]))
            for i, (label, write) in enumerate(zip(labels, writes, strict=True))
        ),
        ("Reason", values["reason"]),
    ]


def _package_facts(values: Mapping[str, Any], before: Package | None = None) -> list[tuple[str, str]]:
    old_features = None if before is None else list(before.feature_endpoint_ids)
    return [
        ("Name", _from_to(str, None if before is None else before.name, values["name"])),
        ("Feature endpoints", _from_to(_listed, old_features, sorted(values["feature_endpoint_ids"]))),
        ("Reason", values["reason"]),
    ]


def _from_to(write: Any, old: Any, new: Any) -> str:
    return str(write(new)) if old is None or old == new else f"{write(old)} → {write(new)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _unpriced(value: str) -> str:
    return "refused" if value == Unpriced.REFUSE else "sold by the default rule"


def _reversals(seconds: int) -> str:
    return f"for {text.span(seconds)}" if seconds else "never"


def _taken_away(values: Mapping[str, Any], before: Package) -> str | None:
    gone = sorted(set(before.feature_endpoint_ids) - set(values["feature_endpoint_ids"]))
    return f"Wallets with this package can't start {', '.join(gone)} any more." if gone else None
