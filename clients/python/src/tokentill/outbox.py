"""Ends on disk: written before they are first sent, removed when the server has acknowledged them.

One SQLite file, shared by any number of threads and processes of one machine (not over a network file
system). A row is `pending` until it is acknowledged, or `refused` when the server itself said no to that very
body: kept for a person to look at, never sent again by itself. Whoever sends a row leases it first, so that
processes don't send the same rows twice; if one dies, its lease runs out. The idempotency key makes a second
sending harmless in any case.

Fails with OutboxError (the file can't be used) and OutboxFullError (`ends_max` rows stand in it).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tokentill import forks
from tokentill.errors import ConflictError, OutboxError, OutboxFullError

ENDS_MAX_DEFAULT = 100_000

_FORMAT = 1
_APPLICATION_ID = 0x546F6B54  # "TokT"
_BUSY_TIMEOUT_SECONDS = 10.0
# A service at work: it can also send its end at once, and do without the rest.
_SERVICE_TIMEOUT_SECONDS = 2.0
_LOCK_TIMEOUT_SECONDS = 5.0
# A fork isn't kept waiting for longer by a disk that hangs.
_FORK_TIMEOUT_SECONDS = 2.0

# The format is shared with the other clients: a change here is a new _FORMAT.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS ends (
  id              INTEGER PRIMARY KEY,
  idempotency_key TEXT NOT NULL UNIQUE,
  body            TEXT NOT NULL,
  state           TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'refused')),
  attempts        INTEGER NOT NULL DEFAULT 0,
  created_ms      INTEGER NOT NULL,
  not_before_ms   INTEGER NOT NULL,
  leased_until_ms INTEGER NOT NULL,
  last_error      TEXT
);
CREATE INDEX IF NOT EXISTS ends_by_state ON ends (state, id);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_FORMAT};
COMMIT;
"""


@dataclass(frozen=True)
class QueuedEnd:
    id: int
    idempotency_key: str
    body: str
    attempts: int


@dataclass(frozen=True)
class RefusedEnd:
    idempotency_key: str
    body: str
    error: str
    created_at: datetime


@dataclass(frozen=True)
class OutboxStatus:
    """`leased` of the pending ends are being sent right now, or were when their sender died.

    `oldest_seconds`: how long the oldest pending end has been waiting.
    """

    pending: int
    leased: int
    refused: int
    ends_max: int
    oldest_seconds: float | None
    last_error: str | None


