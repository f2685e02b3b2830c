"""Streams that nobody read to the end nor closed: they are settled all the same, in a thread of their own.

Such a stream is noticed when Python frees its memory. That may be in the middle of anything, with any lock
held, so nothing is done there but to put it in a queue made for that.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Callable

from tokentill import forks

logger = logging.getLogger("tokentill")


class Leftovers:
    """One for the process. Its thread is started with the first stream, long before it is needed."""

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
        """To be called when a stream is made."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._settle_for_ever,
                        args=(self._queue,),
                        name="tokentill-leftovers",
                        daemon=True,
                    )
                    self._thread.start()

    def put(self, settle: Callable[[], None]) -> None:
        """Have it settled soon. To be called from anywhere, `__del__` included."""
        self._queue.put(settle)

    def settle_all(self) -> None:
        """When the program ends, its threads end in the middle of what they do: the rest is done here."""
        while True:
            try:
                _settle(self._queue.get_nowait())
            except queue.Empty:
                return

    @staticmethod
    def _settle_for_ever(waiting: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            _settle(waiting.get())


def _settle(settle: Callable[[], None]) -> None:
    try:
        settle()
    except Exception:
        logger.exception("A stream that was left behind could not be settled")


leftovers = Leftovers()
atexit.register(leftovers.settle_all)
