"""COPY out of Postgres, block by block: nothing of a result is kept, however large it is.

Each export is one statement in one transaction, and so one snapshot; a pooler that gives each transaction another
session is welcome. Its end, its failure and its being dropped half-way all give the connection back or close it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psycopg
import sqlalchemy as sa

from app.stores.postgres.engine import LimitedConnection, allow_seconds

BLOCK_BYTES = 128 * 1024
# Whoever takes nothing for so long is as good as gone; an open transaction keeps dead rows from being removed.
STALLED_SECONDS_MAX = 60.0
LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CopyStatement:
    """COPY (...) TO STDOUT, with values that psycopg puts in."""

    text: str
    values: Mapping[str, Any]


def copy_statement(select: sa.Select[Any], dialect: sa.Dialect) -> CopyStatement:
    compiled = select.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    return CopyStatement(f"COPY ({compiled}) TO STDOUT (FORMAT csv)", compiled.params)


def blocks(engine: sa.Engine, select: sa.Select[Any], seconds: float) -> Iterator[bytes]:
    """CSV without a header, in blocks of whole lines. Raises what SQLAlchemy and psycopg raise, at the first block too.

    Postgres is given `seconds` for all of it. Close the iterator to end it early.
    """
    with engine.connect() as connection, connection.begin():
        allow_seconds(connection, seconds)
        driver = cast("LimitedConnection", connection.connection.driver_connection)
        statement = copy_statement(select, connection.dialect)
        watch = _Watch(driver)
        try:
            # The driver merges values itself here, as COPY takes none.
            with psycopg.ClientCursor(driver).copy(statement.text, statement.values) as copy:
                block = bytearray()
                for line in copy:
                    block += line
                    if len(block) >= BLOCK_BYTES:
                        with watch.handing_over():
                            yield bytes(block)
                        block.clear()
                if block:
                    with watch.handing_over():
                        yield bytes(block)
        except BaseException:
            # Half-way through a COPY there is nothing to be rolled back in peace.
            connection.invalidate()
            raise
        finally:
            watch.stop()


class _Watch:
    """Closes a connection whose reader keeps a block for too long. Only then: nobody else is using it at that time."""

    def __init__(self, connection: LimitedConnection) -> None:
        self._connection = connection
        self._use = threading.Lock()
        self._use.acquire()
        self._handed_over_at = 0.0
        self._done = threading.Event()
        threading.Thread(target=self._look, name="export-watch", daemon=True).start()

    @contextmanager
    def handing_over(self) -> Iterator[None]:
        self._handed_over_at = time.monotonic()
        self._use.release()
        try:
            yield
        finally:
            self._use.acquire()

    def stop(self) -> None:
        self._done.set()
        self._use.release()

    def _look(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            if not self._use.acquire(blocking=False):
                continue
            try:
                if not self._done.is_set() and time.monotonic() - self._handed_over_at > STALLED_SECONDS_MAX:
                    # What is unread goes with it: Postgres finds nobody there, and ends.
                    self._connection.close()
                    return
            finally:
                self._use.release()
