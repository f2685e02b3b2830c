"""What operators call to price past runs anew. Part of the admin API."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, url_for
from marshmallow import ValidationError

from app.domain.errors import NotFound
from app.domain.pages import NEWEST
from app.domain.repricings import RepricingFilter
from app.http.errors import messages_of
from app.http.headers import ADMIN_ACTOR, actor_of_call
from app.http.json import read_object
from app.http.paging import listed, newest_first
from app.http.query import takes_page
from app.http.routes import container, success
from app.http.schemas.corrections import RepricingSchema
from app.wire import columns
from app.wire.answers import repricing_answer

blueprint = Blueprint("repricings", __name__, url_prefix="/api/admin/repricings")

_repricing = RepricingSchema()


@blueprint.post("")
def create() -> Response:
    """A worker selects the runs; what it does to whom is to be asked for."""
    errors: dict[str, Any] = {}
    body: dict[str, Any] = {}
    actor = ""
    try:
        body = _repricing.load(read_object())
    except ValidationError as error:
        errors |= messages_of(error)
    try:
        actor = actor_of_call(ADMIN_ACTOR)
    except ValidationError as error:
        errors |= messages_of(error)
    if errors:
        raise ValidationError(errors)
    price_id, reason = body.pop("price_id"), body.pop("reason")
    created = container().repricings.create(
        price_id, RepricingFilter(**body), reason=reason, actor=actor, request_id=g.request_id
    )
    response = success("Repricing requested", repricing_answer(created), 202)
    response.headers["Location"] = url_for("repricings.show", number=created.repricing.id)
    return response


@blueprint.get("")
@takes_page
def list_repricings() -> Response:
    found = newest_first(container().repricings.list, repricing_answer)
    return listed("Repricings", found, columns.REPRICINGS)


@blueprint.get("/<int:number>")
def show(number: int) -> Response:
    return success("Repricing", repricing_answer(container().repricings.get(_known(number))))


@blueprint.post("/<int:number>/apply")
def apply(number: int) -> Response:
    """A worker amends the runs; asked again, nothing more is done."""
    return success("Repricing is applied", repricing_answer(container().repricings.apply(_known(number))), 202)


def _known(number: int) -> int:
    if number > NEWEST:
        raise NotFound("Repricing not found")
    return number
