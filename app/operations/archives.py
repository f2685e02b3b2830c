"""Archiving: old months of the ledger move into files, and the remaining ledger can still be audited.

For each month, the entries are written to a file, then sealed in one transaction with each wallet's balance after them,
then removed in small batches. If a run is stopped anywhere, the next one continues: a file that isn't sealed is written
again, and entries whose sealed file is missing aren't removed. Roll-ups, keys, and all postings stay.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import structlog
from redis import RedisError

from app.access.gate import Gate
from app.access.ports import BookKeeping
from app.domain.audit import Change
from app.domain.errors import ArchiveRefused, Invalid, Unavailable
from app.domain.keys import SYSTEM, Caller
from app.domain.reports import midnight, next_month
from app.operations.exports import Export
from app.stores.postgres.archives import Archive

log = structlog.get_logger(__name__)

# How long a month has to be over: by then nothing that began in it is still running, even if clocks differ.
AGE_MIN = timedelta(days=3)
# The id of an end may be dated this much after the month that its entry is in, if the clock that made it was ahead.
CLOCKS_DIFFER_MAX = timedelta(days=1)
REMOVED_AT_ONCE = 10_000
READ_BYTES = 1024 * 1024

Shape = Callable[[Export], Iterator[bytes]]


class Books(Protocol):
    """Archives, and the months of the ledger that move into them, in one transaction."""

    def now(self) -> datetime: ...

    def list_archives(self) -> Sequence[Archive]: ...

    def archived_until(self) -> date | None: ...

    def oldest_entry_at(self) -> datetime | None: ...

    def last_entry_before(self, until: datetime) -> int: ...

    def has_entries(self, last_entry_id: int) -> bool: ...

    def broken_wallet(self, last_entry_id: int) -> str | None: ...

    def has_wrong_rollups(self, day: date) -> bool: ...

    def seal(self, month: date, *, last_entry_id: int, file_name: str, sha256: str, ends_before: UUID) -> bool: ...

    def remove(self, last_entry_id: int, limit: int) -> int: ...

    def finish(self, month: date) -> None: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class Exports(Protocol):
    def entries_up_to(self, last_entry_id: int) -> Export:
        """The entries that the ledger still has, up to this one. Raises Unavailable."""


class Spool(Protocol):
    """Errors are redis-py's own."""

    def size(self) -> int: ...


