"""Files in `DATA_DIR` that record when a process last worked, for `python -m stack health`, which knows their names.

The time is that of the machine's monotonic clock, which all its processes share and nobody sets.
"""

from __future__ import annotations

import time
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 1.0


class Heartbeat:
    def __init__(self, data_dir: Path, name: str) -> None:
        # A worker's name may contain a slash, which a file name can't.
        self._path = data_dir / "heartbeats" / name.replace("/", "_")
        self._noted_at = float("-inf")
        self._is_failing = False

    def beat(self) -> None:
        """Record that the process works, at most once a second. Never raises: the work matters more."""
        now = time.monotonic()
        if now - self._noted_at < PAUSE_SECONDS:
            return
        self._noted_at = now
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Written to a draft and renamed, so that a reader never sees half a file.
            draft = self._path.with_name(f"{self._path.name}.new")
            # With all digits: a rounded value could lie in the future, which `health` ignores.
            draft.write_text(repr(now))
            draft.replace(self._path)
        except OSError as error:
            if not self._is_failing:
                log.warning("heartbeat_not_noted", path=str(self._path), reason=error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False
