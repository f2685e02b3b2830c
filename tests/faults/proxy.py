"""A TCP proxy between our processes and Postgres that can refuse connections, and cut them in the middle of a commit.

It parses what clients send far enough to recognise a commit: the word COMMIT, or the end of a statement that inserts
into the end inbox (which commits by itself). Once armed it cuts the next such connections at one of three moments,
which the client can't tell apart: before the server has received the commit, as soon as it has been sent to the server,
or after the server has committed but before the client gets the answer.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

CHUNK_BYTES = 65_536
START_UP_CODES = (80877103, 80877104)  # SSLRequest and GSSENCRequest, each answered by one byte
INBOX_INSERT = b"INSERT INTO end_inbox"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: closing says RST


class Moment(StrEnum):
    UNSENT = "before the server heard of it"
    SENT = "when the server was sent it"
    DONE = "after the server did it"


@dataclass
class Reader:
    """Parses the client's side of Postgres's protocol, message by message."""

    _waiting: bytes = b""
    _is_started: bool = False
    _inserts: set[bytes] = field(default_factory=set)
    _runs_insert: bool = False

    def feed(self, chunk: bytes) -> tuple[bytes, bytes, str | None]:
        """Take received bytes. Returns the messages to pass on, and the commit right after them with its kind, if there
        is one.

        Bytes after a commit are kept for the next call.
        """
        data = self._waiting + chunk
        position = 0
        while True:
            length = self._length(data, position)
            if length is None or len(data) < position + length:
                self._waiting = data[position:]
                return data[:position], b"", None
            kind = self._commit(data[position : position + length])
            if kind is not None:
                self._waiting = data[position + length :]
                return data[:position], data[position : position + length], kind
            position += length

    def _length(self, data: bytes, position: int) -> int | None:
        head = 1 if self._is_started else 0
        if len(data) < position + head + 4:
            return None
        length: int = struct.unpack_from("!I", data, position + head)[0]
        return head + length

    def _commit(self, message: bytes) -> str | None:
        if not self._is_started:
            code: int = struct.unpack_from("!I", message, 4)[0]
            self._is_started = code not in START_UP_CODES
            return None
        kind, body = message[:1], message[5:]
        if kind == b"Q" and body.upper().startswith(b"COMMIT"):
            return "commit"
        if kind == b"P":
            name, _, statement = body.partition(b"\0")
            if INBOX_INSERT in statement:
                self._inserts.add(name)
            else:
                self._inserts.discard(name)
        elif kind == b"B":
            self._runs_insert = body.split(b"\0", 2)[1] in self._inserts
        elif kind == b"S" and self._runs_insert:
            self._runs_insert = False
            return "insert"
        return None


class PostgresProxy:
    """Listens on its own port on the loopback interface and passes everything on to the server's."""

    def __init__(self, server_port: int, *, seed: int) -> None:
        self._server_port = server_port
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._armed = {"commit": 0, "insert": 0}
        self.cuts: Counter[str] = Counter()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def arm(self, kind: str, count: int) -> None:
        """Cut the next `count` connections that commit by a `commit`, or by an `insert` into the inbox."""
        with self._lock:
            self._armed[kind] = count

    @property
    def armed(self) -> int:
        return sum(self._armed.values())

    def refuse(self) -> None:
        """Cut every connection and accept no new ones."""
        # Closing alone would leave a blocked accept() its socket for one more connection.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._cut(pair)

    def allow(self) -> None:
        self._listener = self._listen(self.port)

    close = refuse

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        threading.Thread(target=self._accept, args=(listener,), name="proxy", daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), timeout=2)
                server.settimeout(None)
            except OSError:
                _reset(client)
                continue
            pair = (client, server)
            for side in pair:
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add(pair)
            if listener.fileno() == -1:
                # `refuse` was called after this connection was accepted.
                self._cut(pair)
                continue
            is_cutting = threading.Event()
            for pump in (self._to_server, self._to_client):
                threading.Thread(target=pump, args=(pair, is_cutting), name="proxy", daemon=True).start()

    def _to_server(self, pair: tuple[socket.socket, socket.socket], is_cutting: threading.Event) -> None:
        client, server = pair
        reader = Reader()
        with contextlib.suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                while True:
                    before, commit, kind = reader.feed(chunk)
                    if before:
                        server.sendall(before)
                    if kind is None:
                        break
                    moment = self._moment(kind)
                    if moment is Moment.UNSENT:
                        return self._cut(pair)
                    if moment is Moment.DONE:
                        is_cutting.set()
                    server.sendall(commit)
                    if moment is Moment.SENT:
                        return self._cut(pair)
                    chunk = b""
        self._cut(pair)
        return None

    def _to_client(self, pair: tuple[socket.socket, socket.socket], is_cutting: threading.Event) -> None:
        client, server = pair
        with contextlib.suppress(OSError):
            while chunk := server.recv(CHUNK_BYTES):
                if is_cutting.is_set():
                    break
                client.sendall(chunk)
        self._cut(pair)

    def _moment(self, kind: str) -> Moment | None:
        """Whether to cut this commit, and when."""
        with self._lock:
            if not self._armed[kind]:
                return None
            self._armed[kind] -= 1
            moment = self._rng.choice(list(Moment))
            self.cuts[f"{kind} {moment}"] += 1
            return moment

    def _cut(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for side in pair:
            _reset(side)


def _reset(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    # shutdown() wakes the thread that waits on the other side of this socket.
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        side.close()