class Outbox:
    """Opens or creates the file at `path`. To be shared by threads; a forked child opens it anew."""

    def __init__(self, path: str | os.PathLike[str], *, ends_max: int = ENDS_MAX_DEFAULT) -> None:
        self._prepare(path, ends_max)
        with self._open():
            pass

    @classmethod
    def opened_later(cls, path: str | os.PathLike[str], *, ends_max: int = ENDS_MAX_DEFAULT) -> Outbox:
        """For who goes on without one: a file that can't be used fails each call, until it can."""
        outbox = cls.__new__(cls)
        outbox._prepare(path, ends_max)
        return outbox

    def _prepare(self, path: str | os.PathLike[str], ends_max: int) -> None:
        self.path = Path(path)
        self.ends_max = ends_max
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._held_for_fork = False
        forks.register(self)

    def put(self, idempotency_key: str, body: str, *, lease_seconds: float) -> None:
        """Make the end durable, leased to the caller. ConflictError: the key is here with another body."""
        now = _now_ms()
        with self._open() as db:
            # FULL: when this returns, the end has been through fsync.
            db.execute("PRAGMA synchronous = FULL")
            with _transaction(db, _SERVICE_TIMEOUT_SECONDS):
                there = db.execute(
                    "SELECT body FROM ends WHERE idempotency_key = ?", (idempotency_key,)
                ).fetchone()
                if there:
                    if there[0] != body:
                        raise ConflictError(f"The outbox holds another end with the key {idempotency_key}")
                    return
                if db.execute("SELECT count(*) FROM ends").fetchone()[0] >= self.ends_max:
                    raise OutboxFullError(f"The outbox {self.path} is full: {self.ends_max} ends wait in it")
                db.execute(
                    "INSERT INTO ends (idempotency_key, body, created_ms, not_before_ms, leased_until_ms)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (idempotency_key, body, now, now, now + int(lease_seconds * 1000)),
                )

    def acknowledge(self, keys: Sequence[str]) -> None:
        """The server has these ends: remove them."""
        with self._open() as db:
            # Without a sync: a removal that a power cut undoes is a second sending with the same key.
            db.execute("PRAGMA synchronous = NORMAL")
            with _transaction(db, _SERVICE_TIMEOUT_SECONDS):
                db.executemany("DELETE FROM ends WHERE idempotency_key = ?", [(key,) for key in keys])

    def refuse(self, key: str, error: str) -> None:
        """The server refused this very body: keep it, send it no more."""
        with self._open() as db, _transaction(db, _SERVICE_TIMEOUT_SECONDS):
            db.execute(
                "UPDATE ends SET state = 'refused', attempts = attempts + 1, leased_until_ms = 0,"
                " last_error = ? WHERE idempotency_key = ?",
                (error[:500], key),
            )

    def postpone(self, keys: Sequence[str], error: str, *, delay_seconds: float) -> None:
        """It couldn't be sent: give the lease back and leave it alone for a while."""
        not_before = _now_ms() + int(delay_seconds * 1000)
        with self._open() as db, _transaction(db, _SERVICE_TIMEOUT_SECONDS):
            db.executemany(
                "UPDATE ends SET attempts = attempts + 1, leased_until_ms = 0, not_before_ms = ?,"
                " last_error = ? WHERE idempotency_key = ?",
                [(not_before, error[:500], key) for key in keys],
            )

    def claim(
        self, *, limit: int, bytes_max: int, lease_seconds: float, early: bool = False
    ) -> list[QueuedEnd]:
        """Lease the oldest pending ends that nobody has in hand; `early`: back-offs don't count."""
        now = _now_ms()
        with self._open() as db, _transaction(db):
            rows = db.execute(
                "SELECT id, idempotency_key, body, attempts FROM ends WHERE state = 'pending'"
                " AND leased_until_ms <= ? AND (? OR not_before_ms <= ?) ORDER BY id LIMIT ?",
                (now, early, now, limit),
            ).fetchall()
            ends: list[QueuedEnd] = []
            size = 0
            for row in rows:
                end = QueuedEnd(*row)
                size += len(end.body.encode()) + len(end.idempotency_key) + 32
                if ends and size > bytes_max:
                    break
                ends.append(end)
            db.executemany(
                "UPDATE ends SET leased_until_ms = ? WHERE id = ?",
                [(now + int(lease_seconds * 1000), end.id) for end in ends],
            )
        return ends

    def status(self) -> OutboxStatus:
        now = _now_ms()
        with self._open() as db:
            pending, leased, refused, oldest = db.execute(
                "SELECT coalesce(sum(state = 'pending'), 0),"
                " coalesce(sum(state = 'pending' AND leased_until_ms > ?), 0),"
                " coalesce(sum(state = 'refused'), 0),"
                " min(CASE WHEN state = 'pending' THEN created_ms END) FROM ends",
                (now,),
            ).fetchone()
            error = db.execute(
                "SELECT last_error FROM ends WHERE last_error IS NOT NULL ORDER BY not_before_ms DESC LIMIT 1"
            ).fetchone()
        oldest_seconds = None if oldest is None else max(now - oldest, 0) / 1000
        return OutboxStatus(
            pending, leased, refused, self.ends_max, oldest_seconds, error[0] if error else None
        )

    def refused(self, limit: int = 100) -> list[RefusedEnd]:
        with self._open() as db:
            rows = db.execute(
                "SELECT idempotency_key, body, coalesce(last_error, ''), created_ms FROM ends"
                " WHERE state = 'refused' ORDER BY id LIMIT ?",
                (limit,),
            ).fetchall()
        return [_refused_end(row) for row in rows]

    def retry_refused(self) -> int:
        """Put every refused end back in line, once the reason is gone. Answers how many."""
        with self._open() as db, _transaction(db):
            return db.execute(
                "UPDATE ends SET state = 'pending', not_before_ms = 0 WHERE state = 'refused'"
            ).rowcount

    def discard_refused(self, key: str) -> RefusedEnd | None:
        """Remove one refused end for good; answers what it was, or None where there is no such."""
        with self._open() as db, _transaction(db):
            row = db.execute(
                "SELECT idempotency_key, body, coalesce(last_error, ''), created_ms FROM ends"
                " WHERE state = 'refused' AND idempotency_key = ?",
                (key,),
            ).fetchone()
            db.execute("DELETE FROM ends WHERE state = 'refused' AND idempotency_key = ?", (key,))
        return _refused_end(row) if row else None

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def __del__(self) -> None:
        # Forgotten, not closed. A file that was never opened has no connection.
        if self.__dict__.get("_connection") is not None:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def before_fork(self) -> None:
        """Close the file, and keep it closed until the fork is over.

        SQLite remembers which locks its process has on a file, and a child doesn't inherit them: it would
        write without, and the next process to come would take it for gone and clear its writes away.
        """
        self._held_for_fork = self._lock.acquire(timeout=_FORK_TIMEOUT_SECONDS)
        if self._held_for_fork:
            self._disconnect()

    def after_fork_in_parent(self) -> None:
        if self._held_for_fork:
            self._held_for_fork = False
            self._lock.release()

    def after_fork(self) -> None:
        """In a forked child. Where a disk hung, the parent's connection is still open: it must not be used,
        and its lock may be held for ever.
        """
        self._lock = threading.Lock()
        if self._connection is not None:
            _inherited.append(self._connection)
        self._connection = None

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # Whoever holds it may be waiting for a disk that doesn't answer.
        if not self._lock.acquire(timeout=_LOCK_TIMEOUT_SECONDS):
            raise OutboxError(f"The outbox {self.path} can't be used: its disk doesn't answer")
        try:
            yield self._connected()
        except (sqlite3.Error, OSError) as error:
            if not isinstance(error, sqlite3.OperationalError) or "locked" not in str(error):
                # Opened anew the next time: the disk may be another, or whole again.
                self._disconnect()
            raise OutboxError(f"The outbox {self.path} can't be used: {error}") from error
        finally:
            self._lock.release()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and _inode(self.path) != self._inode:
            # Somebody removed or replaced the file: what is written to the old one is lost with it.
            self._disconnect()
        if self._connection is None:
            self._connection = _connect(self.path)
            self._inode = _inode(self.path)
        return self._connection


