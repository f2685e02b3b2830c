"""The whole of it minute by minute: what charts are drawn from, and what is too dear to be asked for at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from app.access.postgres import PostgresAccess
from app.domain.pages import NEWEST, Page, page
from app.stores.postgres import samples
from app.stores.postgres.samples import Sample

MINUTE = timedelta(minutes=1)
# The last minute of the year 9998, in minutes since 1970.
MINUTES_MAX = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) // 60 - 1
# A sample passes over all wallets and the inbox.
SAMPLE_SECONDS_MAX = 30.0


class SampleService:
    def __init__(self, *, postgres: PostgresAccess, held_micros: Callable[[], int | None]) -> None:
        """`held_micros` says what all holds reserve now, None while Redis is away."""
        self._postgres = postgres
        self._held_micros = held_micros

    def take(self) -> bool:
        """Write the sample of the last whole minute, unless it is there. Any number may try: there is one a minute.

        A minute that nobody sampled in time stays without: how things stood then is gone. Raises Unavailable.
        """
        minute = self._postgres.run(samples.to_take)
        if minute is None:
            return False
        held_micros = self._held_micros()
        return self._postgres.transaction(
            lambda connection: samples.take(connection, minute, minute + MINUTE, held_micros, SAMPLE_SECONDS_MAX)
        )

    def latest(self) -> Sample | None:
        """Raises Unavailable."""
        found = self._postgres.run(lambda connection: samples.between(connection, None, None, limit=1))
        return found[0] if found else None

    def between(self, since: datetime | None, until: datetime | None) -> Sequence[Sample]:
        """All samples of minutes that begin in that time, oldest first, for a chart. Raises Unavailable."""
        return self._postgres.run(lambda connection: samples.between(connection, since, until))[::-1]

    def thinned(self, since: datetime, every_seconds: int) -> Sequence[Sample]:
        """One sample in so many seconds since then, oldest first, and the latest: for a chart. Raises Unavailable."""
        return self._postgres.run(lambda connection: samples.thinned(connection, since, every_seconds))

    def list(
        self, since: datetime | None, until: datetime | None, limit: int, before: int = NEWEST
    ) -> Page[Sample, int]:
        """A page, newest first; the key of a sample is the number of its minute since 1970. Raises Unavailable."""

        def work(connection: sa.Connection) -> Page[Sample, int]:
            behind = None if before > MINUTES_MAX else datetime.fromtimestamp(before * 60, UTC)
            return page(
                lambda count: samples.between(connection, since, until, before=behind, limit=count),
                minute_number,
                limit,
            )

        return self._postgres.run(work)


def minute_number(sample: Sample) -> int:
    return int(sample.minute.timestamp()) // 60
