"""Whether a store is in use. A call that finds the store unusable closes the gate; the watcher opens it again.

Processes without a watcher (workers, the CLI) keep their gates open and find out with each call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum

import structlog

from app.stores.failures import Failure

log = structlog.get_logger(__name__)

# A store that accepts the probe but refuses everything else (one that is nearly full may) is retried only this often.
REFUSING_SECONDS = 1.0


class StoreState(StrEnum):
    UP = "up"
    DOWN = "down"
    REFUSES_WRITES = "refuses_writes"


class Gate:
    """Requests ask the gate before they call a store, so that a dead store doesn't cost each of them a timeout."""

    def __init__(self, store: str, failure_of: Callable[[BaseException], Failure], *, is_watched: bool) -> None:
        self.store = store
        self._failure_of = failure_of
        self.is_watched = is_watched
        self._lock = threading.Lock()
        self._state = StoreState.UP
        self._closed_until = 0.0
        self._is_bypassed = False

    @property
    def is_open(self) -> bool:
        return self._state is StoreState.UP

    @property
    def state(self) -> StoreState:
        return self._state

    def close(self, error: BaseException) -> None:
        """Report an error. The gate closes if the error concerns the store as a whole, not just the one call."""
        failure = self._failure_of(error)
        if failure is Failure.REFUSED:
            log.warning("call_refused", store=self.store, error=type(error).__name__, detail=str(error)[:200])
            return
        state = StoreState.DOWN if failure is Failure.AWAY else StoreState.REFUSES_WRITES
        with self._lock:
            was_open = self.is_open
            if self.is_watched:
                self._state = state
                if failure is Failure.CANNOT_WRITE:
                    self._closed_until = time.monotonic() + REFUSING_SECONDS
        if was_open:
            log.warning(
                "store_away", store=self.store, failure=failure, error=type(error).__name__, detail=str(error)[:200]
            )

    def open(self) -> None:
        """Report that a probe has found the store working."""
        with self._lock:
            was_open = self.is_open
            if time.monotonic() >= self._closed_until:
                self._state = StoreState.UP
            is_back = self.is_open and not was_open
        if is_back:
            log.warning("store_back", store=self.store)

    def bypass(self) -> None:
        """Report that a change was made without this store while it was closed, so that the store is stale."""
        with self._lock:
            self._is_bypassed = True

    def take_bypass(self) -> bool:
        """Whether a change has been made without this store since the last call of this method."""
        with self._lock:
            is_bypassed, self._is_bypassed = self._is_bypassed, False
        return is_bypassed
