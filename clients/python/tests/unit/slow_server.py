"""A Tokentill that hangs, drips or answers, as told, over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

START = {"user_id": "u", "token": 1000, "status": "access-able", "process_id": "p-1"}
END = {"user_id": "u", "token": 989, "cost": 11, "status": "return-able"}


@dataclass
class SlowServer:
    """`plan` is asked for each request's path; it answers how to treat it.

    - "answer": at once; "close": and then the connection is closed without a word; "hang": never
    - "drip-head", "drip-body": an answer of which a byte comes every `pause_seconds`
    - "half": the answer without its end, and then nothing
    """

    plan: Callable[[str], str] = lambda _path: "answer"
    pause_seconds: float = 0.05
    delay_seconds: float = 0.0
    url: str = ""
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def ends(self) -> list[dict[str, Any]]:
        """Every end that was sent, alone or in a batch."""
        found: list[dict[str, Any]] = []
        for path, body in zip(list(self.asked), list(self.bodies), strict=False):
            found += body["ends"] if path == "end/batch" else [body] if path == "end" else []
        return found


@contextlib.contextmanager
def slow_server(tls: ssl.SSLContext | None = None) -> Iterator[SlowServer]:
    slow = SlowServer()
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0), backlog=300)
    slow.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"

    def serve(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), _secured(plain, tls) as connection:
            while request := _request(connection):
                path, sent = request
                slow.bodies.append(sent)
                slow.asked.append(path)
                how = slow.plan(path)
                head, body = _answer(path, sent)
                over.wait(slow.delay_seconds)
                if how == "hang":
                    over.wait()
                elif how == "half":
                    connection.sendall(head + body[:-5])
                    over.wait()
                elif how == "drip-head":
                    _drip(connection, head + body)
                elif how == "drip-body":
                    connection.sendall(head)
                    _drip(connection, body)
                else:
                    connection.sendall(head + body)
                    if how == "close":
                        return

    def _drip(connection: socket.socket, text: bytes) -> None:
        for byte in text:
            connection.sendall(bytes([byte]))
            if over.wait(slow.pause_seconds):
                return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield slow
    finally:
        over.set()
        # Closing alone doesn't wake up who waits in accept.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _secured(plain: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    return plain if tls is None else tls.wrap_socket(plain, server_side=True)


def _request(connection: socket.socket) -> tuple[str, dict[str, Any]] | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    # A proxy is asked for the whole address.
    return head.split(b" ")[1].decode().rpartition("/api/token-process/")[2], json.loads(body)


def _answer(path: str, sent: dict[str, Any]) -> tuple[bytes, bytes]:
    data: dict[str, Any] = {"start": START, "end": END}.get(path, {})
    if path == "end/batch":
        data = {"results": [{"success": True, "data": END} for _ in sent["ends"]]}
    body = json.dumps({"success": True, "message": "ok", "data": data}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body
