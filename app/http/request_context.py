"""What every request carries: an id that shows in the answer, in each log line and with the end in the worker."""

from __future__ import annotations

import re
import time

import structlog
from flask import Flask, Response, g, request
from uuid_utils import uuid7

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def register(app: Flask) -> None:
    @app.before_request
    def _begin() -> None:
        given = request.headers.get(REQUEST_ID_HEADER, "")
        g.request_id = given if _ACCEPTABLE.fullmatch(given) else str(uuid7())
        g.started = time.perf_counter()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    @app.after_request
    def _finish(response: Response) -> Response:
        response.headers[REQUEST_ID_HEADER] = g.request_id
        log.info(
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            duration_seconds=round(time.perf_counter() - g.started, 4),
        )
        structlog.contextvars.clear_contextvars()
        return response
