"""A provider that streams 100 pieces slowly, and notes how many it had sent when its caller hung up."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECES = 100
PAUSE_SECONDS = 0.03


@dataclass
class SlowProvider:
    """`hung_up` has the number of pieces sent for each caller that left early."""

    url: str = ""
    hung_up: list[int] = field(default_factory=list)
    finished: int = 0

    def wait_for_hang_up(self) -> int:
        deadline = time.monotonic() + 5
        while not self.hung_up:
            assert self.finished == 0, "The provider was read to its end"
            assert time.monotonic() < deadline, "The provider was never hung up on"
            time.sleep(0.005)
        return self.hung_up.pop()


@contextlib.contextmanager
def slow_provider() -> Iterator[SlowProvider]:
    provider = SlowProvider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            events = _messages() if self.path.endswith("/messages") else _chat()
            sent = 0
            for name, data, is_piece in events:
                text = (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
                sent += is_piece
                if is_piece and self._hung_up():
                    provider.hung_up.append(sent)
                    self.close_connection = True
                    return
            provider.finished += 1
            with contextlib.suppress(ConnectionError):
                self.wfile.write(b"0\r\n\r\n")

        def _hung_up(self) -> bool:
            readable, _, _ = select.select([self.connection], [], [], PAUSE_SECONDS)
            if not readable:
                return False
            try:
                return not self.connection.recv(1)
            except ConnectionError:
                return True

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    provider.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _chat() -> Iterator[tuple[str | None, Any, bool]]:
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for _ in range(PIECES):
        choice = {"index": 0, "delta": {"role": "assistant", "content": "x"}, "finish_reason": None}
        yield None, {**about, "choices": [choice]}, True
    usage = {"prompt_tokens": 10, "completion_tokens": PIECES, "total_tokens": 10 + PIECES}
    yield None, {**about, "choices": [], "usage": usage}, False


def _messages() -> Iterator[tuple[str | None, Any, bool]]:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 100, "output_tokens": 1},
    }
    yield "message_start", {"type": "message_start", "message": message}, False
    block = {"type": "text", "text": ""}
    yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": block}, False
    for _ in range(PIECES):
        delta = {"type": "text_delta", "text": "x"}
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}, True
