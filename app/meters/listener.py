"""A separate port for collectors of metrics, apart from the port that service servers use.

Every process of a machine tries to listen on it and answers with the numbers of all of them (`share.py`). One process
gets the port; when it dies, another takes over within a second. An address that can't be used is logged once.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

log = structlog.get_logger(__name__)

PATH = "/metrics"
RETRY_SECONDS = 0.5
# A connection that sends nothing for this long is closed.
REQUEST_SECONDS_MAX = 10.0


class Listener:
    def __init__(self, host: str, port: int, render: Callable[[], bytes], content_type: str) -> None:
        self._address = (host, port)
        self._handler = _handler(render, content_type)
        self._stopping = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="metrics-listener", daemon=True).start()

    def close(self) -> None:
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()

    def _run(self) -> None:
        is_told = False
        while not self._stopping.is_set():
            try:
                server = _Server(self._address, self._handler)
            except OSError as error:
                # As a rule another of our processes has the port.
                if error.errno != errno.EADDRINUSE and not is_told:
                    log.warning("metrics_port_refused", port=self._address[1], error=str(error))
                    is_told = True
                self._stopping.wait(RETRY_SECONDS)
                continue
            with server:
                self._server = server
                server.serve_forever()
            return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Take over from a process that has just died while its old connections close; never beside a listening one.
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that went away isn't an error of ours."""
        log.debug("metrics_request_failed", exc_info=True)


def _handler(render: Callable[[], bytes], content_type: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS_MAX

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self._respond(404, b"Only /metrics is here.\n", "text/plain; charset=utf-8")
                return
            try:
                body = render()
            except Exception:
                log.exception("metrics_failed")
                self._respond(500, b"", "text/plain; charset=utf-8")
                return
            self._respond(200, body, content_type)

        def _respond(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            return "tokentill"

        def log_message(self, *_: object) -> None:
            """Scrapes aren't logged."""

    return Handler
