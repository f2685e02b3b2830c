"""Statements over fake books: what was archived isn't told of, and days have their bounds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest

from app.domain.errors import Archived, Invalid, WalletNotFound
from app.domain.rates import RateCard, Rates
from app.domain.reports import Entries, midnight
from app.domain.wallets import WalletId
from app.operations.exports import Export
from app.operations.statements import DAYS_DEFAULT, DAYS_MAX, StatementService
from app.stores.postgres.exports.columns import Style
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.statements import DayBalance, Span
from tests.unit.fakes import ALICE, NOW

T = TypeVar("T")
TODAY = NOW.date()
TOMORROW = TODAY + timedelta(days=1)
CARD = RateCard(7, Rates(1, 1), None, "gpt", NOW)
STYLE = Style.EXACT
EXPORT = Export({}, iter(()))
FEBRUARY = date(2025, 2, 1)


def entry(number: int, price_id: int | None = None) -> LedgerEntry:
    nothing = dict.fromkeys((field.name for field in fields(LedgerEntry)), None)
    return LedgerEntry(**{**nothing, "id": number, "price_id": price_id})  # type: ignore[arg-type]


@dataclass
class FakeStatementBooks:
    """One wallet's entries. `asked` are the days whose balances were asked for."""

    entries: list[LedgerEntry] = field(default_factory=list)
    archived: date | None = None
    spans: list[tuple[datetime | None, datetime | None]] = field(default_factory=list)
    asked: list[tuple[date, date]] = field(default_factory=list)

    def read(self, work: Callable[[Any], T]) -> T:
        return work(self)

    transaction = read

    def now(self) -> datetime:
        return NOW

    def archived_until(self) -> date | None:
        return self.archived

    def span(self, wallet_id: WalletId, since: datetime | None, until: datetime | None) -> Span | None:
        self.spans.append((since, until))
        nothing: dict[str, Any] = dict.fromkeys((field.name for field in fields(Span)), 0)
        return Span(**{**nothing, "wallet_id": wallet_id}) if wallet_id == ALICE else None

    def list_entries(self, within: Span, wanted: Entries, after_id: int, limit: int) -> Sequence[LedgerEntry]:
        return [each for each in self.entries if each.id > after_id][:limit]

    def cards(self, numbers: Collection[int]) -> Mapping[int | None, RateCard]:
        assert None not in numbers
        return {number: CARD for number in numbers if number == CARD.id}

    def costs_by_now(self, end_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        return dict.fromkeys(end_ids, 5)

    def balances_by_day(self, wallet_id: WalletId, since: date, until: date) -> Sequence[DayBalance]:
        self.asked.append((since, until))
        return []


class FakeExports:
    def statement(self, within: Span, wanted: Entries, style: Style) -> Export:
        return EXPORT


@pytest.fixture
def books() -> FakeStatementBooks:
    return FakeStatementBooks()


@pytest.fixture
def service(books: FakeStatementBooks) -> StatementService:
    return StatementService(books=books, exports=FakeExports())


def test_a_page_has_each_entry_with_its_price(books: FakeStatementBooks, service: StatementService) -> None:
    books.entries = [entry(1), entry(2, price_id=7), entry(3)]
    first = service.page("alice", Entries(), 2)
    assert [(each.entry.id, each.card) for each in first.entries.items] == [(1, None), (2, CARD)]
    assert first.entries.next_key == 2
    assert [each.entry.id for each in service.page("alice", Entries(), 2, 2).entries.items] == [3]


def test_an_export_has_no_entries_of_its_own(books: FakeStatementBooks, service: StatementService) -> None:
    books.entries = [entry(1)]
    statement, export = service.export("alice", Entries(since=midnight(TODAY)), STYLE)
    assert (statement.entries.items, export, statement.since) == ([], EXPORT, midnight(TODAY))


@pytest.mark.parametrize(
    "moment", [{"since": midnight(FEBRUARY) - timedelta(seconds=1)}, {"until": datetime(2025, 1, 1, tzinfo=UTC)}]
)
def test_what_was_archived(books: FakeStatementBooks, service: StatementService, moment: dict[str, datetime]) -> None:
    books.archived = FEBRUARY
    for call in (
        lambda: service.page("alice", Entries(**moment), 9),  # type: ignore[arg-type]
        lambda: service.export("alice", Entries(**moment), STYLE),  # type: ignore[arg-type]
    ):
        with pytest.raises(Archived):
            call()
    # What is behind it is told.
    assert service.page("alice", Entries(since=midnight(FEBRUARY)), 9).user_id == "alice"
    assert service.page("alice", Entries(), 9).user_id == "alice"


def test_nobodys(service: StatementService) -> None:
    for call in (
        lambda: service.page("bob", Entries(), 9),
        lambda: service.export("bob", Entries(), STYLE),
        lambda: service.balances("bob"),
    ):
        with pytest.raises(WalletNotFound):
            call()


class TestDays:
    def test_the_last_thirty_unless_others_are_named(
        self, books: FakeStatementBooks, service: StatementService
    ) -> None:
        service.balances("alice")
        service.balances("alice", until=TODAY)
        service.balances("alice", TODAY)
        month = timedelta(days=DAYS_DEFAULT)
        assert books.asked == [(TOMORROW - month, TOMORROW), (TODAY - month, TODAY), (TODAY, TOMORROW)]
        assert books.spans[0] == (midnight(TOMORROW - month), None)

    def test_or_those_that_are_not_archived(self, books: FakeStatementBooks, service: StatementService) -> None:
        books.archived = TODAY - timedelta(days=3)
        service.balances("alice")
        assert books.asked == [(books.archived, TOMORROW)]
        with pytest.raises(Archived):
            service.balances("alice", books.archived - timedelta(days=1))
        # Of an archived month nothing is made up either.
        with pytest.raises(Archived):
            service.balances("alice", until=books.archived)

    @pytest.mark.parametrize(("days", "is_taken"), [(0, False), (1, True), (DAYS_MAX, True), (DAYS_MAX + 1, False)])
    def test_not_too_many_and_not_none(
        self, books: FakeStatementBooks, service: StatementService, days: int, is_taken: bool
    ) -> None:
        if is_taken:
            service.balances("alice", TODAY - timedelta(days=days), TODAY)
            assert len(books.asked) == 1
        else:
            with pytest.raises(Invalid) as refused:
                service.balances("alice", TODAY - timedelta(days=days), TODAY)
            assert list(refused.value.errors or ()) == ["from"]
            assert books.asked == []


def test_costs_of_corrected_ends(service: StatementService) -> None:
    assert service.corrected([UUID(int=1)]) == {UUID(int=1): 5}
