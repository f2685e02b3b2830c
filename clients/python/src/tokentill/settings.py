"""Where the server is and how long to try, from arguments or from the environment."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

import httpx

from tokentill.errors import ConfigurationError

DEFAULT_URL = "http://localhost:5000"


@dataclass(frozen=True)
class Settings:
    base_url: str
    api_key: str
    # One attempt's limit for connecting and for each wait on the socket.
    timeout_seconds: float = 10.0
    # All attempts of a call with their pauses. Nothing new is tried after it.
    total_timeout_seconds: float = 30.0
    # With an outbox the end is safe already, so the caller waits this long at most for its answer.
    outbox_wait_seconds: float = 5.0
    # Giving a hold back is a courtesy: it expires by itself, so a failing function isn't kept waiting longer.
    cancel_timeout_seconds: float = 5.0

    @classmethod
    def resolve(
        cls, base_url: str | None, api_key: str | None, timeout_seconds: float, total_timeout_seconds: float
    ) -> Settings:
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
        if timeout_seconds <= 0 or total_timeout_seconds <= 0:
            raise ConfigurationError("Time limits must be above 0 seconds")
        return cls(url, key, timeout_seconds, total_timeout_seconds)


def outbox_path_from_environment() -> Path | None:
    """TOKENTILL_OUTBOX, or None: the outbox is opt-in."""
    path = os.environ.get("TOKENTILL_OUTBOX")
    return Path(path) if path else None


def backoff_seconds(attempt: int, *, base_seconds: float = 0.1, cap_seconds: float = 2.0) -> float:
    """The pause after the failed attempt 1, 2, ...: doubling, capped, with jitter so that callers spread."""
    doubled_seconds = base_seconds * 2.0 ** min(attempt - 1, 30)
    return random.uniform(0.5, 1.0) * min(cap_seconds, doubled_seconds)  # noqa: S311 - spreading, not secrecy
