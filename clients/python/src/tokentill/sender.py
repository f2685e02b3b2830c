"""The background thread that empties a client's outbox."""

from __future__ import annotations

import logging
import os
import threading

from tokentill.core import Core
from tokentill.drivers import Driver

logger = logging.getLogger("tokentill")

POLL_SECONDS = 2.0


class Sender:
    """Sends what is due, batch after batch, then looks again every two seconds.

    A daemon thread: what it can't finish stays in the outbox. A fork copies no threads, so a child begins its
    own with the next `ensure_running`. `owns_outbox`: nobody else uses it, so the thread closes it when it
    ends.
    """

    def __init__(self, core: Core, driver: Driver, *, owns_outbox: bool) -> None:
        self._core = core
        self._driver = driver
        self._owns_outbox = owns_outbox
        self.stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def ensure_running(self) -> None:
        # Two threads that come here at once after a fork start two senders, which the leases keep apart.
        if self._pid != os.getpid() and not self.stopping.is_set():
            self._pid = os.getpid()
            self._thread = threading.Thread(
                target=_send_due,
                args=(self._core, self._driver, self.stopping, self._owns_outbox),
                name="tokentill-outbox",
                daemon=True,
            )
            self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(timeout=1.0)


# A function, not a method: the thread keeps no reference to the client, whose end stops it.
def _send_due(core: Core, driver: Driver, stopping: threading.Event, owns_outbox: bool) -> None:
    pause_seconds = 0.0
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
