"""Access to pages: each view names the scope that it requires, or that it is open to all.

A view that names neither is never served. Visitors who aren't signed in are sent to the sign-in, even for a page that
doesn't exist; if a session's key lacks the scope, the page says which one. A POST has to carry the session's CSRF token
and to come from a page of the console. A form that is sent after its session has ended does nothing, but what was typed
into it isn't lost: `SignedOut` and `ShownBefore` lead back to it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, request, url_for
from werkzeug.exceptions import Forbidden, Unauthorized

from app.bootstrap import EXTENSION, Container
from app.console.pages import see_other
from app.domain.keys import Caller, KeyScope
from app.operations.console_sessions import LIFETIME, Session

View = TypeVar("View", bound=Callable[..., Any])

_SCOPE = "console_scope"
_OPEN = "open"
_SESSION = "session"
_BYTES_MAX = "console_bytes_max"
# What a view may name instead of a scope.
KINDS = (_OPEN, _SESSION)
THEME_COOKIE = "tokentill-theme"
CSRF_FIELD = "csrf"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class NotFromHere(Forbidden):
    """A form that didn't come from a page of this console, or came from a page of another session."""

    description = (
        "This form doesn't belong to your session, so nothing was done. Open its page again: you may have signed in "
        "anew since it was shown."
    )


class SignedOut(Unauthorized):
    """A form of this console whose session has ended."""

    description = "You are not signed in any more, so nothing was done."


class ShownBefore(NotFromHere):
    """A form of this console that was shown to a session before this one."""

    description = "You have signed in anew since this form was shown, so nothing was done."


class ScopeMissing(Forbidden):
    def __init__(self, scope: str) -> None:
        super().__init__(f"Your key lacks the scope “{scope}”, which this page asks for. Nothing was done.")


def needs(scope: KeyScope) -> Callable[[View], View]:
    """Decorates a view with the scope that it requires: that of the admin API's route for the same."""

    def decorate(view: View) -> View:
        setattr(view, _SCOPE, scope)
        return view

    return decorate


def open_to_all(view: View) -> View:
    """Decorates a view that needs no session."""
    setattr(view, _SCOPE, _OPEN)
    return view


def needs_session(view: View) -> View:
    """Decorates a view that needs a session, but no scope."""
    setattr(view, _SCOPE, _SESSION)
    return view


def takes_files(bytes_max: int) -> Callable[[View], View]:
    """Decorates a view whose form may have up to `bytes_max` bytes. It is read only after its sender is known."""

    def decorate(view: View) -> View:
        setattr(view, _BYTES_MAX, bytes_max)
        return view

    return decorate


def services() -> Container:
    """The services of the running application."""
    found: Container = current_app.extensions[EXTENSION]
    return found


def current_session() -> Session:
    """The session of the present request."""
    found: Session = g.console_session
    return found


def acting(values: Mapping[str, Any] | None = None) -> Caller:
    """The caller of a change, with the form's `reason`, if it has one."""
    caller: Caller = g.caller
    reason = None if values is None else values.get("reason")
    return replace(caller, reason=reason)


def may(scope: str) -> bool:
    """Whether the present session has this scope."""
    session: Session | None = g.get("console_session")
    return session is not None and scope in session.caller.scopes


def scope_of(endpoint: str) -> str:
    """The scope that a page requires. Raises AttributeError if its view names none."""
    scope: str = getattr(current_app.view_functions[endpoint], _SCOPE)
    return scope


def is_poll() -> bool:
    """Whether a page requests itself by htmx, to update a part of it. Forms that are sent aren't polls."""
    return request.method == "GET" and request.headers.get("HX-Request") == "true"


