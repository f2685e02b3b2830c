"""Samples and status over fake books: one sample a minute, and what is told while a store is away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from redis import ConnectionError as RedisConnectionError

from app.access.gate import StoreState
from app.domain.errors import Unavailable
from app.domain.pages import NEWEST
from app.operations.samples import MINUTE, SampleService, minute_number
from app.operations.status import StatusService
from tests.unit.fakes import NOW, gate

T = TypeVar("T")
WATCHED: Any = object()


@dataclass
class FakeSampleBooks:
    taken: dict[datetime, int | None] = field(default_factory=dict)
    befores: list[datetime | None] = field(default_factory=list)
    now: datetime = NOW
    is_outrun: bool = False

    def read(self, work: Callable[[Any], T]) -> T:
        return work(self)

    transaction = read

    def minute_to_take(self) -> datetime | None:
        last = self.now - MINUTE
        return None if last in self.taken else last

    def take(self, minute: datetime, until: datetime, held_micros: int | None) -> bool:
        assert until == minute + timedelta(minutes=1)
        if self.is_outrun:
            return False
        self.taken[minute] = held_micros
        return True

    def between(
        self,
        since: datetime | None,
        until: datetime | None,
        *,
        before: datetime | None = None,
        limit: int | None = None,
    ) -> Sequence[Any]:
        self.befores.append(before)
        found = [
            minute
            for minute in sorted(self.taken, reverse=True)
            if (since is None or minute >= since) and all(bound is None or minute < bound for bound in (until, before))
        ]
        return [SimpleNamespace(minute=minute) for minute in found[:limit]]

    def thinned(self, since: datetime, every_seconds: int) -> Sequence[Any]:
        return []


class TestSamples:
    @pytest.fixture
    def books(self) -> FakeSampleBooks:
        return FakeSampleBooks()

    @pytest.fixture
    def held(self) -> list[int | None]:
        return [5, None]

    @pytest.fixture
    def service(self, books: FakeSampleBooks, held: list[int | None]) -> SampleService:
        return SampleService(books=books, held_micros=lambda: held.pop(0))

    def test_of_each_minute_there_is_one(self, books: FakeSampleBooks, service: SampleService) -> None:
        assert service.take()
        assert not service.take()
        books.now += MINUTE
        assert service.take()
        # With Redis away nobody knows what is held.
        assert books.taken == {NOW - MINUTE: 5, NOW: None}

    def test_holds_are_added_up_only_for_a_sample(self, service: SampleService, held: list[int | None]) -> None:
        service.take()
        service.take()
        assert held == [None]

    def test_somebody_else_may_be_faster(self, books: FakeSampleBooks, service: SampleService) -> None:
        books.is_outrun = True
        assert not service.take()

    def test_lists_newest_first_and_charts_oldest_first(self, books: FakeSampleBooks, service: SampleService) -> None:
        minutes = [NOW + number * MINUTE for number in range(4)]
        books.taken = dict.fromkeys(minutes, 0)
        assert [sample.minute for sample in service.between(minutes[1], minutes[3])] == minutes[1:3]
        first = service.list(None, None, 3)
        assert [sample.minute for sample in first.items] == minutes[:0:-1]
        assert first.next_key == minute_number(first.items[-1])
        second = service.list(None, None, 3, first.next_key)
        assert ([sample.minute for sample in second.items], second.next_key) == (minutes[:1], None)
        latest = service.latest()
        assert latest is not None
        assert latest.minute == minutes[3]

    def test_of_nothing_there_is_no_latest(self, service: SampleService) -> None:
        assert service.latest() is None

    @pytest.mark.parametrize("before", [NEWEST, 10**12])
    def test_a_place_beyond_all_minutes_is_the_first(
        self, books: FakeSampleBooks, service: SampleService, before: int
    ) -> None:
        service.list(None, None, 3, before)
        service.list(None, None, 3, 0)
        assert books.befores == [None, datetime(1970, 1, 1, tzinfo=UTC)]


class TestStatus:
    @dataclass
    class World:
        """What of the two stores answers."""

        postgres: bool = True
        spool: bool = True
        queue: bool = True

        def __post_init__(self) -> None:
            self.gates = gate("postgres"), gate("redis")
            self.asked: list[str] = []
            self.service = StatusService(
                watch=lambda: self._answer("postgres", WATCHED, Unavailable()),
                spooled=lambda: self._answer("spool", 3, RedisConnectionError("gone")),
                messages=lambda: self._answer("queue", {"settle": 2}, RedisConnectionError("gone")),
                postgres=self.gates[0],
                redis=self.gates[1],
            )

        def look(self) -> tuple[object, ...]:
            status = self.service.look()
            return status.postgres, status.spooled_ends, status.messages_by_queue

        def _answer(self, name: str, answer: Any, error: Exception) -> Any:
            self.asked.append(name)
            if not getattr(self, name):
                raise error
            return answer

    def test_all_that_there_is(self) -> None:
        world = self.World()
        assert world.look() == (WATCHED, 3, {"settle": 2})
        assert world.service.stores == {"postgres": StoreState.UP, "redis": StoreState.UP}

    def test_without_postgres_what_redis_knows(self) -> None:
        assert self.World(postgres=False).look() == (None, 3, {"settle": 2})

    def test_without_redis_what_postgres_knows(self) -> None:
        world = self.World(spool=False)
        assert world.look() == (WATCHED, None, None)
        # And the whole process knows of it.
        assert not world.gates[1].is_open
        assert world.service.look().stores["redis"] is not StoreState.UP
        world.asked.clear()
        world.look()
        assert world.asked == ["postgres"]

    def test_redis_may_go_between_two_questions(self) -> None:
        assert self.World(queue=False).look() == (WATCHED, 3, None)
