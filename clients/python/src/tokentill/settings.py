"""Where the server is, how long to try and what to do while it is away, from arguments or the environment."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx

from tokentill.errors import ConfigurationError

DEFAULT_URL = "http://localhost:5000"

WhenAway: TypeAlias = Literal["closed", "open"]


@dataclass(frozen=True)
class Settings:
    base_url: str
    api_key: str
    # One attempt, from the first byte of connecting to the last of the answer.
    timeout_seconds: float = 10.0
    # A whole call: all its attempts with their pauses.
    total_timeout_seconds: float = 30.0
    # A user waits for it before anything has begun.
    start_timeout_seconds: float = 3.0
    # None: all of total_timeout_seconds; or OUTBOX_WAIT_SECONDS where the outbox has the end already.
    end_timeout_seconds: float | None = None
    # How long a cancelled task is kept from ending by what is left to do for its run.
    cancelled_end_timeout_seconds: float = 0.5
    # While the server is away: refuse every start, or let some through whose ends go to the outbox.
    when_away: WhenAway = "closed"
    open_runs_max: int = 100
    open_tokens_max: int = 100_000
    # After so many failed calls in a row none is tried for so long.
    breaker_failures: int = 5
    breaker_seconds: float = 5.0
    # Nothing is sent (`tokentill.disabled`).
    disabled: bool = False

    @classmethod
    def resolve(cls, base_url: str | None, api_key: str | None, **limits: Any) -> Settings:
        """Arguments first, then TOKEN_SERVER_URL and SERVER_API_KEY. Raises ConfigurationError."""
        url = (base_url or os.environ.get("TOKEN_SERVER_URL") or DEFAULT_URL).rstrip("/")
        key = (api_key or os.environ.get("SERVER_API_KEY") or "").strip()
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"TOKEN_SERVER_URL is not a URL: {error}") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ConfigurationError(f"TOKEN_SERVER_URL must be an http or https URL, not {url!r}")
        if not key:
            raise ConfigurationError("SERVER_API_KEY is not set")
        if not key.isascii() or not key.isprintable():
            raise ConfigurationError("SERVER_API_KEY holds characters that no HTTP header can carry")
        settings = cls(url, key, **limits)
        settings._check()
        return settings

    def _check(self) -> None:
        for name in _ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} must be above 0, not {value!r}")
        if self.when_away not in {"closed", "open"}:
            raise ConfigurationError(f"when_away is 'closed' or 'open', not {self.when_away!r}")

    @property
    def start_limit_seconds(self) -> float:
        return min(self.start_timeout_seconds, self.total_timeout_seconds)

    @property
    def end_limit_seconds(self) -> float:
        """For an end that stands nowhere else."""
        return min(self.end_timeout_seconds or self.total_timeout_seconds, self.total_timeout_seconds)

    @property
    def queued_end_limit_seconds(self) -> float:
        """For an end that the outbox has already."""
        return min(self.end_timeout_seconds or OUTBOX_WAIT_SECONDS, self.total_timeout_seconds)

    @property
    def cancel_limit_seconds(self) -> float:
        return min(CANCEL_SECONDS, self.total_timeout_seconds)


# The caller waits this long at most for the answer to an end that is safe already.
OUTBOX_WAIT_SECONDS = 5.0
# Giving a hold back is a courtesy: it expires by itself, so a failing function isn't kept waiting longer.
CANCEL_SECONDS = 5.0

_ABOVE_ZERO = (
    "timeout_seconds",
    "total_timeout_seconds",
    "start_timeout_seconds",
    "end_timeout_seconds",
    "cancelled_end_timeout_seconds",
    "open_runs_max",
    "open_tokens_max",
    "breaker_failures",
    "breaker_seconds",
)


def outbox_path_from_environment() -> Path | None:
    """TOKENTILL_OUTBOX, or None: the outbox is opt-in."""
    path = os.environ.get("TOKENTILL_OUTBOX")
    return Path(path) if path else None


def backoff_seconds(attempt: int, *, base_seconds: float = 0.1, cap_seconds: float = 2.0) -> float:
    """The pause after the failed attempt 1, 2, ...: doubling, capped, with jitter so that callers spread."""
    doubled_seconds = base_seconds * 2.0 ** min(attempt - 1, 30)
    return random.uniform(0.5, 1.0) * min(cap_seconds, doubled_seconds)  # noqa: S311 - spreading, not secrecy
