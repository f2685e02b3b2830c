"""Samples of the whole installation, one per minute: for charts, and for metrics that cost too much to compute at each
scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from app.access.ports import BookKeeping
from app.domain.pages import NEWEST, Page, page
from app.stores.postgres.samples import Sample

MINUTE = timedelta(minutes=1)
# The last minute of the year 9998, in minutes since 1970.
MINUTES_MAX = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) // 60 - 1


class Books(Protocol):
    """Samples, in one transaction."""

    def minute_to_take(self) -> datetime | None:
        """The last whole minute. None if its sample is taken already."""

    def take(self, minute: datetime, until: datetime, held_micros: int | None) -> bool:
        """Write a minute's sample. False if another process has written it."""

    def between(
        self,
        since: datetime | None,
        until: datetime | None,
        *,
        before: datetime | None = None,
        limit: int | None = None,
    ) -> Sequence[Sample]:
        """Newest first. `before` is where a page continues: only samples of minutes that begin before it."""

    def thinned(self, since: datetime, every_seconds: int) -> Sequence[Sample]: ...


class SampleService:
    def __init__(self, *, books: BookKeeping[Books], held_micros: Callable[[], int | None]) -> None:
        """`held_micros` returns what all holds reserve now, or None while Redis is away."""
        self._books = books
        self._held_micros = held_micros

    def take(self) -> bool:
        """Write the sample of the last whole minute, unless it exists. Any number of processes may try.

        A minute that wasn't sampled in time never gets a sample, as its state is gone. Raises Unavailable.
        """
        minute = self._books.read(lambda books: books.minute_to_take())
        if minute is None:
            return False
        held_micros = self._held_micros()
        return self._books.transaction(lambda books: books.take(minute, minute + MINUTE, held_micros))

    def latest(self) -> Sample | None:
        """Raises Unavailable."""
        found = self._books.read(lambda books: books.between(None, None, limit=1))
        return found[0] if found else None

    def between(self, since: datetime | None, until: datetime | None) -> Sequence[Sample]:
        """All samples of minutes that begin in this range, oldest first, for a chart. Raises Unavailable."""
        return self._books.read(lambda books: books.between(since, until))[::-1]

    def thinned(self, since: datetime, every_seconds: int) -> Sequence[Sample]:
        """One sample per `every_seconds` since a moment, and the latest one, oldest first. Raises Unavailable."""
        return self._books.read(lambda books: books.thinned(since, every_seconds))

    def list(
        self, since: datetime | None, until: datetime | None, limit: int, before: int = NEWEST
    ) -> Page[Sample, int]:
        """A page, newest first; the key of a sample is the number of its minute since 1970. Raises Unavailable."""
        behind = None if before > MINUTES_MAX else datetime.fromtimestamp(before * 60, UTC)
        return self._books.read(
            lambda books: page(
                lambda count: books.between(since, until, before=behind, limit=count), minute_number, limit
            )
        )


def minute_number(sample: Sample) -> int:
    return int(sample.minute.timestamp()) // 60
