"""What operators call to price past runs anew. Part of the admin API."""

from __future__ import annotations

from dataclasses import fields

from flask import Blueprint, Response, url_for

from app.domain.errors import NotFound, NotReady
from app.domain.pages import NEWEST
from app.domain.repricings import RepricingFilter
from app.http.auth import caller_of_call
from app.http.openapi.describe import PageOf, answers
from app.http.paging import listed, newest_first
from app.http.query import takes_page
from app.http.routes import asked_by_operator, container, success
from app.http.schemas.corrections import RepricingSchema
from app.wire import columns
from app.wire.answers import RepricingAnswer, repricing_answer

blueprint = Blueprint("repricings", __name__, url_prefix="/api/admin/repricings")

_repricing = RepricingSchema()


@blueprint.post("")
@answers(RepricingAnswer, status=202, body=_repricing, has_location=True, refuses=(NotFound,))
def create_repricing() -> Response:
    """Starts a dry run: a worker selects the runs. Fetch the effect by user and model with `GET`."""
    asked = asked_by_operator(_repricing)
    matching = RepricingFilter(**{field.name: asked.pop(field.name) for field in fields(RepricingFilter)})
    created = container().repricings.create(filter=matching, **asked)
    response = success("Repricing requested", repricing_answer(created), 202)
    response.headers["Location"] = url_for("repricings.show_repricing", number=created.repricing.id)
    return response


@blueprint.get("")
@takes_page
@answers(PageOf(RepricingAnswer))
def list_repricings() -> Response:
    """Newest first."""
    found = newest_first(container().repricings.list, repricing_answer)
    return listed("Repricings", found, columns.REPRICINGS)


@blueprint.get("/<int:number>")
@answers(RepricingAnswer)
def show_repricing(number: int) -> Response:
    return success("Repricing", repricing_answer(container().repricings.get(_known(number))))


@blueprint.post("/<int:number>/apply")
@answers(RepricingAnswer, status=202, refuses=(NotReady,))
def apply_repricing(number: int) -> Response:
    """Applies a repricing: a worker amends the runs. Repeating the call does nothing more."""
    return success(
        "Repricing is applied", repricing_answer(container().repricings.apply(_known(number), caller_of_call())), 202
    )


def _known(number: int) -> int:
    if number > NEWEST:
        raise NotFound("Repricing not found")
    return number
