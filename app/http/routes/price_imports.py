"""What operators call to import a price list. Part of the admin API."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request, url_for

from app.catalog.price_lists.document import NotReadable
from app.catalog.price_lists.document import parse as parse_list
from app.domain.errors import AlreadyExists, NotFound, PriceImportOutdated, PriceListRefused, PricesJump
from app.domain.pages import NEWEST
from app.http.auth import caller_of_call
from app.http.json import BadBody, read_object
from app.http.openapi.describe import PageOf, answers
from app.http.paging import listed, newest_first
from app.http.query import takes_page
from app.http.routes import container, repeatable, success
from app.http.schemas.price_imports import ApprovalSchema, PriceImportSchema
from app.wire import columns
from app.wire.price_imports import (
    PriceImportAnswer,
    PriceImportHeadAnswer,
    price_import_answer,
    price_import_head_answer,
)

blueprint = Blueprint("price_imports", __name__, url_prefix="/api/admin/price-imports")

# Several times the size of LiteLLM's list, the largest one.
LIST_BYTES_MAX = 16 * 1024 * 1024

_price_import = PriceImportSchema()
_approval = ApprovalSchema()


@blueprint.post("")
@answers(
    PriceImportAnswer,
    status=201,
    body=_price_import,
    has_location=True,
    bytes_max=LIST_BYTES_MAX,
    refuses=(PriceListRefused, NotFound, AlreadyExists),
)
def import_prices() -> Response:
    """Reads LiteLLM's or models.dev's list into a draft that shows what would change once it is approved."""
    request.max_content_length = LIST_BYTES_MAX
    draft = container().price_imports.draft(_price_import.load(read_object(_parsed)), caller_of_call())
    response = success("Price import drafted", price_import_answer(draft), 201)
    response.headers["Location"] = url_for("price_imports.show_price_import", number=draft.id)
    return response


@blueprint.get("")
@takes_page
@answers(PageOf(PriceImportHeadAnswer))
def list_price_imports() -> Response:
    """Newest first."""
    found = newest_first(container().price_imports.list, price_import_head_answer)
    return listed("Price imports", found, columns.PRICE_IMPORTS)


@blueprint.get("/<int:number>")
@answers(PriceImportAnswer)
def show_price_import(number: int) -> Response:
    return success("Price import", price_import_answer(container().price_imports.get(_known(number))))


@blueprint.post("/<int:number>/approve")
@answers(
    PriceImportAnswer,
    body=_approval,
    body_is_optional=True,
    is_repeatable=True,
    refuses=(PricesJump, PriceImportOutdated, AlreadyExists, PriceListRefused),
)
def approve_price_import(number: int) -> Response:
    """Creates the prices of a draft, all or none."""
    body = _approval.load(read_object() if request.get_data() else {})
    approved = container().price_imports.approve(_known(number), **body, caller=caller_of_call())
    return repeatable("Price import approved", price_import_answer(approved.price_import), replayed=approved.replayed)


def _known(number: int) -> int:
    if number > NEWEST:
        raise NotFound("Price import not found")
    return number


def _parsed(data: bytes) -> Any:
    """Parse the body by the price lists' own parser, which reports a NaN or a repeated name by its row."""
    try:
        return parse_list(data)
    except NotReadable as error:
        raise BadBody(str(error)) from None
