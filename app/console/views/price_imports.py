"""Price lists: imported as drafts, reviewed, and approved. No price changes before the approval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import BadRequest

from app.catalog.price_imports import ImportRequest
from app.catalog.price_lists import Format, Selection
from app.catalog.price_lists.document import NotReadable
from app.catalog.price_lists.document import parse as parse_list
from app.console import text
from app.console.access import acting, needs, services, takes_files
from app.console.changes import Done, Review, change
from app.console.filters import Filters
from app.console.forms import REASON, Choice, Field, Form, Kind, amount, flag, plain, whole
from app.console.pages import page
from app.console.paging import paged
from app.console.rates_fields import labelled
from app.console.scopes import effective_field, feature_field, from_text
from app.domain.errors import Invalid, NotFound
from app.domain.inputs import ID_LENGTH_MAX, identifier
from app.domain.keys import KeyScope
from app.domain.pages import NEWEST
from app.stores.postgres.price_imports import PriceImport, stored_rates
from app.wire.cursors import NEWEST_FIRST

blueprint = Blueprint("price_imports", __name__, url_prefix="/catalogue/price-lists")

# Several times the size of LiteLLM's list, the largest one.
LIST_BYTES_MAX = 16 * 1024 * 1024
NAMES_MAX = 1_000
ROWS_PER_PAGE = 100
_FORMATS: tuple[Choice, ...] = (
    (Format.LITELLM, "LiteLLM: model_prices_and_context_window.json"),
    (Format.MODELS_DEV, "models.dev: api.json"),
)
_FORMAT_NAMES = {format: label.partition(":")[0] for format, label in _FORMATS}


def _names(typed: str) -> tuple[str, ...]:
    """Ids separated by spaces or commas."""
    found = tuple(typed.replace(",", " ").split())
    if len(found) > NAMES_MAX:
        raise ValueError(f"At most {NAMES_MAX}.")
    return tuple(identifier(name, ID_LENGTH_MAX) for name in found)


_NEW = Form(
    (
        Field("list", "The list", plain, Kind.FILE, help="A JSON file of up to 16 MB.", wire_names=("document",)),
        Field("format", "Its format", plain, Kind.CHOICE, choices=_FORMATS, default=Format.LITELLM),
        Field("tokens_per_dollar", "Tokens for a dollar", amount(), Kind.NUMBER),
        Field("providers", "Providers", _names, is_required=False, help="openai anthropic: only those. Empty: all."),
        Field("models", "Models", _names, is_required=False, help="Ids, or beginnings of ids and a star: gpt-5* o3."),
        Field("exclude_models", "But not these", _names, is_required=False),
        Field("strip_provider", "Call gemini/gemini-2.5-pro just gemini-2.5-pro", flag, Kind.FLAG),
        Field("dated_ids", "Price dated ids too, such as gpt-5-2025-08-07", flag, Kind.FLAG, default="yes"),
        feature_field(help="All: prices for all feature endpoints.", unchosen="all"),
        effective_field(),
    )
)
_APPROVE = Form((Field("allow_jumps", "Prices may change by more than half", flag, Kind.FLAG), REASON))
_PARTS = ("changed", "new", "by_model", "by_user", "kept", "skipped", "rounded", "free", "passed_over")
SHOW = Filters(
    Field("part", "Part", plain, Kind.CHOICE, is_required=False, choices=[(part, part) for part in _PARTS]),
    Field("from_row", "From row", whole(0, 10_000_000), is_required=False),
)
_NO_FILTERS = Filters()


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    _NO_FILTERS.read()
    return page(
        "catalog/price_imports.html",
        paged=paged(NEWEST_FIRST, services().price_imports.list),
        format_label=_FORMAT_NAMES.get,
    )


@blueprint.route("/new", methods=["GET", "POST"])
@needs(KeyScope.CATALOG)
@takes_files(LIST_BYTES_MAX)
def new() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        asked = ImportRequest(
            document=_document(),
            list_format=Format(values["format"]),
            micros_per_dollar=values["tokens_per_dollar"],
            selection=Selection(
                providers=values["providers"] or (),
                models=values["models"] or (),
                excluded_models=values["exclude_models"] or (),
                strips_provider=values["strip_provider"],
                with_dated=values["dated_ids"],
            ),
            feature_endpoint_id=values["feature_endpoint_id"],
            effective_from=values["effective_from"],
        )
        draft = services().price_imports.draft(asked, acting())
        return Done(
            url_for("price_imports.show", number=draft.id), "The list was read. No price has changed: look and approve."
        )

    return change(
        _NEW,
        title="Import a price list",
        action="Read the list",
        back=url_for("price_imports.index"),
        review=None,
        perform=perform,
        intro=(
            "Reading a list changes no price. It shows which prices would change, and what that makes of the last 30 "
            "days' usage; approving it does the rest."
        ),
    )


@blueprint.get("/<int:number>")
@needs(KeyScope.READ)
def show(number: int) -> Response:
    filtered = SHOW.read()
    if not filtered.is_valid:
        raise BadRequest("This part of an import doesn't exist.")
    found = _found(number)
    part = filtered.values.get("part") or ("changed" if found.counts["changed"] else "new")
    first: int = filtered.values.get("from_row") or 0
    last = first + ROWS_PER_PAGE
    rows = _rows(found, part)
    address = url_for("price_imports.show", number=number)
    return page(
        "catalog/price_import.html",
        found=found,
        part=part,
        parts=[(_label(name), f"{address}?part={name}", name == part) for name in _PARTS if _rows(found, name)],
        rows=rows[first:last],
        total=len(rows),
        first=first,
        next_url=None if last >= len(rows) else f"{address}?part={part}&from_row={last}",
        effect=found.report["usage"],
        format_label=_FORMAT_NAMES.get,
        kind_label=_kind_label,
        rates=lambda row: labelled(stored_rates(row["rates"])),
        change_percent=_change_percent,
    )


@blueprint.route("/approve/<int:number>", methods=["GET", "POST"])
@needs(KeyScope.CATALOG)
def approve(number: int) -> Response:
    draft = _found(number)

    def review(values: Mapping[str, Any]) -> Review:
        jumps = draft.counts["jumps"]
        if jumps and not values["allow_jumps"]:
            raise Invalid(errors={"allow_jumps": [f"{jumps:,} change by more than half: allow that if it is meant."]})
        usage = draft.report["usage"]
        return Review(
            f"{text.counted(draft.counts['changed'], 'price')} changed and {text.counted(draft.counts['new'], 'price')}"
            f" new, {from_text(draft.effective_from)}.",
            [
                ("The last 30 days' runs cost", f"{text.money(usage['old_cost_micros']).exact} tokens"),
                ("By the new prices", f"{text.money(usage['new_cost_micros']).exact} tokens"),
                ("Reason", values["reason"]),
            ],
            warning=f"By more than half: {text.counted(jumps, 'price')}." if jumps else None,
        )

    def perform(values: Mapping[str, Any]) -> Done:
        approved = (
            services()
            .price_imports.approve(number, allow_jumps=values["allow_jumps"], caller=acting(values))
            .price_import
        )
        return Done(
            url_for("price_imports.show", number=number),
            f"Made: {text.counted(len(approved.price_ids or ()), 'price')}.",
        )

    return change(
        _APPROVE,
        title=f"Approve import {number}",
        action="Make these prices",
        back=url_for("price_imports.show", number=number),
        review=review,
        perform=perform,
        intro=(
            f"{text.counted(draft.counts['changed'], 'price')} would change and"
            f" {text.counted(draft.counts['new'], 'price')} would be new."
        ),
    )


def _document() -> Any:
    """The price list in the file that was sent. Raises Invalid."""
    file = request.files.get("list")
    data = b"" if file is None else file.read()
    if not data:
        raise Invalid(errors={"list": ["Must be chosen."]})
    try:
        return parse_list(data)
    except NotReadable as error:
        raise Invalid(errors={"list": [str(error)]}) from None


def _found(number: int) -> PriceImport:
    if number > NEWEST:
        raise NotFound("Price import not found")
    return services().price_imports.get(number)


def _rows(found: PriceImport, part: str) -> list[Any]:
    match part:
        case "changed" | "new":
            return [row for row in found.proposed if row["is_new"] == (part == "new")]
        case "by_model" | "by_user":
            return list(found.report["usage"][part])
        case "skipped" | "passed_over":
            return sorted(found.report[part].items())
    return list(found.report[part])


def _label(part: str) -> str:
    return {"by_model": "Effect by model", "by_user": "Effect by user"}.get(part, text.words(part).capitalize())


def _kind_label(kind: str) -> str:
    return text.words(kind.removesuffix("_token"))


def _change_percent(old_micros: int, new_micros: int) -> str:
    """The change in percent with one decimal, computed in integers."""
    if old_micros == 0:
        return "from nothing" if new_micros else "-"
    thousandths = 1_000 * (new_micros - old_micros) // abs(old_micros)
    sign = "-" if thousandths < 0 else "+"
    whole_percent, tenth = divmod(abs(thousandths), 10)
    return f"{sign}{whole_percent:,}.{tenth} %"
