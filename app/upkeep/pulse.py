"""Saying in Postgres that this process lives, so that operators see which processes there are, on whatever machine."""

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
# Who has missed three beats counts as gone.
SILENT_SECONDS_MAX = 3 * BEAT_SECONDS


class Pulse:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres
        self._stopping = threading.Event()

    def start(self, kind: ProcessKind, name: str, does_its_work: Callable[[], bool] = lambda: True) -> None:
        """Say it every few seconds, for as long as the process does what it is there for."""

        def run() -> None:
            while True:
                try:
                    if does_its_work():
                        self.beat(kind, name)
                except Unavailable:
                    # Postgres is away. Nobody could read it there.
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
