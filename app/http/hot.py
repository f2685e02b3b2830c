"""The most frequent routes (start, end, end/batch), answered in front of Flask.

Only ordinary requests are answered here: a POST with a valid key and a valid JSON body of known length. Any other
request goes on to Flask, which reports what is wrong with it. Both ways answer by `calls.py`; this one saves Flask's
routing, contexts and objects, which these calls don't need. `tests/http/test_hot_routes.py` sends all kinds of requests
both ways and compares the answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING

from marshmallow import ValidationError

from app import tracing
from app.bootstrap import Container
from app.domain.errors import Unavailable
from app.domain.keys import ApiKey, KeyKind, KeyScope
from app.http import calls, request_context
from app.http.auth import SERVER_PREFIX
from app.http.calls import Answer, Call
from app.http.client_address import ClientAddress
from app.http.errors import domain_failure, extra_headers
from app.http.headers import REPLAYED_HEADER, as_written
from app.http.json import MEDIA_TYPE, BadBody, parse_object
from app.http.request_log import RequestLog
from app.wire.json import write

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_ROUTES: dict[str, tuple[Callable[[Container, Call], Answer], int]] = {
    f"{SERVER_PREFIX}start": (calls.start, calls.BODY_BYTES_MAX),
    f"{SERVER_PREFIX}end": (calls.end, calls.BODY_BYTES_MAX),
    f"{SERVER_PREFIX}end/batch": (calls.end_batch, calls.BATCH_BYTES_MAX),
}
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class HotRoutes:
    """WSGI middleware that answers the hot routes and passes everything else on to Flask."""

    def __init__(self, flask: WSGIApplication, services: Container, log: RequestLog, addresses: ClientAddress) -> None:
        self._flask = flask
        self._services = services
        self._keys = services.keys
        self._addresses = addresses
        self._log = log
        self._requests = services.meters.requests
        # Thread -> when its present request began. A thread has one request at a time.
        self._busy: dict[int, float] = {}
        self._count_busy(services)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        thread = threading.get_ident()
        self._busy[thread] = time.perf_counter()
        try:
            with tracing.request(environ):
                return self._answer(environ, start_response)
        finally:
            del self._busy[thread]

    def _count_busy(self, services: Container) -> None:
        def oldest_seconds() -> float:
            since = min(self._busy.copy().values(), default=None)
            return 0.0 if since is None else time.perf_counter() - since

        meters = services.meters
        meters.gauge("tokentill_http_threads_busy", lambda: {(): len(self._busy)})
        meters.gauge("tokentill_http_threads", lambda: {(): services.config.web_threads})
        meters.gauge(
            "tokentill_http_oldest_request_seconds",
            lambda: {(): oldest_seconds()},
        )

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        route = _ROUTES.get(environ["PATH_INFO"])
        if route is None or (length := self._usual_length(environ, route[1])) is None:
            return self._flask(environ, start_response)
        address = self._addresses.of(environ)
        key = self._key(environ, address)
        if key is None:
            return self._flask(environ, start_response)
        started = time.perf_counter()
        # Read once: each read releases the interpreter lock, though the server has all bytes already.
        data = environ["wsgi.input"].read(length)
        request_id = request_context.begin(environ.get("HTTP_X_REQUEST_ID", ""))
        headers = [("Content-Type", MEDIA_TYPE), (request_context.REQUEST_ID_HEADER, request_id)]
        status = 200
        try:
            answer = route[0](self._services, self._call(environ, data, request_id, key.name))
            body = answer.body
            if answer.is_replayed:
                headers.append((REPLAYED_HEADER, "true"))
        except (BadBody, ValidationError):
            # Nothing is done yet: let Flask answer what is wrong.
            return self._flask({**environ, "wsgi.input": BytesIO(data)}, start_response)
        except Exception as error:
            body = domain_failure(error)
            status = body["status"]
            headers += extra_headers(status)
        content = write(body)
        headers.append(("Content-Length", str(len(content))))
        seconds = time.perf_counter() - started
        self._log.add(request_id, "POST", environ["PATH_INFO"], status, seconds, address=address)
        self._requests.observe(seconds, "POST", environ["PATH_INFO"], status)
        tracing.answered("POST", environ["PATH_INFO"], status, request_id)
        request_context.finish()
        start_response(_STATUS_LINES[status], headers)
        return [content]

    def _usual_length(self, environ: WSGIEnvironment, bytes_max: int) -> int | None:
        """The length of the body, if the request may be answered here. None: it has to go on to Flask."""
        length: str = environ.get("CONTENT_LENGTH", "")
        if (
            environ["REQUEST_METHOD"] == "POST"
            and not environ.get("QUERY_STRING")
            and environ.get("CONTENT_TYPE") == MEDIA_TYPE
            and length.isdecimal()
            and "HTTP_TRANSFER_ENCODING" not in environ
            and int(length) <= bytes_max
        ):
            return int(length)
        return None

    def _key(self, environ: WSGIEnvironment, address: str) -> ApiKey | None:
        """The request's API key, if it is in force and allows these calls."""
        try:
            key = self._keys.find(KeyKind.SERVICE, environ.get("HTTP_X_SERVER_API_KEY", ""), address)
        except Unavailable:
            return None
        return key if key is not None and KeyScope.BILLING in key.scopes else None

    @staticmethod
    def _call(environ: WSGIEnvironment, data: bytes, request_id: str, caller_name: str) -> Call:
        return Call(
            parse_object(data),
            request_id,
            caller_name,
            as_written(environ.get("HTTP_IDEMPOTENCY_KEY")),
            as_written(environ.get("HTTP_X_ACTOR")),
        )
