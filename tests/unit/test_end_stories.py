"""The story of an end over fake books: in which state it is, what it waits for, and by which key it came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID

import pytest

from app.domain.ends import EndState
from app.domain.errors import NotFound
from app.domain.rates import RateCard, Rates
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.operations.end_stories import EndStory, EndStoryService
from app.stores.postgres.debts import Room
from app.stores.postgres.end_stories import Attempt, FirstAnswer
from app.stores.postgres.ledger import LedgerEntry
from tests.unit.fakes import ALICE, NOW, TOKEN

T = TypeVar("T")
END, OTHER = UUID(int=1), UUID(int=2)
CARD = RateCard(7, Rates(1, 1), None, "gpt", NOW)
ANSWER = FirstAnswer("return-able", 5)
LATER = NOW + timedelta(hours=1)


def row(state: EndState = EndState.RETRYING, **values: Any) -> SimpleNamespace:
    usual = {
        "id": END,
        "wallet_id": ALICE,
        "state": state,
        "idempotency_key": "key",
        "process_id": "process",
        "price_id": None,
        "cost_micros": 11 * TOKEN,
        "attempts": 2,
        "attempts_total": 3,
        "last_error": FailureReason.INSUFFICIENT_TOKENS,
        "is_debt": True,
        "accepted_at": NOW,
    }
    return SimpleNamespace(**{**usual, **values})


def entry(kind: str = "usage", end_id: UUID = END, **values: Any) -> LedgerEntry:
    nothing: dict[str, Any] = dict.fromkeys((field.name for field in fields(LedgerEntry)), None)
    usual = {"kind": kind, "end_id": end_id, "amount_micros": -11 * TOKEN, "cost_micros": 11 * TOKEN}
    return LedgerEntry(**{**nothing, **usual, "reference": "key", "process_id": "process", **values})


@dataclass
class FakeStoryBooks:
    """`asked` are the keys by which the first answer was looked for."""

    open: Any = None
    ledger: list[LedgerEntry] = field(default_factory=list)
    corrected: list[Any] = field(default_factory=list)
    has_room: Room | None = None
    before: tuple[int, int] = (0, 0)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)

    def read(self, work: Callable[[Any], T]) -> T:
        return work(self)

    transaction = read

    def find_open(self, end_id: UUID) -> Any | None:
        return self.open

    def entries(self, end_id: UUID) -> Sequence[LedgerEntry]:
        return self.ledger

    def first_answer(self, end_id: UUID, key: str | None, process_id: str | None) -> FirstAnswer | None:
        self.asked.append((key, process_id))
        return ANSWER

    def attempts(self, end_id: UUID) -> Sequence[Attempt]:
        return [Attempt(1, NOW, "x")]

    def corrections(self, end_id: UUID) -> Sequence[Any]:
        return self.corrected

    def find_entries(self, numbers: Sequence[int]) -> Sequence[Any]:
        return list(numbers)

    def open_charges(self, end_id: UUID) -> Sequence[Any]:
        return []

    def bulk_actions(self, end_id: UUID) -> Sequence[Any]:
        return []

    def card(self, number: int) -> RateCard:
        assert number == CARD.id
        return CARD

    def room(self, wallet_id: WalletId) -> Room | None:
        return self.has_room

    def ahead(self, wallet_id: WalletId, end_id: UUID) -> tuple[int, int]:
        return self.before


def tell(**known: Any) -> EndStory:
    return EndStoryService(books=FakeStoryBooks(**known)).tell(END)


class TestStates:
    @pytest.mark.parametrize("state", list(EndState))
    def test_as_its_row_says(self, state: EndState) -> None:
        story = tell(open=row(state))
        assert (story.state, story.cost_micros, story.idempotency_key) == (state, 11 * TOKEN, "key")
        assert story.wait is not None
        assert story.wait.state is state

    def test_settled_once_the_ledger_has_it(self) -> None:
        story = tell(ledger=[entry()])
        assert (story.state, story.wait, story.cost_micros) == ("settled", None, 11 * TOKEN)

    def test_written_off(self) -> None:
        story = tell(ledger=[entry("write_off", reference="ticket"), entry()])
        assert (story.state, story.accepted.kind) == ("written_off", "usage")
        # What a correction of it charged may have been written off, it itself not.
        assert tell(ledger=[entry(), entry("write_off", OTHER)]).state == "settled"

    def test_unknown(self) -> None:
        with pytest.raises(NotFound):
            tell()
        with pytest.raises(NotFound):
            tell(ledger=[entry("write_off")])
        # Of a run that is in an archive its corrections may still be here.
        with pytest.raises(NotFound):
            tell(ledger=[entry("amendment", OTHER)])

    def test_of_a_chargeback_what_it_took(self) -> None:
        assert tell(ledger=[entry("chargeback", cost_micros=None, amount_micros=-5)]).cost_micros == 5


class TestKeys:
    def test_a_run_is_known_by_its_key_and_its_process(self) -> None:
        books = FakeStoryBooks(ledger=[entry()])
        story = EndStoryService(books=books).tell(END)
        assert (story.idempotency_key, story.first_answer, books.asked) == ("key", ANSWER, [("key", "process")])

    def test_the_reference_of_a_correction_is_none(self) -> None:
        assert tell(ledger=[entry("amendment", reference="ticket")]).idempotency_key is None


def test_by_which_price_it_was_billed() -> None:
    assert tell(ledger=[entry(price_id=7)]).card == CARD
    assert tell(ledger=[entry()]).card is None


def test_its_corrections_with_what_they_have_entered() -> None:
    correction = SimpleNamespace(transaction_ids=[4, 5])
    corrected: Any
    [corrected] = tell(ledger=[entry()], corrected=[correction]).corrections
    assert corrected.correction is correction
    assert list(corrected.entries) == [4, 5]


class TestWaiting:
    def wait(self, **known: Any) -> Any:
        story = tell(**{"open": row(), **known})
        assert story.wait is not None
        return story.wait

    def test_for_what_its_wallet_lacks(self) -> None:
        wait = self.wait(has_room=Room(5 * TOKEN, LATER), before=(1, 2 * TOKEN))
        assert (wait.missing_micros, wait.attempts, wait.attempts_total) == (8 * TOKEN, 2, 3)
        assert (wait.line.ahead_ends, wait.line.ahead_micros, wait.line.room_micros) == (1, 2 * TOKEN, 5 * TOKEN)
        assert "a top-up of 8 tokens pays it" in wait.why

    def test_until_its_wallet_is_tried_next(self) -> None:
        assert self.wait(has_room=Room(0, LATER)).next_attempt_at == LATER
        # One that its wallet doesn't know of yet is tried at once.
        assert self.wait(has_room=Room(0, None)).next_attempt_at == NOW
        assert self.wait().next_attempt_at == NOW

    @pytest.mark.parametrize("state", [EndState.ACCEPTED, EndState.DEAD])
    def test_nobody_tries_what_is_not_retrying_by_the_clock(self, state: EndState) -> None:
        assert self.wait(open=row(state), has_room=Room(0, LATER)).next_attempt_at is None

    def test_without_a_wallet_there_is_no_room(self) -> None:
        assert self.wait().line.room_micros == 0

    def test_for_a_worker_once_it_was_replayed(self) -> None:
        assert "replayed" in self.wait(open=row(EndState.ACCEPTED, is_debt=True)).why
        assert "replayed" not in self.wait(open=row(EndState.ACCEPTED, is_debt=False)).why
