"""Summarises the usage of past days, so that reports needn't add it up from every wallet's roll-ups."""

from __future__ import annotations

import time

import structlog

from app.access.postgres import PostgresAccess
from app.stores.postgres import usage_summaries as store

log = structlog.get_logger(__name__)

# Enough for a day of about ten million entries.
DAY_SECONDS_MAX = 60.0


class UsageSummaries:
    def __init__(self, *, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def make(self, seconds_max: float) -> int:
        """Summarise past days, oldest first, for about `seconds_max`. Returns how many. Raises Unavailable.

        Each day has a transaction of its own, so the next run continues wherever this one ends.
        """
        made = 0
        until = time.monotonic() + seconds_max
        while time.monotonic() < until:
            day = self._postgres.transaction(lambda connection: store.make_next(connection, DAY_SECONDS_MAX))
            if day is None:
                break
            made += 1
        if made:
            log.info("usage_summarised", days=made)
        return made
