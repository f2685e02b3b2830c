"""One end's whole story: how it was accepted, what was tried, what it waits for, what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from app.access.ports import BookKeeping
from app.billing.corrections import Corrected
from app.domain.ends import EndState
from app.domain.errors import NotFound
from app.domain.failed_ends import Line, why_it_waits
from app.domain.rates import RateCard
from app.domain.reports import EntryKind
from app.domain.wallets import WalletId
from app.stores.postgres.bulk_actions import BulkAction, BulkEnd
from app.stores.postgres.corrections import Correction
from app.stores.postgres.debts import Room
from app.stores.postgres.end_stories import Attempt, FirstAnswer
from app.stores.postgres.ledger import LedgerEntry

SETTLED, WRITTEN_OFF = "settled", "written_off"


@dataclass(frozen=True, slots=True)
class Wait:
    """What an end that isn't settled waits for. `line` is where it stands among its wallet's debts."""

    state: EndState
    attempts: int
    attempts_total: int
    last_error: str | None
    next_attempt_at: datetime | None
    line: Line
    missing_micros: int
    why: str


@dataclass(frozen=True, slots=True)
class EndStory:
    """`accepted` is its row of the inbox, or what became of it: its entry in the ledger, which has the same columns.

    `attempts` are the failed tries that are remembered, `open_charges` what corrections of it have charged and is owed.
    """

    id: UUID
    state: str
    accepted: Any
    idempotency_key: str | None
    card: RateCard | None
    first_answer: FirstAnswer | None
    wait: Wait | None
    attempts: Sequence[Attempt]
    corrections: Sequence[Corrected]
    open_charges: Sequence[Any]
    entries: Sequence[LedgerEntry]
    bulk: Sequence[tuple[BulkAction, BulkEnd]]
    """The bulk actions that were confirmed about it, oldest first."""

    @property
    def cost_micros(self) -> int:
        cost_micros: int | None = self.accepted.cost_micros
        # A chargeback's entry has an amount, but no cost of anything.
        return -self.accepted.amount_micros if cost_micros is None else cost_micros


class Books(Protocol):
    """All that is known of one end."""

    def find_open(self, end_id: UUID) -> Any | None:
        """Its row of the inbox. None once it is settled."""

    def entries(self, end_id: UUID) -> Sequence[LedgerEntry]:
        """Of it and of its corrections, oldest first."""

    def first_answer(self, end_id: UUID, key: str | None, process_id: str | None) -> FirstAnswer | None: ...

    def attempts(self, end_id: UUID) -> Sequence[Attempt]: ...

    def corrections(self, end_id: UUID) -> Sequence[Correction]: ...

    def find_entries(self, numbers: Sequence[int]) -> Sequence[LedgerEntry]: ...

    def open_charges(self, end_id: UUID) -> Sequence[Any]: ...

    def bulk_actions(self, end_id: UUID) -> Sequence[tuple[BulkAction, BulkEnd]]: ...

    def card(self, number: int) -> RateCard: ...

    def room(self, wallet_id: WalletId) -> Room | None: ...

    def ahead(self, wallet_id: WalletId, end_id: UUID) -> tuple[int, int]:
        """How many debts of a wallet are paid before an end, and what they cost in micro-tokens."""


class EndStoryService:
    def __init__(self, *, books: BookKeeping[Books]) -> None:
        self._books = books

    def tell(self, end_id: UUID) -> EndStory:
        """Of an end, or of what a correction or a chargeback has charged. Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _tell(books, end_id))


def _tell(books: Books, end_id: UUID) -> EndStory:
    # The inbox first: what has left it is in the ledger by then.
    row = books.find_open(end_id)
    entries = books.entries(end_id)
    billed = next((entry for entry in entries if entry.end_id == end_id and entry.kind != EntryKind.WRITE_OFF), None)
    accepted: Any = row if row is not None else billed
    if accepted is None:
        raise NotFound("End not found")
    key = accepted.idempotency_key if row is not None else _key_of(accepted)
    card = None if accepted.price_id is None else books.card(accepted.price_id)
    is_written_off = any(entry.kind == EntryKind.WRITE_OFF and entry.end_id == end_id for entry in entries)
    return EndStory(
        id=end_id,
        state=row.state if row is not None else WRITTEN_OFF if is_written_off else SETTLED,
        accepted=accepted,
        idempotency_key=key,
        card=card,
        first_answer=books.first_answer(end_id, key, accepted.process_id),
        wait=None if row is None else _wait(books, row),
        attempts=books.attempts(end_id),
        corrections=[
            Corrected(correction, books.find_entries(correction.transaction_ids))
            for correction in books.corrections(end_id)
        ],
        open_charges=books.open_charges(end_id),
        entries=entries,
        bulk=books.bulk_actions(end_id),
    )


def _wait(books: Books, row: Any) -> Wait:
    wallet_id = WalletId(row.wallet_id)
    room = books.room(wallet_id)
    line = Line(*books.ahead(wallet_id, row.id), 0 if room is None else room.micros)
    state = EndState(row.state)
    due_at = None if room is None else room.next_attempt_at
    return Wait(
        state=state,
        attempts=row.attempts,
        attempts_total=row.attempts_total,
        last_error=row.last_error,
        # As in lists: all debts of a wallet are tried together, one that it doesn't know of yet at once.
        next_attempt_at=(due_at or row.accepted_at) if state is EndState.RETRYING else None,
        line=line,
        missing_micros=line.missing_micros(row.cost_micros),
        why=why_it_waits(state, row.last_error, row.cost_micros, row.attempts, line, is_replayed=row.is_debt),
    )


def _key_of(entry: LedgerEntry) -> str | None:
    """The key that a run came with. Of the other kinds the reference is a correction's."""
    return entry.reference if entry.kind == EntryKind.USAGE else None
