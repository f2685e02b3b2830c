"""Archives over fake books and real files: nothing leaves the ledger before a whole, sealed file has it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from redis import ConnectionError as RedisConnectionError

from app.domain.audit import Change
from app.domain.errors import ArchiveRefused, Invalid, Unavailable
from app.domain.keys import Caller
from app.domain.reports import midnight, next_month
from app.operations import archives
from app.operations.archives import ArchiveService
from app.operations.exports import Export
from app.stores.postgres.archives import Archive
from tests.unit.fake_bookkeeping import FakeBookKeeping
from tests.unit.fakes import gate

T = TypeVar("T")
ANN = Caller("ann")
JANUARY, FEBRUARY, MARCH, APRIL = (date(2026, month, 1) for month in range(1, 5))
NOW = datetime(2026, 7, 1, tzinfo=UTC)


@dataclass(eq=False)
class FakeArchiveBooks(FakeBookKeeping):
    """Entries by their numbers, each with its moment. `removed_at_once` says how many went with each statement."""

    entries: dict[int, datetime] = field(default_factory=dict)
    archives: dict[date, Archive] = field(default_factory=dict)
    removed_at_once: list[int] = field(default_factory=list)
    ends_before: list[UUID] = field(default_factory=list)
    broken: str | None = None
    wrong_days: set[date] = field(default_factory=set)
    is_archived_elsewhere: bool = False
    dies_after: int | None = None
    at: datetime = NOW

    def now(self) -> datetime:
        return self.at

    def list_archives(self) -> Sequence[Archive]:
        return [self.archives[month] for month in sorted(self.archives)]

    def archived_until(self) -> date | None:
        return next_month(max(self.archives)) if self.archives else None

    def oldest_entry_at(self) -> datetime | None:
        return min(self.entries.values(), default=None)

    def last_entry_before(self, until: datetime) -> int:
        later = [number for number, at in self.entries.items() if at >= until]
        return min(later) - 1 if later else max(self.entries, default=0)

    def has_entries(self, last_entry_id: int) -> bool:
        return any(number <= last_entry_id for number in self.entries)

    def broken_wallet(self, last_entry_id: int) -> str | None:
        return self.broken

    def has_wrong_rollups(self, day: date) -> bool:
        return day in self.wrong_days

    def seal(self, month: date, *, last_entry_id: int, file_name: str, sha256: str, ends_before: UUID) -> bool:
        if self.is_archived_elsewhere or month in self.archives:
            return False
        count = sum(number <= last_entry_id for number in self.entries)
        self.archives[month] = Archive(month, last_entry_id, count, file_name, sha256, self.at, None)
        self.ends_before.append(ends_before)
        return True

    def remove(self, last_entry_id: int, limit: int) -> int:
        if self.dies_after is not None and len(self.removed_at_once) >= self.dies_after:
            raise KeyboardInterrupt
        assert any(last_entry_id <= archive.last_entry_id for archive in self.archives.values()), "the ledger's trigger"
        found = sorted(number for number in self.entries if number <= last_entry_id)[:limit]
        for number in found:
            del self.entries[number]
        self.removed_at_once.append(len(found))
        return len(found)

    def finish(self, month: date) -> None:
        self.archives[month] = replace(self.archives[month], removed_at=self.at)


class FakeExports:
    """What the ledger has, a number a line."""

    def __init__(self, books: FakeArchiveBooks) -> None:
        self._books = books

    def entries_up_to(self, last_entry_id: int) -> Export:
        blocks = (b"%d\n" % number for number in sorted(self._books.entries) if number <= last_entry_id)
        return Export({}, blocks)


class FakeSpool:
    ends = 0
    is_away = False

    def size(self) -> int:
        if self.is_away:
            raise RedisConnectionError("gone")
        return self.ends


class World:
    """Two entries in each of January, February and March: 1 and 2, 3 and 4, 5 and 6."""

    def __init__(self, folder: Path) -> None:
        self.books = FakeArchiveBooks()
        for number in range(6):
            self.books.entries[number + 1] = datetime(2026, 1 + number // 2, 17, tzinfo=UTC)
        self.spool = FakeSpool()
        self.gate = gate()
        self.folder = folder
        self.shape: Callable[[Export], Iterator[bytes]] = lambda export: iter(export.blocks)
        self.service = ArchiveService(
            books=self.books, exports=FakeExports(self.books), spool=self.spool, redis=self.gate
        )

    def archive(self, before: date = MARCH) -> list[Archive]:
        return list(self.service.archive(before, self.folder, self.shape, "csv", ANN))

    def stop_while_removing(self) -> None:
        self.books.dies_after = 0
        with pytest.raises(KeyboardInterrupt):
            self.archive(FEBRUARY)
        self.books.dies_after = None

    def refuses(self, error: type[Exception], before: date = MARCH) -> Any:
        """With the ledger as it was, and nothing sealed."""
        entries = dict(self.books.entries)
        with pytest.raises(error) as refused:
            self.archive(before)
        assert (self.books.entries, self.books.archives, self.books.audited) == (entries, {}, [])
        return refused.value

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_month_after_month_moves_into_its_file(world: World) -> None:
    done = world.archive()
    assert [(archive.month, archive.entries, archive.removed_at) for archive in done] == [
        (JANUARY, 2, NOW),
        (FEBRUARY, 2, NOW),
    ]
    assert world.files == {"ledger-2026-01.csv": b"1\n2\n", "ledger-2026-02.csv": b"3\n4\n"}
    assert set(world.books.entries) == {5, 6}
    for archive in world.service.list():
        assert archive.sha256 == hashlib.sha256(world.files[archive.file_name]).hexdigest()
        assert archive.removed_at == NOW


def test_each_step_is_written_down(world: World) -> None:
    [done] = world.archive(FEBRUARY)
    sealed = {"file_name": "ledger-2026-01.csv", "sha256": done.sha256, "last_entry_id": 2}
    removed = {"file_name": "ledger-2026-01.csv", "entries": 2}
    assert world.books.audited == [
        ("ann", Change("ledger_archive.sealed", "ledger_archive", "2026-01", after=sealed)),
        ("ann", Change("ledger_archive.removed", "ledger_archive", "2026-01", after=removed)),
    ]


def test_ends_of_the_month_are_known_by_their_ids_for_a_day_more(world: World) -> None:
    """By a clock that was ahead: from the second of February on nothing of January can come."""
    world.archive(FEBRUARY)
    [first] = world.books.ends_before
    assert first == UUID(int=int(datetime(2026, 2, 2, tzinfo=UTC).timestamp() * 1000) << 80)


def test_again_there_is_nothing_left_to_do(world: World) -> None:
    world.archive()
    books = copy(world.books.audited)
    assert world.archive() == []
    assert world.books.audited == books


def test_goes_on_where_it_was(world: World) -> None:
    world.archive(FEBRUARY)
    assert [archive.month for archive in world.archive(APRIL)] == [FEBRUARY, MARCH]
    assert world.books.entries == {}
    assert world.archive(date(2026, 5, 1)) == []


def test_what_stayed_of_a_month_leaves_with_the_next(world: World) -> None:
    """An entry that waited for its wallet around midnight stands behind the first of February."""
    world.books.entries[4] = midnight(FEBRUARY) - timedelta(seconds=1)
    world.archive(FEBRUARY)
    assert set(world.books.entries) == {3, 4, 5, 6}
    assert [(archive.month, archive.entries) for archive in world.archive()] == [(FEBRUARY, 2)]


def test_so_does_what_comes_into_a_month_that_is_archived(world: World) -> None:
    """By a clock that was behind: the file of that month is sealed, and stays as it is."""
    world.archive(FEBRUARY)
    sealed = world.files["ledger-2026-01.csv"]
    world.books.entries[3] = midnight(FEBRUARY) - timedelta(seconds=1)
    assert [(archive.month, archive.entries) for archive in world.archive()] == [(FEBRUARY, 2)]
    assert world.files["ledger-2026-01.csv"] == sealed


def test_an_empty_month_has_no_file(world: World) -> None:
    for number in (3, 4):
        del world.books.entries[number]
    assert [archive.month for archive in world.archive()] == [JANUARY]
    assert list(world.files) == ["ledger-2026-01.csv"]


def test_of_an_empty_ledger_there_is_nothing(world: World) -> None:
    world.books.entries = {}
    assert world.archive() == []


def test_entries_go_in_small_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "REMOVED_AT_ONCE", 4)
    world.books.entries |= {-number: datetime(2026, 1, 1, tzinfo=UTC) for number in range(8)}
    world.archive(FEBRUARY)
    assert world.books.removed_at_once == [4, 4, 2, 0]


class TestRefusals:
    @pytest.mark.parametrize(("age", "is_old"), [(timedelta(days=3), True), (timedelta(days=3, seconds=-1), False)])
    def test_a_month_that_is_not_over_for_long_enough(self, world: World, age: timedelta, is_old: bool) -> None:
        world.books.at = midnight(MARCH) + age
        if is_old:
            assert len(world.archive(MARCH)) == 2
        else:
            assert list(world.refuses(Invalid).errors) == ["before"]

    def test_ends_that_are_spooled(self, world: World) -> None:
        world.spool.ends = 3
        assert "3 ends" in world.refuses(ArchiveRefused).message

    def test_without_redis_nobody_knows_whether_there_are_any(self, world: World) -> None:
        world.spool.is_away = True
        world.refuses(Unavailable)
        world.spool.is_away = False
        world.gate.close(RedisConnectionError("gone"))
        world.refuses(Unavailable)

    def test_a_ledger_that_does_not_add_up(self, world: World) -> None:
        world.books.broken = "bob"
        assert "wallet bob" in world.refuses(ArchiveRefused).message
        assert world.files == {}

    @pytest.mark.parametrize("day", [JANUARY, date(2026, 1, 17), date(2026, 1, 31)])
    def test_roll_ups_that_are_not_right(self, world: World, day: date) -> None:
        world.books.wrong_days = {day}
        assert str(day) in world.refuses(ArchiveRefused).message

    def test_roll_ups_of_later_months_do_not_matter(self, world: World) -> None:
        world.books.wrong_days = {FEBRUARY}
        assert len(world.archive(FEBRUARY)) == 1

    def test_a_month_that_is_archived_elsewhere(self, world: World) -> None:
        world.books.is_archived_elsewhere = True
        assert "elsewhere" in world.refuses(ArchiveRefused).message


class TestStopped:
    def test_while_it_writes_there_is_no_file(self, world: World) -> None:
        def failing(export: Export) -> Iterator[bytes]:
            yield next(iter(export.blocks))
            raise OSError("disk full")

        shape, world.shape = world.shape, failing
        world.refuses(OSError)
        assert world.files == {}
        world.shape = shape
        assert len(world.archive()) == 2

    def test_a_file_without_a_seal_is_written_anew(self, world: World) -> None:
        (world.folder / "ledger-2026-01.csv").write_bytes(b"of another ledger\n")
        world.archive()
        assert world.files["ledger-2026-01.csv"] == b"1\n2\n"

    def test_while_it_removes_the_next_run_goes_on_first(self, world: World) -> None:
        world.stop_while_removing()
        [sealed] = world.service.list()
        assert (sealed.removed_at, set(world.books.entries)) == (None, {1, 2, 3, 4, 5, 6})
        # Also one that asks for nothing else.
        [done] = world.archive(JANUARY)
        assert (done.month, done.removed_at, set(world.books.entries)) == (JANUARY, NOW, {3, 4, 5, 6})
        actions = [change.action for _, change in world.books.audited]
        assert actions == ["ledger_archive.sealed", "ledger_archive.removed"]

    @pytest.mark.parametrize("damage", ["missing", "changed"])
    def test_without_its_file_nothing_is_removed(self, world: World, damage: str) -> None:
        world.stop_while_removing()
        path = world.folder / "ledger-2026-01.csv"
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(b"1\n3\n")
        with pytest.raises(ArchiveRefused, match="isn't the file that was sealed"):
            world.archive()
        assert set(world.books.entries) == {1, 2, 3, 4, 5, 6}
        path.write_bytes(b"1\n2\n")
        assert len(world.archive()) == 2
