"""Signing in and out, and choosing light or dark."""

from __future__ import annotations

import secrets

from flask import Blueprint, Response, g, request, url_for

from app.console import access
from app.console.access import current_session, needs_session, open_to_all, services
from app.console.forms import Field, Filled, Form, Kind, identifier
from app.console.pages import page, see_other
from app.domain.errors import DomainError, InvalidApiKey
from app.domain.inputs import ACTOR_LENGTH_MAX
from app.wire.statuses import STATUS_OF_CODE

blueprint = Blueprint("sign_in", __name__)

THEME_SECONDS = 365 * 86_400
KEY_LENGTH_MAX = 1_000
VISIT_BYTES = 32

_FORM = Form(
    (
        Field("key", "Operator's key", identifier(KEY_LENGTH_MAX), Kind.SECRET),
        Field(
            "person",
            "Your name",
            identifier(ACTOR_LENGTH_MAX),
            is_required=False,
            help="Stands beside the key's name with whatever you change.",
        ),
    )
)


@blueprint.get("/sign-in")
@open_to_all
def show() -> Response:
    return _page(_FORM.blank(), 200)


@blueprint.post("/sign-in")
@open_to_all
def sign_in() -> Response:
    access.check_visit()
    filled = _FORM.read(request.form)
    if not filled.is_valid:
        return _page(filled, 400)
    try:
        token = services().console_sessions.open(
            filled.values["key"], person=filled.values["person"], address=g.address, request_id=g.request_id
        )
    except InvalidApiKey as error:
        return _page(filled.refused(InvalidApiKey("That is no operator's key in force")), STATUS_OF_CODE[error.code])
    except DomainError as error:
        return _page(filled.refused(error), STATUS_OF_CODE[error.code])
    response = see_other(_next(request.form.get("next", "")))
    access.set_cookie(response, access.cookie_name(), token)
    return response


@blueprint.post("/sign-out")
@needs_session
def sign_out() -> Response:
    services().console_sessions.close(current_session())
    response = see_other(url_for("sign_in.show"))
    access.set_cookie(response, access.cookie_name(), "", seconds=0)
    return response


@blueprint.post("/theme")
@open_to_all
def choose_theme() -> Response:
    """A matter of this browser's, and nobody's secret: it needs no session."""
    chosen = request.form.get("theme", "")
    is_chosen = chosen in ("light", "dark")
    response = see_other(_next(request.form.get("next", "")))
    access.set_cookie(
        response, access.THEME_COOKIE, chosen if is_chosen else "", seconds=THEME_SECONDS if is_chosen else 0
    )
    return response


def _page(filled: Filled, status: int) -> Response:
    visit = request.cookies.get(access.visit_cookie_name()) or secrets.token_urlsafe(VISIT_BYTES)
    g.console_visit = visit
    target = _next(request.values.get("next", ""))
    response = page("sign_in.html", status, filled=filled, next=target)
    access.set_cookie(response, access.visit_cookie_name(), visit)
    return response


def _next(given: str) -> str:
    """Where somebody wanted to go: a page of the console's, never elsewhere."""
    start = url_for("overview.show")
    root = start.rstrip("/")
    is_ours = given == root or given.startswith((f"{root}/", f"{root}?"))
    is_plain = given.isprintable() and "\\" not in given
    return given if is_ours and is_plain else start
