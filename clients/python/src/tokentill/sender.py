"""The background thread that empties a client's outbox."""

from __future__ import annotations

import logging
import threading

from tokentill import forks
from tokentill.core import Core
from tokentill.drivers import Driver

logger = logging.getLogger("tokentill")

POLL_SECONDS = 2.0
# Most children of a fork become another program at once.
CHILD_PAUSE_SECONDS = 0.2


class Sender:
    """Sends what is due, batch after batch, then looks again every two seconds.

    A daemon thread: what it can't finish stays in the outbox. A fork copies no threads, so a child begins its
    own: its parent may be about to exit. `owns_outbox`: nobody else uses it, so the thread closes it when it
    ends.
    """

    def __init__(self, core: Core, driver: Driver, *, owns_outbox: bool) -> None:
        self._core = core
        self._driver = driver
        self._owns_outbox = owns_outbox
        self._begin(pause_seconds=0.0)
        forks.register(self)

    def after_fork(self) -> None:
        if not self._stopping.is_set():
            self._begin(CHILD_PAUSE_SECONDS)

    def _begin(self, pause_seconds: float) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=_send_due,
            args=(self._core, self._driver, self._stopping, pause_seconds, self._owns_outbox),
            name="tokentill-outbox",
            daemon=True,
        )
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def stop(self) -> None:
        self.ask_to_stop()
        self._thread.join(timeout=1.0)


# A function, not a method: the thread keeps no reference to the client, whose end stops it.
def _send_due(
    core: Core, driver: Driver, stopping: threading.Event, pause_seconds: float, owns_outbox: bool
) -> None:
    while not stopping.wait(pause_seconds):
        try:
            flushed = driver.run(core.flush_once(early=False))
        except Exception as error:
            # A broken disk, say: the ends are where they were, and it is tried again.
            logger.warning("The outbox could not be flushed: %s", error)
            pause_seconds = POLL_SECONDS
        else:
            pause_seconds = 0.0 if flushed.sent and flushed.error is None else POLL_SECONDS
    if owns_outbox and core.outbox is not None:
        core.outbox.close()
