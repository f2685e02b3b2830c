"""Failed ends, whose deduction has failed: operators list them, replay them, or write them off.

Replay and write-off lock the wallet first, so they never run during a settlement of it. Both are idempotent: replaying
a replayed end changes nothing, and a repeated write-off gives the same answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any, Protocol
from uuid import UUID

import structlog

from app.access.doorbell import Doorbell
from app.access.ports import WalletBookKeeping
from app.billing.entries import Change, Changes, Entered
from app.domain.audit import Change as Audited
from app.domain.ends import EndState
from app.domain.errors import AlreadyExists, NotFound, WalletNotFound
from app.domain.failed_ends import Filter
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import Page, page
from app.domain.wallets import Wallet, WalletId
from app.operations.write_offs import Books as WriteOffBooks
from app.operations.write_offs import WriteOff, write_off
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.failed_ends import FailedEndRow
from app.stores.postgres.ledger import LedgerEntry

log = structlog.get_logger(__name__)

FIRST_END = str(UUID(int=0))


class Books(WriteOffBooks, Protocol):
    """Failed ends, with their wallets, ledgers and debts, in one transaction."""

    def lock(self, wallet_id: WalletId) -> Wallet | None: ...

    def find_write_off(self, end_id: UUID) -> LedgerEntry | None: ...

    def billed_of(self, end_ids: Collection[UUID]) -> Set[UUID]: ...

    def wake(self, wallet_id: WalletId) -> Sequence[IndebtedWallet]: ...

    def audit(self, caller: Caller, changes: Sequence[Audited]) -> None: ...

    def payer_of(self, end_id: UUID) -> WalletId | None: ...

    def claim_failed(self, end_ids: Collection[UUID]) -> Sequence[Any]: ...

    def replay(self, end_ids: Collection[UUID]) -> Sequence[FailedEndRow]: ...

    def find_failed(self, end_id: UUID) -> FailedEndRow | None: ...

    def list_failed(self, matching: Filter, after_id: UUID, limit: int) -> Sequence[FailedEndRow]: ...

    def count_failed(self, matching: Filter) -> int: ...


class FailedEndService:
    def __init__(self, *, books: WalletBookKeeping[Books], changes: Changes, doorbell: Doorbell) -> None:
        self._books = books
        self._changes = changes
        self._doorbell = doorbell

    def list(self, matching: Filter, limit: int, after_id: str = FIRST_END) -> Page[FailedEndRow, str]:
        """Oldest first. Raises Unavailable."""
        after = UUID(after_id)
        return self._books.read(
            lambda books: page(lambda count: books.list_failed(matching, after, count), lambda end: str(end.id), limit)
        )

    def count(self, matching: Filter) -> int:
        """Raises Unavailable."""
        return self._books.read(lambda books: books.count_failed(matching))

    def get(self, end_id: UUID) -> FailedEndRow:
        """Raises NotFound or Unavailable."""
        found = self._books.read(lambda books: books.find_failed(end_id))
        if found is None:
            raise NotFound("Failed end not found")
        return found

    def replay(self, end_id: UUID, caller: Caller = SYSTEM) -> FailedEndRow:
        """Retry a failed end at once. Returns its row after that. Raises NotFound, WalletBusy or Unavailable."""
        wallet_id = self._books.read(lambda books: books.payer_of(end_id))
        if wallet_id is None:
            raise NotFound("Failed end not found")
        replayed = self._books.in_turn(wallet_id, lambda books: _replay(books, [end_id], caller))
        if not replayed:
            raise NotFound("Failed end not found")
        ring(self._doorbell, replayed)
        return replayed[0]

    def write_off(self, end_id: UUID, reason: str, caller: Caller) -> Entered:
        """Give up an end's cost, with two ledger entries that leave the balance as it is. It can't be billed any more.

        Raises NotFound, WalletNotFound, Unavailable, or AlreadyExists when it has been billed.
        """
        wallet_id = self._books.read(lambda books: books.payer_of(end_id))

        def work(books: Books) -> Change:
            return _write_off(books, end_id, reason, caller)

        # Without a payer the end isn't in the inbox any more. If it was written off, the same answer is given again,
        # which needs no lock.
        change = self._books.transaction(work) if wallet_id is None else self._books.in_turn(wallet_id, work)
        entered = change.tell(self._changes, self._doorbell)
        if not entered.replayed:
            log.info("end_written_off", end_id=str(end_id), actor=caller.actor, micros=entered.entry.amount_micros)
        return entered


def ring(doorbell: Doorbell, ends: Sequence[FailedEndRow]) -> None:
    """Tell the workers of replayed ends."""
    accepted = [end.id for end in ends if end.state == EndState.ACCEPTED]
    if accepted:
        doorbell.settle(accepted)
    owed_micros: dict[WalletId, int] = defaultdict(int)
    for end in ends:
        if end.state == EndState.RETRYING:
            owed_micros[end.wallet_id] += end.cost_micros
    doorbell.collect([IndebtedWallet(wallet_id, micros) for wallet_id, micros in owed_micros.items()])


def _replay(books: Books, end_ids: Sequence[UUID], caller: Caller) -> Sequence[FailedEndRow]:
    replayed = books.replay(end_ids)
    books.audit(caller, [Audited("failed_end.replayed", "end", str(end.id), after=_told(end)) for end in replayed])
    return replayed


def _write_off(books: Books, end_id: UUID, reason: str, caller: Caller) -> Change:
    wallet_id = books.payer_of(end_id)
    wallet = None if wallet_id is None else books.lock(wallet_id)
    known = books.find_write_off(end_id)
    if known is not None:
        return Change(known)
    if wallet_id is None:
        raise NotFound("Failed end not found")
    if wallet is None:
        raise WalletNotFound
    ends = books.claim_failed([end_id])
    if not ends:
        raise NotFound("Failed end not found")
    if books.billed_of([end_id]):
        raise AlreadyExists("This end is billed already")
    entries, changed = write_off(books, wallet, ends, WriteOff(reason, caller.actor, caller.request_id))
    after = {"state": "written_off", "reason": reason}
    books.audit(caller, [Audited("failed_end.written_off", "end", str(end_id), _told(ends[0]), after)])
    # The wallet may now be able to pay the debts behind this end.
    return Change(entries[end_id], changed, told=[end_id], woken=books.wake(wallet.id))


def _told(end: Any) -> Mapping[str, Any]:
    """A failed end as the audit log has it."""
    return {"state": end.state, "user_id": end.user_id, "cost_micros": end.cost_micros}
