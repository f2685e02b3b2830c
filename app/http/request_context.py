"""What every request carries: an id that shows in the answer, in each log line and with the end in the worker."""

from __future__ import annotations

import re
import time

from flask import Flask, Response, g, request
from uuid_utils import uuid7

from app import logs
from app.http.request_log import RequestLog

REQUEST_ID_HEADER = "X-Request-Id"
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def begin(given: str) -> str:
    """A request's id, the caller's own if it will do; from now on in this thread's log lines."""
    request_id = given if given and _ACCEPTABLE.fullmatch(given) else str(uuid7())
    logs.request_id.set(request_id)
    return request_id


def finish() -> None:
    logs.request_id.set(None)


def register(app: Flask, log: RequestLog) -> None:
    @app.before_request
    def _begin() -> None:
        g.started = time.perf_counter()
        g.request_id = begin(request.headers.get(REQUEST_ID_HEADER, ""))

    @app.after_request
    def _finish(response: Response) -> Response:
        response.headers[REQUEST_ID_HEADER] = g.request_id
        log.add(g.request_id, request.method, request.path, response.status_code, time.perf_counter() - g.started)
        finish()
        return response
