"""COPY out of Postgres, block by block: memory stays bounded, however large the result is.

Each export is one statement in one transaction, so one snapshot, and works behind a pooler that gives each transaction
another session. Whether it ends, fails or is dropped half-way, the connection is given back or closed.
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
# A reader that takes nothing for this long counts as gone: its open transaction keeps Postgres from removing dead rows.
STALLED_SECONDS_MAX = 60.0
LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CopyStatement:
    """COPY (...) TO STDOUT, and the values that psycopg merges into it."""

    text: str
    values: Mapping[str, Any]


def copy_statement(select: sa.Select[Any], dialect: sa.Dialect) -> CopyStatement:
    compiled = select.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    return CopyStatement(f"COPY ({compiled}) TO STDOUT (FORMAT csv)", compiled.params)


def blocks(engine: sa.Engine, select: sa.Select[Any], seconds: float) -> Iterator[bytes]:
    """CSV without a header, in blocks of whole lines. Raises errors of SQLAlchemy and psycopg, also before the first
    block.

    Postgres gets at most `seconds` for all of it. Close the iterator to end it early.
    """
    with engine.connect() as connection, connection.begin():
        allow_seconds(connection, seconds)
        driver = cast("LimitedConnection", connection.connection.driver_connection)
        statement = copy_statement(select, connection.dialect)
        watch = _Watch(driver)
        try:
            # A client-side cursor merges the values into the text, because COPY takes no parameters.
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
            # In the middle of a COPY the connection can't simply be rolled back, so it is closed.
            connection.invalidate()
            raise
        finally:
            watch.stop()


class _Watch:
    """Closes a connection whose reader keeps a block for too long; only then, because nobody else uses the connection
    at that time.
    """

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
                    # The unread rest of the result is lost with the connection, so Postgres ends the COPY.
                    self._connection.close()
                    return
            finally:
                self._use.release()
