"""Gives each request an id, which is in its answer, in its log lines and, for an end, in the worker's log too."""

from __future__ import annotations

import re
import time
from functools import cache

from flask import Flask, Response, g, request
from uuid_utils import uuid7

from app import logs, tracing
from app.http.client_address import ClientAddress
from app.http.request_log import RequestLog
from app.meters.instruments import Meters

REQUEST_ID_HEADER = "X-Request-Id"
# Method and route, for metrics and traces, of requests without a route: their senders could choose any text.
NO_ROUTE = ("-", "-")
_VARIABLE = re.compile(r"<(?:[^:>]+:)?([^>]+)>")
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def begin(given: str) -> str:
    """Choose a request's id, the given one if it is acceptable, and add it to this thread's log lines."""
    request_id = given if given and _ACCEPTABLE.fullmatch(given) else str(uuid7())
    logs.request_id.set(request_id)
    return request_id


def finish() -> None:
    logs.request_id.set(None)


def register(app: Flask, log: RequestLog, addresses: ClientAddress, meters: Meters) -> None:
    @app.before_request
    def _begin() -> None:
        g.started = time.perf_counter()
        g.address = addresses.of(request.environ)
        g.request_id = begin(request.headers.get(REQUEST_ID_HEADER, ""))

    @app.after_request
    def _finish(response: Response) -> Response:
        response.headers[REQUEST_ID_HEADER] = g.request_id
        seconds = time.perf_counter() - g.started
        log.add(g.request_id, request.method, request.path, response.status_code, seconds, address=g.address)
        method, route = _route()
        meters.requests.observe(seconds, method, route, response.status_code)
        tracing.answered(method, route, response.status_code, g.request_id)
        finish()
        return response


def _route() -> tuple[str, str]:
    """The method and the template of a request's route. Never the path, as that contains ids of users."""
    if request.url_rule is None:
        return NO_ROUTE
    return request.method, _template(request.url_rule.rule)


@cache
def _template(rule: str) -> str:
    return _VARIABLE.sub(r"{\1}", rule)
