"""Whether a store is in use. Closed by whoever finds it away, opened again by the watcher.

Processes without a watcher (workers, the CLI) keep their gates open and find out with each call.
"""

from __future__ import annotations

import threading

import structlog

log = structlog.get_logger(__name__)


class Gate:
    """Requests ask before they call a store, so that a dead one costs each of them nothing."""

    def __init__(self, store: str, *, is_watched: bool) -> None:
        self.store = store
        self._is_watched = is_watched
        self._lock = threading.Lock()
        self._is_open = True

    @property
    def is_open(self) -> bool:
        return self._is_open

    def close(self, error: BaseException) -> None:
        with self._lock:
            was_open, self._is_open = self._is_open, not self._is_watched
        if was_open:
            log.warning("store_away", store=self.store, error=type(error).__name__, detail=str(error)[:200])

    def open(self) -> None:
        with self._lock:
            was_open, self._is_open = self._is_open, True
        if not was_open:
            log.warning("store_back", store=self.store)
