"""What to do while the server is away: don't make everybody wait to find out, and perhaps go on without it.

The breaker opens after some calls in a row that the server did not answer, and no call is made until it lets
one through to look again. The policy `open` lets runs go on meanwhile, so many and for so many tokens, whose
ends go to the outbox; `closed` refuses them.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from tokentill import forks
from tokentill.settings import Settings


@dataclass(frozen=True)
class AwayReport:
    """`away`: the last calls failed. Counts of this absence, and (`_total`) of all since the client was made.

    `open_runs` went on without a start; `open_tokens` are the tokens, input and output, of ends that wait in
    the outbox for the server to come back; `refused_runs_total` could not go on.
    """

    away: bool
    away_seconds: float
    absences_total: int
    open_runs: int
    open_tokens: int
    open_runs_total: int
    open_tokens_total: int
    refused_runs_total: int


class Away:
    """One for each client, told of every call's outcome. To be shared by threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._failures = 0
        self._ask_again_at = 0.0
        self._since: float | None = None
        self._absences_total = 0
        self._open_runs = self._open_runs_total = 0
        self._open_tokens = self._open_tokens_total = 0
        self._refused_runs_total = 0
        forks.register(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def worth_asking(self) -> bool:
        """False: the breaker is open. One caller in every `breaker_seconds` is sent to look again."""
        with self._lock:
            if self._failures < self._settings.breaker_failures:
                return True
            now = time.monotonic()
            if now < self._ask_again_at:
                return False
            self._ask_again_at = now + self._settings.breaker_seconds
            return True

    def answered(self) -> None:
        """The server is there, whatever it said."""
        with self._lock:
            self._failures = 0
            self._since = None
            self._open_runs = self._open_tokens = 0

    def failed(self) -> None:
        """A call was not answered, with all its attempts."""
        with self._lock:
            self._failures += 1
            now = time.monotonic()
            if self._since is None:
                self._since = now
                self._absences_total += 1
            if self._failures >= self._settings.breaker_failures:
                self._ask_again_at = now + self._settings.breaker_seconds

    def let_through(self, *, room_for_its_end: bool) -> bool:
        """May this run go on without a start? Counts it, either way."""
        with self._lock:
            allowed = (
                room_for_its_end
                and self._settings.when_away == "open"
                and self._open_runs < self._settings.open_runs_max
                and self._open_tokens < self._settings.open_tokens_max
            )
            if allowed:
                self._open_runs += 1
                self._open_runs_total += 1
            else:
                self._refused_runs_total += 1
            return allowed

    def used(self, tokens: int) -> None:
        """These are used, and the server doesn't know of them yet."""
        with self._lock:
            self._open_tokens += tokens
            self._open_tokens_total += tokens

    def report(self) -> AwayReport:
        with self._lock:
            return AwayReport(
                away=self._since is not None,
                away_seconds=0.0 if self._since is None else time.monotonic() - self._since,
                absences_total=self._absences_total,
                open_runs=self._open_runs,
                open_tokens=self._open_tokens,
                open_runs_total=self._open_runs_total,
                open_tokens_total=self._open_tokens_total,
                refused_runs_total=self._refused_runs_total,
            )
