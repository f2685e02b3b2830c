"""One log line for each request, written by a separate thread, many at once.

A request that wrote its line itself would release the interpreter lock for it, and wait for the log's lock. Instead, a
line is written up to WRITE_SECONDS later. A process that ends writes its pending lines; one that is killed loses them.
If the log can't be written to, lines beyond PENDING_MAX are dropped, and their number is logged.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from multiprocessing.util import Finalize
from typing import TextIO

import msgspec
import structlog

log = structlog.get_logger(__name__)

WRITE_SECONDS = 0.05
PENDING_MAX = 20_000

_Entry = tuple[float, str, str, str, int, float, str]


class RequestLog:
    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._entries: deque[_Entry] = deque()
        self._dropped = 0
        self._wakeup = threading.Event()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._writing = threading.Lock()

    def add(self, request_id: str, method: str, path: str, status: int, seconds: float, *, address: str) -> None:
        """Queue a request's line to be written, if the log level asks for such lines."""
        if not _logger.isEnabledFor(logging.INFO):
            return
        if len(self._entries) >= PENDING_MAX:
            self._dropped += 1
            return
        self._entries.append((time.time(), request_id, method, path, status, seconds, address))
        if self._thread is None:
            self._start_thread()
        if not self._wakeup.is_set():
            self._wakeup.set()

    def flush(self) -> None:
        """Write the pending lines."""
        with self._writing:
            entries = [self._entries.popleft() for _ in range(len(self._entries))]
            if entries:
                stream = sys.stderr if self._stream is None else self._stream
                stream.write(_encoder.encode_lines(map(_fields, entries)).decode())
                stream.flush()
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("request_lines_dropped", dropped=dropped)

    def _start_thread(self) -> None:
        # Started with the first line, so that the thread belongs to the process that serves and not to its parent.
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
                self._thread.start()
                # Flush when the process ends. Granian's workers run no `atexit` functions, but they do run these.
                Finalize(self, self.flush, exitpriority=0)

    def _run(self) -> None:
        while True:
            self._wakeup.wait()
            time.sleep(WRITE_SECONDS)
            self._wakeup.clear()
            try:
                self.flush()
            except (OSError, ValueError):
                # Standard error is closed, so there is no place to report it either.
                continue


def _fields(entry: _Entry) -> dict[str, object]:
    moment, request_id, method, path, status, seconds, address = entry
    return {
        "method": method,
        "path": path,
        "status": status,
        "duration_seconds": round(seconds, 4),
        "address": address,
        "request_id": request_id,
        "level": "info",
        "logger": _logger.name,
        "time": datetime.fromtimestamp(moment, UTC),
        "message": "request",
    }


_encoder = msgspec.json.Encoder()
_logger = logging.getLogger(__name__)