def _connect(path: Path) -> sqlite3.Connection:
    # Readable by its owner only: it names users. SQLite gives its side files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Create the tables in a new file; refuse a file of something else or of a newer client."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_SECONDS
    while (version := _pragma(db, "user_version")) == 0:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables - {"ends"}:
            raise OutboxError(f"{path} is a SQLite file of something else")
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
        except sqlite3.OperationalError:
            # Another process creates it this moment: the change to WAL doesn't wait for locks by itself.
            if db.in_transaction:
                db.execute("ROLLBACK")
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    if version > _FORMAT:
        raise OutboxError(f"The outbox {path} was written by a newer client (format {version})")
    if _pragma(db, "application_id") != _APPLICATION_ID:
        raise OutboxError(f"{path} is a SQLite file of something else")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection, wait_seconds: float = _BUSY_TIMEOUT_SECONDS) -> Iterator[None]:
    """One write transaction. Begun IMMEDIATE, so that it waits for its turn instead of failing half-way."""
    db.execute(f"PRAGMA busy_timeout = {int(wait_seconds * 1000)}")
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _refused_end(row: tuple[str, str, str, int]) -> RefusedEnd:
    key, body, error, created_ms = row
    return RefusedEnd(key, body, error, datetime.fromtimestamp(created_ms / 1000, timezone.utc))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# Connections that a fork has left to a child must be neither used nor closed: they are kept here, untouched.
_inherited: list[sqlite3.Connection] = []
