"""Authentication: service servers and operators have different keys, the path decides which kind is needed, and each
route requires a scope (`scopes.py`).

The key is checked before a missing route is reported, so that nobody without a key learns which routes exist. A view
finds the caller in `g.caller`, or by `caller_of_call()` together with the person whom the call names.
"""

from __future__ import annotations

from dataclasses import replace

from flask import Flask, g, request

from app.bootstrap import Container
from app.domain.keys import Caller, KeyKind
from app.http import scopes
from app.http.headers import person_of_call

SERVER_PREFIX = "/api/token-process/"
ADMIN_PREFIX = "/api/admin/"
SERVER_HEADER = "x-server-api-key"
ADMIN_HEADER = "x-admin-api-key"

_GUARDS = (
    (SERVER_PREFIX, SERVER_HEADER, KeyKind.SERVICE),
    (ADMIN_PREFIX, ADMIN_HEADER, KeyKind.OPERATOR),
)


def register(app: Flask, container: Container) -> None:
    """Set `g.caller` before each view of the APIs."""

    @app.before_request
    def _authenticate() -> None:
        for prefix, header, kind in _GUARDS:
            if request.path.startswith(prefix):
                authenticate(container, kind, request.headers.get(header, ""))


def authenticate(container: Container, kind: KeyKind, given: str) -> None:
    """Check that a key allows this request, and set `g.caller`. Raises what `Authentication.caller` does, and
    KeyNotAllowed.
    """
    caller = container.authentication.caller(kind, given, g.address, g.request_id)
    scope = scopes.asked_for(request)
    if scope is not None:
        caller.check(scope)
    g.caller = caller


def caller_of_call() -> Caller:
    """The caller, with the person that the call names, if it does. Raises ValidationError."""
    caller: Caller = g.caller
    return replace(caller, person=person_of_call())
