"""Exports: lists and reports as tables of any size, streamed from Postgres.

They have a small connection pool of their own, so they never take a connection that a start or an end needs, and only a
few run at a time in a process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

from app.access.gate import Gate
from app.domain.errors import TooSlow, Unavailable, WalletNotFound
from app.domain.reports import Entries, Usage
from app.domain.tables import Kind
from app.domain.wallets import wallet_of
from app.stores.failures import Failure
from app.stores.postgres import wallets
from app.stores.postgres.exports import copying, selects
from app.stores.postgres.exports.columns import Column, Style
from app.stores.postgres.failures import failure_of
from app.stores.postgres.statements import Span

EXPORT_SECONDS_MAX = 3_600.0


@dataclass(frozen=True, slots=True)
class Export:
    """A table: its columns, and lines of CSV without a header. A reader that stops early has to close `blocks`."""

    columns: Mapping[str, Kind]
    blocks: Iterator[bytes]


class ExportService:
    def __init__(self, *, engine: sa.Engine, gate: Gate) -> None:
        self._engine = engine
        self._gate = gate

    def transactions(self, wanted: Entries, style: Style, *, user_id: str | None = None) -> Export:
        """Ledger entries, oldest first: those of one user's wallet, or all.

        Raises WalletNotFound, or Unavailable, also if too many exports are running.
        """
        wallet_id = None if user_id is None else wallet_of(user_id)
        if wallet_id is not None and not self._exists(wallet_id):
            raise WalletNotFound
        return self._export(selects.ENTRY_COLUMNS, selects.entries_select(wanted, wallet_id, style))

    def statement(self, within: Span, wanted: Entries, style: Style) -> Export:
        """The entries of a wallet's statement. Raises Unavailable."""
        return self._export(selects.ENTRY_COLUMNS, selects.statement_select(within, wanted, style))

    def usage(self, wanted: Usage, style: Style) -> Export:
        """Usage and revenue in the order of the groups. Raises Unavailable."""
        columns = selects.usage_columns(wanted)
        return self._export(columns, selects.usage_select(columns, wanted, style))

    def entries_up_to(self, last_entry_id: int) -> Export:
        """The ledger's entries up to this one, in the columns of an archive. Raises Unavailable."""
        columns = selects.ARCHIVE_COLUMNS
        return self._export(columns, selects.archive_select(columns, last_entry_id))

    def _export(self, columns: Sequence[Column], select: sa.Select[Any]) -> Export:
        blocks = copying.blocks(self._engine, select, EXPORT_SECONDS_MAX)
        # Read the first block now, so that an export that fails at once raises here.
        first = self._first(blocks)
        return Export({column.name: column.kind for column in columns}, _from(first, blocks))

    def _first(self, blocks: Iterator[bytes]) -> bytes | None:
        if not self._gate.is_open:
            raise Unavailable
        try:
            return next(blocks, None)
        except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
            raise _meant(error) from error

    def _exists(self, wallet_id: Any) -> bool:
        if not self._gate.is_open:
            raise Unavailable
        try:
            with self._engine.connect() as connection:
                return wallets.exists(connection, wallet_id)
        except sa.exc.SQLAlchemyError as error:
            raise _meant(error) from error


def _from(first: bytes | None, blocks: Iterator[bytes]) -> Iterator[bytes]:
    with closing(blocks):  # type: ignore[type-var]
        if first is not None:
            yield first
            yield from blocks


def _meant(error: sa.exc.SQLAlchemyError | psycopg.Error) -> Exception:
    if isinstance(error, psycopg.errors.QueryCanceled):
        return TooSlow()
    if isinstance(error, sa.exc.TimeoutError):
        return Unavailable("As many exports run as may; please try again")
    return error if failure_of(error) is Failure.REFUSED else Unavailable()
