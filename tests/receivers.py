"""A receiver of webhooks as somebody might run one: a real server on loopback, which answers as it is told to."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import simplejson
from standardwebhooks import Webhook


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def payload(self) -> dict[str, Any]:
        found: dict[str, Any] = simplejson.loads(self.body, use_decimal=True)
        return found

    def verify(self, secret: str) -> Any:
        """As the receivers' own library does. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, self.headers)


Script = Callable[["Handler"], None]


@dataclass
class Receiver:
    """What came in, and what is answered: a status, or whatever a function does with the connection."""

    port: int
    received: list[Received] = field(default_factory=list)
    answer: int | Script = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks?from=tokentill"

    @property
    def types(self) -> list[str]:
        return [one.payload["type"] for one in self.received]


class Handler(BaseHTTPRequestHandler):
    receiver: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        receiver = self.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with receiver.lock:
            receiver.under_way += 1
            receiver.most_under_way = max(receiver.most_under_way, receiver.under_way)
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(self.path, headers, body, time.monotonic()))
            answer = receiver.answer
        try:
            if callable(answer):
                answer(self)
            else:
                self.reply(answer)
        except OSError:
            # Whoever asked has gone.
            self.close_connection = True
        finally:
            with receiver.lock:
                receiver.under_way -= 1

    def reply(self, status: int) -> None:
        self.send_response(status)
        for name, value in self.receiver.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.receiver.body)))
        self.end_headers()
        self.wfile.write(self.receiver.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Many at once are no reason to refuse one.
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up is meant to."""


@contextmanager
def receiver(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    handler = type("OwnHandler", (Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        found = Receiver(server.server_address[1])
        if tls is not None:
            # The handshake waits for its client: not in the thread that takes the next one.
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            found.scheme = "https"
        handler.receiver = found  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def hanging(seconds: float) -> Script:
    """Takes the request and says nothing for so long."""

    def script(handler: Handler) -> None:
        time.sleep(seconds)
        handler.reply(204)

    return script


def dripping(parts: bytes, pause_seconds: float) -> Script:
    """Answers byte by byte."""

    def script(handler: Handler) -> None:
        for number in parts:
            handler.connection.sendall(bytes([number]))
            time.sleep(pause_seconds)
        handler.close_connection = True

    return script


def saying(answer: bytes) -> Script:
    """Answers exactly this and hangs up."""

    def script(handler: Handler) -> None:
        handler.connection.sendall(answer)
        handler.close_connection = True

    return script


@contextmanager
def silent_port() -> Iterator[int]:
    """Takes connections and never says a word on them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
