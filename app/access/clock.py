"""The time by Postgres's clock, which all hosts share whatever their own clocks say."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

# A slower answer is too inexact: it is unknown when within that time Postgres read its clock.
SECONDS_TO_ANSWER_MAX = 0.1


class StoreClock:
    """Between two answers of Postgres it advances by this host's monotonic clock, also while Postgres is away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """The current time; by this host's own clock until Postgres has answered for the first time."""
        known = self._at
        if known is None:
            return datetime.now(UTC)
        moment, at = known
        return moment + timedelta(seconds=time.monotonic() - at)

    def learn(self, moment: datetime, asked_at: float) -> None:
        """Take over a time that Postgres has just answered; it was asked at `asked_at` (`time.monotonic`)."""
        answered_at = time.monotonic()
        with self._lock:
            if self._at is None or answered_at - asked_at <= SECONDS_TO_ANSWER_MAX:
                self._at = (moment, answered_at)
