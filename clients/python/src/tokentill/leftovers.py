"""Runs and streams that nobody finished, read to the end or closed: they are settled all the same.

Such a one is noticed when Python frees its memory. That may be in the middle of anything, with any lock
held, so nothing is done there but to put it in a queue made for that. A thread of our own does the rest, or
the event loop it belongs to.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import queue
import threading
from collections.abc import Callable

from tokentill import forks

logger = logging.getLogger("tokentill")

# Whoever closes a client is kept for so long by what the thread has in hand.
WAIT_SECONDS = 5.0


class Leftovers:
    """One for the process. Its thread is started with the first run, long before it is needed."""

    def __init__(self) -> None:
        self._prepare()
        forks.register(self)

    def after_fork(self) -> None:
        # What waits here is the parent's to settle.
        self._prepare()

    def _prepare(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def expect(self) -> None:
        """To be called when a run starts."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=_settle_for_ever, args=(self._queue,), name="tokentill-leftovers", daemon=True
                    )
                    self._thread.start()

    def put(self, settle: Callable[[], None]) -> None:
        """Have it settled soon. To be called from anywhere, `__del__` included."""
        self._queue.put(settle)

    def put_on(
        self,
        loop: asyncio.AbstractEventLoop | None,
        begin: Callable[[], None],
        in_thread: Callable[[], None],
    ) -> None:
        """The same for asyncio: `begin` is called on the loop, or `in_thread` where it isn't running."""
        if loop is not None and loop.is_running():
            # Closed this very moment, it refuses.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(begin)
                return
        self.put(in_thread)

    def settle_all(self) -> None:
        """Settle what was put here until now: before a client is closed, and before the program ends."""
        if self._thread is None:
            return
        done = threading.Event()
        self._queue.put(done.set)
        if not self._thread.is_alive():
            # At the end of the program there are no threads but this one.
            while not done.is_set():
                _settle(self._queue.get())
        elif threading.current_thread() is not self._thread:
            done.wait(WAIT_SECONDS)


def _settle_for_ever(waiting: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        _settle(waiting.get())


def _settle(settle: Callable[[], None]) -> None:
    try:
        settle()
    except Exception:
        logger.exception("A run that was left behind could not be settled")


leftovers = Leftovers()
atexit.register(leftovers.settle_all)
