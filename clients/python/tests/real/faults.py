"""A proxy before the real server that misbehaves on demand, before or after the server has answered."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@dataclass
class Seen:
    path: str
    body: bytes
    key: str | None


@dataclass
class FaultProxy:
    """`plan` is asked before each call with its number from 1; it answers the fault to inject, or None.

    - "503": not passed on; 503 with Retry-After: `retry_after`
    - "cut": not passed on; the connection is closed
    - "swallow": passed on, and the connection is closed instead of giving the answer back
    - "delay": passed on; the answer is held back for `delay_seconds`, past the client's patience
    - "garbage": passed on; a page of something else comes back with 502
    """

    target: str
    plan: Callable[[int], str | None] = lambda _number: None
    retry_after: str | None = "0"
    delay_seconds: float = 2.0
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, path: str) -> int:
        return sum(1 for call in self.seen if call.path.endswith(path))


@contextlib.contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target)
    upstream = httpx.Client(base_url=target, timeout=60)
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with proxy._lock:
                proxy.seen.append(Seen(self.path, body, self.headers.get("Idempotency-Key")))
                fault = proxy.plan(len(proxy.seen))
            if fault == "503":
                headers = {} if proxy.retry_after is None else {"Retry-After": proxy.retry_after}
                text = (
                    b'{"success": false, "status": 503, "message": "busy", "code": "temporarily_unavailable"}'
                )
                self._answer(503, text, headers)
            elif fault == "cut":
                self._hang_up()
            else:
                passed = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                answer = upstream.post(self.path, content=body, headers=passed)
                if fault == "swallow":
                    self._hang_up()
                elif fault == "garbage":
                    self._answer(502, b"<html>bad gateway</html>", {})
                else:
                    if fault == "delay":
                        done.wait(proxy.delay_seconds)
                    replayed = answer.headers.get("Idempotent-Replayed")
                    self._answer(
                        answer.status_code,
                        answer.content,
                        {"Idempotent-Replayed": replayed} if replayed else {},
                    )

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            with contextlib.suppress(OSError):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def _hang_up(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: object) -> None:
            """The tests' output is not the place for it."""

    class QuietServer(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up first is part of the tests."""

    server = QuietServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        done.set()
        server.shutdown()
        thread.join()
        server.server_close()
        upstream.close()
