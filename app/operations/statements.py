"""Statements of one wallet, and its balance day by day. They don't cover archived entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol
from uuid import UUID

from app.access.ports import BookKeeping
from app.domain.errors import Archived, Invalid, WalletNotFound
from app.domain.pages import Page, page
from app.domain.rates import RateCard
from app.domain.reports import Entries, midnight
from app.domain.wallets import WalletId, wallet_of
from app.operations.exports import Export
from app.operations.reports import PricedEntry
from app.stores.postgres.exports.columns import Style
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.statements import DayBalance, Span

DAYS_DEFAULT = 30
DAYS_MAX = 366


@dataclass(frozen=True, slots=True)
class Statement:
    """The balances before and after the entries between two moments, and a page of these entries, oldest first.

    The balances include entries that further filters leave out.
    """

    user_id: str
    since: datetime | None
    until: datetime | None
    span: Span
    entries: Page[PricedEntry, int]


class Books(Protocol):
    """The part of a wallet's ledger that isn't archived."""

    def now(self) -> datetime: ...

    def archived_until(self) -> date | None:
        """The first day whose entries are all still in the ledger. None if nothing was archived."""

    def span(self, wallet_id: WalletId, since: datetime | None, until: datetime | None) -> Span | None:
        """None if there is no such wallet."""

    def list_entries(self, within: Span, wanted: Entries, after_id: int, limit: int) -> Sequence[LedgerEntry]: ...

    def cards(self, numbers: Collection[int]) -> Mapping[int | None, RateCard]: ...

    def costs_by_now(self, end_ids: Sequence[UUID]) -> Mapping[UUID, int]: ...

    def balances_by_day(self, wallet_id: WalletId, since: date, until: date) -> Sequence[DayBalance]: ...


class Exports(Protocol):
    def statement(self, within: Span, wanted: Entries, style: Style) -> Export:
        """Raises Unavailable."""


class StatementService:
    def __init__(self, *, books: BookKeeping[Books], exports: Exports) -> None:
        self._books = books
        self._exports = exports

    def page(self, user_id: str, wanted: Entries, limit: int, after_id: int = 0) -> Statement:
        """Raises WalletNotFound, Archived or Unavailable."""

        def work(books: Books) -> Statement:
            within = _span(books, user_id, wanted)
            found = page(
                lambda count: books.list_entries(within, wanted, after_id, count),
                lambda entry: entry.id,
                limit,
            )
            cards = books.cards({entry.price_id for entry in found.items if entry.price_id is not None})
            priced = [PricedEntry(entry, cards.get(entry.price_id)) for entry in found.items]
            return Statement(user_id, wanted.since, wanted.until, within, Page(priced, found.next_key))

        return self._books.read(work)

    def export(self, user_id: str, wanted: Entries, style: Style) -> tuple[Statement, Export]:
        """A statement with its entries as a table; the statement's own page of entries is empty.

        Raises WalletNotFound, Archived or Unavailable, also if too many exports are running.
        """
        within = self._books.read(lambda books: _span(books, user_id, wanted))
        export = self._exports.statement(within, wanted, style)
        return Statement(user_id, wanted.since, wanted.until, within, Page([], None)), export

    def corrected(self, end_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """The present cost of those of these ends that were corrected. Raises Unavailable."""
        return self._books.read(lambda books: books.costs_by_now(end_ids))

    def balances(self, user_id: str, since: date | None = None, until: date | None = None) -> Sequence[DayBalance]:
        """The posted balance at the end of each day, by default of the last 30 days.

        Raises Invalid (too many days), WalletNotFound, Archived or Unavailable.
        """

        def work(books: Books) -> Sequence[DayBalance]:
            last = until or books.now().date() + timedelta(days=1)
            first = since or _first_day(books, last)
            if not first < last <= first + timedelta(days=DAYS_MAX):
                raise Invalid(errors={"from": [f"Must be from 1 to {DAYS_MAX} days before to."]})
            _span(books, user_id, Entries(since=midnight(first)))
            return books.balances_by_day(wallet_of(user_id), first, last)

        return self._books.read(work)


def _span(books: Books, user_id: str, wanted: Entries) -> Span:
    archived_until = books.archived_until()
    for moment in (wanted.since, wanted.until):
        if moment is not None and archived_until is not None and moment < midnight(archived_until):
            raise Archived(f"Entries from before {archived_until} were moved into files: ask from then on")
    found = books.span(wallet_of(user_id), wanted.since, wanted.until)
    if found is None:
        raise WalletNotFound
    return found


def _first_day(books: Books, until: date) -> date:
    first = until - timedelta(days=DAYS_DEFAULT)
    archived_until = books.archived_until()
    return first if archived_until is None or archived_until >= until else max(first, archived_until)
