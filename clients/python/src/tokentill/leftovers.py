"""Runs and streams that nobody finished, read to the end or closed: they are settled all the same.

Such a one is noticed when Python frees its memory. That may be in the middle of anything, with any lock
held, so nothing is done there but to put it in a queue made for that. A thread of our own does the rest, or
the event loop it belongs to.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import queue
import threading
from collections.abc import Callable

# Imported only when it is first used, it could not be while the program is ending.
from concurrent.futures.thread import ThreadPoolExecutor
from typing import TypeAlias

from tokentill import forks

logger = logging.getLogger("tokentill")

# Each may wait for a server that hangs: the providers of the others are hung up on meanwhile.
THREADS_MAX = 32
# Whoever closes a client is kept for so long by what is in hand: an end's own limit, unless that was set.
WAIT_SECONDS = 30.0

_Futures: TypeAlias = "set[concurrent.futures.Future[None]]"
_Item: TypeAlias = "Callable[[], None] | concurrent.futures.Future[_Futures]"


class Leftovers:
    """One for the process. Its thread is started with the first run, long before it is needed."""

    def __init__(self) -> None:
        self._prepare()
        forks.register(self)

    def after_fork(self) -> None:
        # What waits here is the parent's to settle.
        self._prepare()

    def _prepare(self) -> None:
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
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
        """Wait for what was put here until now: before a client is closed, and before the program ends."""
        if self._thread is None:
            return
        in_hand: concurrent.futures.Future[_Futures] = concurrent.futures.Future()
        self._queue.put(in_hand)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            concurrent.futures.wait(in_hand.result(WAIT_SECONDS), WAIT_SECONDS)


def _settle_for_ever(waiting: queue.SimpleQueue[_Item]) -> None:
    threads = ThreadPoolExecutor(THREADS_MAX, "tokentill-leftover")
    in_hand: _Futures = set()
    while True:
        item = waiting.get()
        in_hand = {future for future in in_hand if not future.done()}
        if isinstance(item, concurrent.futures.Future):
            item.set_result(in_hand)
            continue
        try:
            in_hand.add(threads.submit(_settle, item))
        except RuntimeError:
            # The program is ending, and there are no new threads any more.
            _settle(item)


def _settle(settle: Callable[[], None]) -> None:
    try:
        settle()
    except Exception:
        logger.exception("A run that was left behind could not be settled")


leftovers = Leftovers()
atexit.register(leftovers.settle_all)
