"""Statements of one wallet, and its balance day by day. What was archived isn't told of any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.access.postgres import PostgresAccess
from app.domain.errors import Archived, Invalid, WalletNotFound
from app.domain.pages import Page, page
from app.domain.reports import Entries, midnight
from app.domain.wallets import wallet_of
from app.operations.exports import Export, ExportService
from app.operations.reports import PricedEntry
from app.stores.postgres import archives, corrections, prices, statements
from app.stores.postgres.exports.columns import Style
from app.stores.postgres.statements import DayBalance, Span

DAYS_DEFAULT = 30
DAYS_MAX = 366


@dataclass(frozen=True, slots=True)
class Statement:
    """The balance before and behind the entries between two moments, and some of these, oldest first.

    Where entries are filtered by more, those that are left out are part of the balances all the same.
    """

    user_id: str
    since: datetime | None
    until: datetime | None
    span: Span
    entries: Page[PricedEntry, int]


class StatementService:
    def __init__(self, *, postgres: PostgresAccess, exports: ExportService) -> None:
        self._postgres = postgres
        self._exports = exports

    def page(self, user_id: str, wanted: Entries, limit: int, after_id: int = 0) -> Statement:
        """Raises WalletNotFound, Archived or Unavailable."""

        def work(connection: sa.Connection) -> Statement:
            within = _span(connection, user_id, wanted)
            found = page(
                lambda count: statements.list_entries(connection, within, wanted, after_id, count),
                lambda entry: entry.id,
                limit,
            )
            cards = prices.by_ids(connection, {entry.price_id for entry in found.items if entry.price_id is not None})
            priced = [PricedEntry(entry, cards.get(entry.price_id)) for entry in found.items]
            return Statement(user_id, wanted.since, wanted.until, within, Page(priced, found.next_key))

        return self._postgres.run(work)

    def export(self, user_id: str, wanted: Entries, style: Style) -> tuple[Statement, Export]:
        """All entries as a table, with the statement that they are of, which has none itself.

        Raises WalletNotFound, Archived or Unavailable, also where as many exports run as may.
        """
        within = self._postgres.run(lambda connection: _span(connection, user_id, wanted))
        export = self._exports.statement(within, wanted, style)
        return Statement(user_id, wanted.since, wanted.until, within, Page([], None)), export

    def corrected(self, end_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """What those of these ends that were corrected cost by now. Raises Unavailable."""
        return self._postgres.run(lambda connection: corrections.costs_by_now(connection, end_ids))

    def balances(self, user_id: str, since: date | None = None, until: date | None = None) -> Sequence[DayBalance]:
        """The posted balance at the end of each day, the last 30 unless others are named.

        Raises Invalid (too many days), WalletNotFound, Archived or Unavailable.
        """

        def work(connection: sa.Connection) -> Sequence[DayBalance]:
            last = until or archives.now(connection).date() + timedelta(days=1)
            first = since or _first_day(connection, last)
            if not first < last <= first + timedelta(days=DAYS_MAX):
                raise Invalid(errors={"from": [f"Must be from 1 to {DAYS_MAX} days before to."]})
            _span(connection, user_id, Entries(since=midnight(first)))
            return statements.balances_by_day(connection, wallet_of(user_id), first, last)

        return self._postgres.run(work)


def _span(connection: sa.Connection, user_id: str, wanted: Entries) -> Span:
    archived_until = archives.archived_until(connection)
    for moment in (wanted.since, wanted.until):
        if moment is not None and archived_until is not None and moment < midnight(archived_until):
            raise Archived(f"Entries from before {archived_until} were moved into files: ask from then on")
    found = statements.span(connection, wallet_of(user_id), wanted.since, wanted.until)
    if found is None:
        raise WalletNotFound
    return found


def _first_day(connection: sa.Connection, until: date) -> date:
    first = until - timedelta(days=DAYS_DEFAULT)
    archived_until = archives.archived_until(connection)
    return first if archived_until is None or archived_until >= until else max(first, archived_until)
