"""One end's whole history: how it was accepted, what was tried, what it waits for, and its outcome."""

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
    """What an unsettled end waits for. `line` is its place among its wallet's debts."""

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
    """`accepted` is the end's row in the inbox or, once it is settled, its entry in the ledger, which has the same
    columns. `attempts` are the failed attempts that are still stored, `open_charges` the unpaid charges of its
    corrections.
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
    """The confirmed bulk actions that include the end, oldest first."""

    @property
    def cost_micros(self) -> int:
        cost_micros: int | None = self.accepted.cost_micros
        # A chargeback's entry has an amount, but no cost of anything.
        return -self.accepted.amount_micros if cost_micros is None else cost_micros


class Books(Protocol):
    """Everything that is stored about one end."""

    def find_open(self, end_id: UUID) -> Any | None:
        """The end's row in the inbox. None once it is settled."""

    def entries(self, end_id: UUID) -> Sequence[LedgerEntry]:
        """The ledger entries of the end and of its corrections, oldest first."""

    def first_answer(self, end_id: UUID, key: str | None, process_id: str | None) -> FirstAnswer | None: ...

    def attempts(self, end_id: UUID) -> Sequence[Attempt]: ...

    def corrections(self, end_id: UUID) -> Sequence[Correction]: ...

    def find_entries(self, numbers: Sequence[int]) -> Sequence[LedgerEntry]: ...

    def open_charges(self, end_id: UUID) -> Sequence[Any]: ...

    def bulk_actions(self, end_id: UUID) -> Sequence[tuple[BulkAction, BulkEnd]]: ...

    def card(self, number: int) -> RateCard: ...

    def room(self, wallet_id: WalletId) -> Room | None: ...

    def ahead(self, wallet_id: WalletId, end_id: UUID) -> tuple[int, int]:
        """How many debts of the wallet are paid before this end, and their cost in micro-tokens."""


class EndStoryService:
    def __init__(self, *, books: BookKeeping[Books]) -> None:
        self._books = books

    def tell(self, end_id: UUID) -> EndStory:
        """The story of an end, or of a correction's or a chargeback's charge. Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _tell(books, end_id))


def _tell(books: Books, end_id: UUID) -> EndStory:
    # Read the inbox before the ledger: an end that has left the inbox is in the ledger by then.
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
        # As in lists: a wallet's debts are retried together, at its `collect_at`. If that isn't set, they are due now.
        next_attempt_at=(due_at or row.accepted_at) if state is EndState.RETRYING else None,
        line=line,
        missing_micros=line.missing_micros(row.cost_micros),
        why=why_it_waits(state, row.last_error, row.cost_micros, row.attempts, line, is_replayed=row.is_debt),
    )


def _key_of(entry: LedgerEntry) -> str | None:
    """The idempotency key of a settled run. An entry of another kind has a correction's reference instead of a key."""
    return entry.reference if entry.kind == EntryKind.USAGE else None
