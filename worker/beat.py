"""Beat's own way of keeping time: by how long it has waited, not by what time it is.

The hosts' clocks may differ by as much as they like, and be set back or forward. A message carries no moment at which
it expires, which would be compared with another host's clock: instead none is sent while the one before still waits,
so that a worker that was stopped finds no heap of them. Nothing is kept in a file.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import structlog
from celery.beat import ScheduleEntry, Scheduler

from app.stores.postgres.processes import ProcessKind
from app.stores.queue import is_waiting
from worker.celery_app import config, container
from worker.heartbeats import Heartbeat

log = structlog.get_logger(__name__)

# What is due rarely is due soon after a start too, or a beat that is often restarted would never send it.
FIRST_SECONDS_MAX = 30.0
# Who hasn't looked for what is due for so long doesn't do what a beat is there for.
STUCK_SECONDS = 10.0


class Ticker(Scheduler):  # type: ignore[misc]
    def setup_schedule(self) -> None:
        super().setup_schedule()
        started = time.monotonic()
        self._is_failing = False
        self._heartbeat = Heartbeat(config.data_dir, "beat")
        self._ticked_at = started
        # By host and process: two on one host are two, which is what operators have to hear of.
        name = f"beat@{socket.gethostname()}/{os.getpid()}"
        container().metrics.start(ProcessKind.BEAT, name, self._is_ticking)
        self._due = {entry.name: started + min(_seconds(entry), FIRST_SECONDS_MAX) for entry in self.schedule.values()}

    def _is_ticking(self) -> bool:
        return time.monotonic() - self._ticked_at < STUCK_SECONDS and not self._is_failing

    def tick(self) -> float:
        """Send what is due; the seconds until something is due again."""
        self._ticked_at = time.monotonic()
        for entry in self.schedule.values():
            now = time.monotonic()
            if self._due[entry.name] <= now:
                # What couldn't be sent in time isn't made up for.
                self._due[entry.name] = now + _seconds(entry)
                self._send(entry)
        if not self._is_failing:
            self._heartbeat.beat()
        return float(max(0.0, min(self._due.values()) - time.monotonic()))

    def _send(self, entry: ScheduleEntry) -> None:
        try:
            if not is_waiting(container().redis_client, entry.options["queue"], entry.task):
                self.apply_async(entry, producer=self.producer, advance=False)
        except Exception as error:
            # Beat goes on whatever the broker does. It tries again with the next tick.
            if not self._is_failing:
                log.warning("beat_failed", task=entry.task, error=type(error).__name__, detail=str(error)[:200])
            self._is_failing = True
        else:
            self._is_failing = False


def _seconds(entry: ScheduleEntry) -> float:
    seconds: Any = entry.schedule.run_every.total_seconds()
    return float(seconds)
