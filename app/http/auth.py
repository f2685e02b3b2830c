"""Who may call what: service servers and operators carry keys of their own, told apart by path, and a route asks for a
scope (`scopes.py`).

The key is decided on before routing is looked at, so without one nobody learns which routes exist. A view finds who
calls in `g.caller`, or in `caller_of_call()` with the person whom the call names.
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
    """Have `g.caller` set before any view of the APIs."""

    @app.before_request
    def _authenticate() -> None:
        for prefix, header, kind in _GUARDS:
            if request.path.startswith(prefix):
                authenticate(container, kind, request.headers.get(header, ""))


def authenticate(container: Container, kind: KeyKind, given: str) -> None:
    """Set `g.caller` by a key that allows this request. Raises what `app/access/authentication.py` does, and
    KeyNotAllowed.
    """
    caller = container.authentication.caller(kind, given, g.address, g.request_id)
    scope = scopes.asked_for(request)
    if scope is not None:
        caller.check(scope)
    g.caller = caller


def caller_of_call() -> Caller:
    """Who calls, and the person behind it if the call names one. Raises ValidationError."""
    caller: Caller = g.caller
    return replace(caller, person=person_of_call())