class ArchiveService:
    def __init__(self, *, books: BookKeeping[Books], exports: Exports, spool: Spool, redis: Gate) -> None:
        self._books = books
        self._exports = exports
        self._spool = spool
        self._redis = redis

    def list(self) -> Sequence[Archive]:
        """Oldest first. Raises Unavailable."""
        return self._books.read(lambda books: books.list_archives())

    def archive(
        self, before: date, folder: Path, shape: Shape, suffix: str, caller: Caller = SYSTEM
    ) -> Iterator[Archive]:
        """Archive all months before the one that begins on `before`. Yields each archive when it is finished.

        `shape` turns a table into a file's bytes. Raises Invalid for a month that hasn't been over for long enough,
        ArchiveRefused if the ledger or a file isn't as it should be, Unavailable, or OSError.
        """
        now = self._books.read(lambda books: books.now())
        if midnight(before) > now - AGE_MIN:
            raise Invalid(errors={"before": [f"Must have begun {AGE_MIN.days} days ago."]})
        self._check_spool()
        for archive in self.list():
            if archive.removed_at is None:
                yield self._remove(archive, folder, caller)
        oldest = self._books.read(lambda books: books.oldest_entry_at())
        if oldest is None:
            return
        archived = self._books.read(lambda books: books.archived_until())
        month = max(filter(None, (oldest.date().replace(day=1), archived)))
        while month < before:
            if self._seal(month, folder, shape, suffix, caller):
                [archive] = [archive for archive in self.list() if archive.month == month]
                yield self._remove(archive, folder, caller)
            month = next_month(month)

    def _check_spool(self) -> None:
        """Raises ArchiveRefused or Unavailable if ends may be in the spool: once their month is archived, they couldn't
        be told from archived ones.
        """
        if not self._redis.is_open:
            raise Unavailable("Redis doesn't answer, and may have ends that Postgres doesn't know yet")
        try:
            spooled = self._spool.size()
        except RedisError as error:
            raise Unavailable("Redis doesn't answer, and may have ends that Postgres doesn't know yet") from error
        if spooled:
            raise ArchiveRefused(f"{spooled} ends are spooled in Redis: wait until they are drained")

    def _seal(self, month: date, folder: Path, shape: Shape, suffix: str, caller: Caller) -> bool:
        """Write a month's file and seal it. False if the month has no entries that aren't archived."""
        until = midnight(next_month(month))
        last_entry_id = self._books.transaction(lambda books: books.last_entry_before(until))
        if not self._books.read(lambda books: books.has_entries(last_entry_id)):
            return False
        self._check(month, last_entry_id)
        path = folder / f"ledger-{month:%Y-%m}.{suffix}"
        sha256 = _write(path, shape(self._exports.entries_up_to(last_entry_id)))

        def seal(books: Books) -> bool:
            is_ours = books.seal(
                month,
                last_entry_id=last_entry_id,
                file_name=path.name,
                sha256=sha256,
                ends_before=_first_id(until + CLOCKS_DIFFER_MAX),
            )
            if is_ours:
                after = {"file_name": path.name, "sha256": sha256, "last_entry_id": last_entry_id}
                books.audit(caller, [_change("sealed", month, after)])
            return is_ours

        if not self._books.transaction(seal):
            raise ArchiveRefused(f"{month:%Y-%m} is being archived elsewhere")
        log.info("ledger_sealed", month=f"{month:%Y-%m}", file=path.name, sha256=sha256)
        return True

    def _check(self, month: date, last_entry_id: int) -> None:
        """Raises ArchiveRefused if the entries to archive aren't right: they can't be audited any more afterwards."""
        broken = self._books.transaction(lambda books: books.broken_wallet(last_entry_id))
        if broken is not None:
            raise ArchiveRefused(f"The ledger of wallet {broken} doesn't add up: see `flask reconcile --full`")
        day = month
        while day < next_month(month):
            if self._has_wrong_rollups(day):
                raise ArchiveRefused(f"The roll-ups of {day} are not right: see `flask reconcile --full --repair`")
            day += timedelta(days=1)

    def _has_wrong_rollups(self, day: date) -> bool:
        return self._books.transaction(lambda books: books.has_wrong_rollups(day))

    def _remove(self, archive: Archive, folder: Path, caller: Caller) -> Archive:
        """Remove a sealed file's entries from the ledger. Raises ArchiveRefused if the file is missing or changed."""
        path = folder / archive.file_name
        if not path.is_file() or _sha256(path) != archive.sha256:
            raise ArchiveRefused(f"{path} isn't the file that was sealed: its entries stay in the ledger")
        while self._books.transaction(lambda books: books.remove(archive.last_entry_id, REMOVED_AT_ONCE)):
            pass

        def finish(books: Books) -> None:
            books.finish(archive.month)
            after = {"file_name": archive.file_name, "entries": archive.entries}
            books.audit(caller, [_change("removed", archive.month, after)])

        self._books.transaction(finish)
        removed_at = self._books.read(lambda books: books.now())
        log.info("ledger_archived", month=f"{archive.month:%Y-%m}", entries=archive.entries, file=path.name)
        return replace(archive, removed_at=removed_at)


def _change(what: str, month: date, after: Mapping[str, Any]) -> Change:
    return Change(f"ledger_archive.{what}", "ledger_archive", f"{month:%Y-%m}", after=after)


def _write(path: Path, data: Iterator[bytes]) -> str:
    """Write a file atomically: it appears under its name only when it is complete. Returns its hash."""
    digest = hashlib.sha256()
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file, closing(data):  # type: ignore[type-var]
            for block in data:
                file.write(block)
                digest.update(block)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _first_id(moment: datetime) -> UUID:
    """The least id that an end of this moment can have: UUIDv7s begin with their time in milliseconds."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
