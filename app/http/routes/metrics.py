"""Metrics for Prometheus on the API's own port: for clients on this machine, and for those with an operator's key that
has the scope `metrics`.

The separate port for metrics (METRICS_PORT) needs no key, as only Prometheus should be able to reach it.
"""

from __future__ import annotations

from ipaddress import ip_address

from flask import Blueprint, Response, request

from app.domain.keys import KeyKind
from app.http.auth import ADMIN_HEADER, authenticate
from app.http.openapi.describe import Bare, answers
from app.http.routes import container
from app.wire.metrics import CONTENT_TYPE

blueprint = Blueprint("metrics", __name__)

# Headers that proxies add. A request with one of them comes from another machine.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
BEARER = "bearer "


@blueprint.get("/metrics")
@answers(Bare(media_type="text/plain"), has_optional_key=True)
def metrics() -> Response:
    """Metrics for Prometheus: from this machine without a key, from elsewhere with an operator's key."""
    if not (container().config.metrics_are_public or _is_from_here()):
        authenticate(container(), KeyKind.OPERATOR, _given_key())
    return Response(container().metrics.text(), content_type=CONTENT_TYPE)


def _is_from_here() -> bool:
    try:
        peer = ip_address(request.remote_addr or "")
    except ValueError:
        return False
    return peer.is_loopback and not any(name in request.headers for name in FORWARDED)


def _given_key() -> str:
    """The key in the admin API's header, or the bearer token, for which Prometheus has a setting."""
    given = request.headers.get(ADMIN_HEADER)
    if given is None:
        authorization = request.headers.get("Authorization", "")
        given = authorization[len(BEARER) :].strip() if authorization.lower().startswith(BEARER) else ""
    return given