def register(app: Flask) -> None:
    @app.before_request
    def _let_in() -> Response | None:
        endpoint = request.endpoint
        scope = None if endpoint is None else scope_of(endpoint)
        if scope == _OPEN:
            _check_origin()
            return None
        cookie = request.cookies.get(cookie_name(), "")
        session = _session(cookie) if cookie else None
        if session is None:
            return _sign_in_first(has_cookie=bool(cookie))
        g.console_session = session
        g.caller = session.caller
        if scope not in (None, _SESSION) and scope not in session.caller.scopes:
            raise ScopeMissing(scope)
        if request.method not in SAFE_METHODS:
            _check_origin()
            if endpoint is not None:
                _allow_files(endpoint)
            _check_token()
        return None


def is_form() -> bool:
    """Whether the form that is sent to this address is also shown at it, by GET."""
    rule = request.url_rule
    return rule is not None and "GET" in (rule.methods or ())


def _check_token() -> None:
    """Raises NotFromHere."""
    try:
        check_csrf(csrf_token())
    except NotFromHere:
        if is_form() and request.headers.get("Sec-Fetch-Site") == "same-origin":
            raise ShownBefore from None
        raise


def _allow_files(endpoint: str) -> None:
    bytes_max: int | None = getattr(current_app.view_functions[endpoint], _BYTES_MAX, None)
    if bytes_max is not None:
        request.max_content_length = bytes_max


def _session(cookie: str) -> Session | None:
    sessions = services().console_sessions
    return sessions.find(cookie, address=g.address, request_id=g.request_id, touches=not is_poll())


def _sign_in_first(*, has_cookie: bool) -> Response:
    if request.method not in SAFE_METHODS:
        _check_origin()
        raise SignedOut
    target = url_for("sign_in.show", next=request.full_path.rstrip("?"))
    if is_poll():
        return Response(status=204, headers={"HX-Redirect": target})
    if not has_cookie and request.headers.get("Sec-Fetch-Site") == "cross-site":
        # The browser omits the cookie (SameSite=Strict) if a link from another site was followed. This page reloads
        # itself, and that request brings the cookie.
        return Response(_AGAIN, content_type="text/html; charset=utf-8")
    return see_other(target)


_AGAIN = """<!doctype html><html lang="en"><head><title>Tokentill</title><meta http-equiv="refresh" content="0"></head>
<body><p><a href="">Go on to the console</a></p></body></html>"""


def cookie_name() -> str:
    # Browsers accept a cookie with the prefix __Host- only over https (or from localhost), and only for this host.
    return "tokentill-console" if services().config.is_local else "__Host-tokentill-console"


def visit_cookie_name() -> str:
    return "tokentill-visit" if services().config.is_local else "__Host-tokentill-visit"


def set_cookie(response: Response, name: str, value: str, *, seconds: int | None = None) -> None:
    response.set_cookie(
        name,
        value,
        max_age=int(LIFETIME.total_seconds()) if seconds is None else seconds,
        path="/",
        secure=not services().config.is_local,
        httponly=True,
        samesite="Strict",
    )


def csrf_token() -> str:
    """The CSRF token of this page's forms, derived from the session's cookie, which no other site can read. Before the
    sign-in there is a cookie that serves only this.
    """
    secret = request.cookies.get(cookie_name()) if g.get("console_session") else g.get("console_visit")
    return token_of(secret or "")


def token_of(secret: str) -> str:
    return hmac.new(secret.encode(), b"a form of the console", hashlib.sha256).hexdigest()


def check_visit() -> None:
    """Raises NotFromHere unless the sign-in was sent from a sign-in page that was shown to this browser."""
    visit = request.cookies.get(visit_cookie_name())
    if not visit:
        raise NotFromHere
    check_csrf(token_of(visit))


def check_csrf(expected: str) -> None:
    """Raises NotFromHere."""
    if not hmac.compare_digest(request.form.get(CSRF_FIELD, "").encode(), expected.encode()):
        raise NotFromHere


def _check_origin() -> None:
    """Raises NotFromHere if the browser says that the request comes from another site. If it says nothing, the CSRF
    token still has to be right.
    """
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site != "same-origin":
            raise NotFromHere
        return
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise NotFromHere
