"""Signing in and out, and choosing light or dark.

A form that is sent after its session has ended is answered with the sign-in, which carries along what was typed. After
signing in the form is shown again, filled in. Nothing is changed in between.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, g, request, url_for
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app.console import access
from app.console.access import CSRF_FIELD, ShownBefore, SignedOut, current_session, needs_session, open_to_all, services
from app.console.changes import ONCE_FIELD, STEP_FIELD
from app.console.forms import Field, Filled, Form, Kind, identifier
from app.console.pages import page, see_other
from app.domain.errors import DomainError, InvalidApiKey
from app.domain.inputs import ACTOR_LENGTH_MAX
from app.wire.statuses import STATUS_OF_CODE

blueprint = Blueprint("sign_in", __name__)

THEME_SECONDS = 365 * 86_400
KEY_LENGTH_MAX = 1_000
VISIT_BYTES = 32
# Fields of a form that are valid only in the session that it was shown to.
_OF_SESSION = (CSRF_FIELD, ONCE_FIELD, STEP_FIELD)

Pairs = Sequence[tuple[str, str]]

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
    has_ended = "next" in request.args and access.cookie_name() in request.cookies
    return _page(_FORM.blank(), 200, message="Your session has ended." if has_ended else "")


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
    target, kept = _next(request.form.get("next", "")), _kept()
    if kept:
        response = _back_to_form(target, kept, access.token_of(token), "You are signed in again. Nothing was done yet.")
    else:
        response = see_other(target)
    access.set_cookie(response, access.cookie_name(), token)
    return response


@blueprint.app_errorhandler(SignedOut)
def signed_out(error: SignedOut) -> Response:
    """The sign-in, carrying along what was typed into the form whose session has ended."""
    kept = _sent() if access.is_form() else []
    told = f"{error.description} Sign in{', and what you typed is there again' if kept else ''}."
    return _page(_FORM.blank(), 401, message=told, kept=kept, target=_shown_at(request.path))


@blueprint.app_errorhandler(ShownBefore)
def shown_before(error: ShownBefore) -> Response:
    return _back_to_form(request.path, _sent(), access.csrf_token(), str(error.description), 403)


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
    """Choose a theme. It needs no session, as it affects only this browser."""
    chosen = request.form.get("theme", "")
    is_chosen = chosen in ("light", "dark")
    response = see_other(_next(request.form.get("next", "")))
    access.set_cookie(
        response, access.THEME_COOKIE, chosen if is_chosen else "", seconds=THEME_SECONDS if is_chosen else 0
    )
    return response


def _sent() -> list[tuple[str, str]]:
    """What was typed, without files. Nothing if the form is too large to be read without a session."""
    try:
        return [pair for pair in request.form.items(multi=True) if pair[0] not in _OF_SESSION]
    except RequestEntityTooLarge:
        return []


def _kept() -> list[tuple[str, str]]:
    """The fields that the sign-in has carried along."""
    try:
        found = json.loads(request.form.get("kept", "[]"))
        return [(str(name), str(value)) for name, value in found if name not in _OF_SESSION]
    except (ValueError, TypeError):
        return []


def _back_to_form(target: str, kept: Pairs, csrf: str, message: str, status: int = 200) -> Response:
    return page("form_back.html", status, target=target, kept=kept, csrf=csrf, message=message)


def _shown_at(path: str) -> str:
    """The page that a form belongs to: its own address if that can be shown, or the one above it."""
    routes = current_app.url_map.bind("")
    for address in (path, urlsplit(path).path.rpartition("/")[0]):
        try:
            routes.match(address, method="GET")
        except HTTPException:
            continue
        return address
    return url_for("overview.show")


def _page(filled: Filled, status: int, *, message: str = "", kept: Pairs | None = None, target: str = "") -> Response:
    visit = request.cookies.get(access.visit_cookie_name()) or secrets.token_urlsafe(VISIT_BYTES)
    g.console_visit = visit
    carried = json.dumps(_kept() if kept is None else kept)
    wanted = _next(target or request.values.get("next", ""))
    response = page("sign_in.html", status, filled=filled, next=wanted, message=message, kept=carried)
    access.set_cookie(response, access.visit_cookie_name(), visit)
    return response


def _next(given: str) -> str:
    """Where to go after signing in: only a page of the console, to prevent open redirects."""
    start = url_for("overview.show")
    root = start.rstrip("/")
    is_ours = given == root or given.startswith((f"{root}/", f"{root}?"))
    is_plain = given.isprintable() and "\\" not in given
    return given if is_ours and is_plain else start
