"""Beat's scheduler: it measures how long it has waited, and doesn't use the time of day.

So the hosts' clocks may differ, or be set, by any amount. Messages have no expiry time, which would be compared with
another host's clock. Instead a message isn't sent while the previous one of its task still waits, so a stopped worker
doesn't come back to a backlog of them. Nothing is kept in a file.
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

# Entries with a long interval also run soon after a start: a beat that restarts often would otherwise never send them.
FIRST_SECONDS_MAX = 30.0
# A beat that hasn't checked its schedule for this long counts as stuck.
STUCK_SECONDS = 10.0


class Ticker(Scheduler):  # type: ignore[misc]
    def setup_schedule(self) -> None:
        super().setup_schedule()
        started = time.monotonic()
        self._is_failing = False
        self._heartbeat = Heartbeat(config.data_dir, "beat")
        self._ticked_at = started
        # By host and process, so that two beats on one host are seen as two: operators have to notice that.
        name = f"beat@{socket.gethostname()}/{os.getpid()}"
        container().metrics.start(ProcessKind.BEAT, name, self._is_ticking)
        self._due = {entry.name: started + min(_seconds(entry), FIRST_SECONDS_MAX) for entry in self.schedule.values()}

    def _is_ticking(self) -> bool:
        return time.monotonic() - self._ticked_at < STUCK_SECONDS and not self._is_failing

    def tick(self) -> float:
        """Send what is due. Returns the seconds until the next entry is due."""
        self._ticked_at = time.monotonic()
        for entry in self.schedule.values():
            now = time.monotonic()
            if self._due[entry.name] <= now:
                # Missed intervals aren't made up for.
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
            # Beat keeps running whatever the broker does, and tries again at the next tick.
            if not self._is_failing:
                log.warning("beat_failed", task=entry.task, error=type(error).__name__, detail=str(error)[:200])
            self._is_failing = True
        else:
            self._is_failing = False


def _seconds(entry: ScheduleEntry) -> float:
    seconds: Any = entry.schedule.run_every.total_seconds()
    return float(seconds)
