"""Writes heartbeats of this process to Postgres, so that operators see the processes of all machines."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable
from app.stores.postgres import processes
from app.stores.postgres.processes import ProcessKind

log = structlog.get_logger(__name__)

BEAT_SECONDS = 5.0
# A process that has missed three heartbeats counts as gone.
SILENT_SECONDS_MAX = 3 * BEAT_SECONDS


class Pulse:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres
        self._stopping = threading.Event()

    def start(self, kind: ProcessKind, name: str, does_its_work: Callable[[], bool] = lambda: True) -> None:
        """Write a heartbeat every few seconds, as long as `does_its_work` says that the process is doing its work."""

        def run() -> None:
            while True:
                try:
                    if does_its_work():
                        self.beat(kind, name)
                except Unavailable:
                    # Postgres is away: the next heartbeat will do.
                    pass
                except Exception:
                    log.exception("pulse_failed")
                if self._stopping.wait(BEAT_SECONDS):
                    return

        threading.Thread(target=run, name="pulse", daemon=True).start()

    def beat(self, kind: ProcessKind, name: str) -> None:
        """Raises Unavailable."""
        self._postgres.run(lambda connection: processes.say_alive(connection, name, kind))

    def stop(self) -> None:
        self._stopping.set()
