"""What time it is by Postgres's clock: the one that all hosts share, whatever their own say."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

# An answer that took longer tells too little about when it was given.
SECONDS_TO_ANSWER_MAX = 0.1


class StoreClock:
    """Goes on by this host's monotonic clock between two looks, also while Postgres is away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """Until Postgres has answered for the first time, this host's own clock."""
        known = self._at
        if known is None:
            return datetime.now(UTC)
        moment, at = known
        return moment + timedelta(seconds=time.monotonic() - at)

    def learn(self, moment: datetime, asked_at: float) -> None:
        """Take Postgres's time, which it told in answer to a question asked then (`time.monotonic`) and just read."""
        answered_at = time.monotonic()
        with self._lock:
            if self._at is None or answered_at - asked_at <= SECONDS_TO_ANSWER_MAX:
                self._at = (moment, answered_at)
