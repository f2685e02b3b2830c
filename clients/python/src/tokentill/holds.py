"""Holds of long runs, extended before they expire.

At half of its life a hold gets that half added, again and again, for as long as its run goes on. An
extension that fails is tried again in half of the time that is left. A hold that is gone is not made anew:
the run goes on and is billed all the same.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import threading
import time
import weakref
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from tokentill import forks
from tokentill.errors import TokenProcessError, UnavailableError

if TYPE_CHECKING:
    from tokentill.drivers import AsyncDriver
    from tokentill.run import AsyncRun, Run

logger = logging.getLogger("tokentill")

_RETRY_SECONDS_MIN = 0.5


class HoldLife:
    """How long a hold lives, by the clock of this machine: the server's may show another time."""

    def __init__(self, hold_seconds: int | None, expires_at: str) -> None:
        self.seconds = float(hold_seconds) if hold_seconds else _seconds_until(expires_at)
        self._expires = time.monotonic() + self.seconds
        self._failed = False

    @property
    def half_life_seconds(self) -> int:
        return max(math.ceil(self.seconds / 2), 1)

    def extended(self, seconds: int) -> None:
        self._expires += seconds
        self._failed = False

    def failed(self) -> None:
        self._failed = True

    @property
    def due_in_seconds(self) -> float:
        """When to extend it: at half of its life, and after a failure at half of what is left."""
        left = self._expires - time.monotonic()
        if self._failed:
            return max(left / 2, _RETRY_SECONDS_MIN)
        return max(left - self.seconds / 2, 0.0)

    async def keep(self, driver: AsyncDriver, reference: weakref.ref[AsyncRun]) -> None:
        """Until the run is over, which cancels this, or is forgotten."""
        while True:
            await asyncio.sleep(self.due_in_seconds)
            run = reference()
            if run is None:
                return
            try:
                await driver.run(run.keep_hold_steps())
            except TokenProcessError as error:
                if not self.goes_on_after(error):
                    return
            del run

    def goes_on_after(self, error: TokenProcessError) -> bool:
        self.failed()
        again = isinstance(error, UnavailableError) and self._expires > time.monotonic()
        logger.warning("A hold was not extended%s: %s", ", and is tried again" if again else "", error)
        return again


class Keeper:
    """Extends the holds of plain code, in one thread for the whole process."""

    def __init__(self) -> None:
        self._prepare()
        forks.register(self)

    def after_fork(self) -> None:
        # The parent's runs are the parent's.
        self._prepare()

    def _prepare(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, weakref.ref[Run]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def keep(self, run: Run) -> None:
        if run.hold is None:
            return
        with self._changed:
            due = time.monotonic() + run.hold.due_in_seconds
            heapq.heappush(self._due, (due, next(self._numbers), weakref.ref(run)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tokentill-holds", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            run = self._wait_for_next()
            if run is None or run.finished or run.hold is None:
                continue
            try:
                run.keep_hold()
            except TokenProcessError as error:
                if run.hold.goes_on_after(error):
                    self.keep(run)
            except Exception:
                logger.exception("A hold could not be extended")
            else:
                self.keep(run)
            # Held on to while waiting for the next, a forgotten run could not be noticed.
            del run

    def _wait_for_next(self) -> Run | None:
        with self._changed:
            while not self._due or self._due[0][0] > time.monotonic():
                left = self._due[0][0] - time.monotonic() if self._due else None
                self._changed.wait(left)
            return heapq.heappop(self._due)[2]()


keeper = Keeper()


def _seconds_until(moment: str) -> float:
    try:
        expires = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    except ValueError:
        return 900.0
    if expires.tzinfo is None:
        expires = expires.replace(tzinfo=timezone.utc)
    return max((expires - datetime.now(timezone.utc)).total_seconds(), 1.0)
