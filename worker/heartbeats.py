"""Notes in `DATA_DIR` of when a process was last at work, for `python -m stack health`, which has the names too.

The time is that of the clock that all processes of a machine share and that nobody sets.
"""

from __future__ import annotations

import time
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 1.0


class Heartbeat:
    def __init__(self, data_dir: Path, name: str) -> None:
        # A name may hold what no file's name does.
        self._path = data_dir / "heartbeats" / name.replace("/", "_")
        self._noted_at = float("-inf")
        self._is_failing = False

    def beat(self) -> None:
        """Note that the process is at work, unless that was done just now. Never raises: the work matters more."""
        now = time.monotonic()
        if now - self._noted_at < PAUSE_SECONDS:
            return
        self._noted_at = now
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Complete or as it was, whenever somebody reads it.
            draft = self._path.with_name(f"{self._path.name}.new")
            # To the last digit: rounded up it would lie ahead, and count for nothing.
            draft.write_text(repr(now))
            draft.replace(self._path)
        except OSError as error:
            if not self._is_failing:
                log.warning("heartbeat_not_noted", path=str(self._path), reason=error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False
