"""What operators do with ends whose deduction has failed: look at them, replay them, write them off.

Both changes take the wallet's lock first, so they come before or after each settlement of it and never in
between. Each may be repeated: a replay of what is replayed changes nothing, and a write-off answers as it did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

import structlog

from app.access.doorbell import Doorbell
from app.billing.entries import Change, Changes, Entered
from app.domain.ends import EndState
from app.domain.errors import AlreadyExists, NotFound, WalletBusy, WalletNotFound
from app.domain.failed_ends import Filter
from app.domain.pages import Page, page
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.failed_ends import FailedEndRow
from app.stores.postgres.ledger import LedgerEntry, NewEntry, billed

log = structlog.get_logger(__name__)

FIRST_END = str(UUID(int=0))
ENDS_PER_REPLAY = 100

T = TypeVar("T")


class Books(Protocol):
    """Failed ends, and the wallet, ledger and debts that they are about, in one transaction."""

    def lock(self, wallet_id: WalletId) -> Wallet | None: ...

    def find_write_off(self, end_id: UUID) -> LedgerEntry | None: ...

    def is_billed(self, end_id: UUID) -> bool: ...

    def enter(self, wallet: Wallet, entries: Sequence[NewEntry]) -> Sequence[LedgerEntry]: ...

    def update(self, wallet_id: WalletId, changes: Mapping[str, Any]) -> Wallet: ...

    def wake(self, wallet_id: WalletId) -> Sequence[IndebtedWallet]: ...

    def payer_of(self, end_id: UUID) -> WalletId | None: ...

    def claim_failed(self, end_id: UUID) -> Any | None: ...

    def delete_failed(self, end_id: UUID) -> None: ...

    def replay(self, end_ids: Collection[UUID]) -> Sequence[FailedEndRow]: ...

    def find_failed(self, end_id: UUID) -> FailedEndRow | None: ...

    def list_failed(self, matching: Filter, after_id: UUID, limit: int) -> Sequence[FailedEndRow]: ...

    def count_failed(self, matching: Filter) -> int: ...


class BookKeeping(Protocol):
    """They raise Unavailable, and what `work` raises, which may run again; those that lock a wallet WalletBusy."""

    def read(self, work: Callable[[Books], T]) -> T: ...

    def transaction(self, work: Callable[[Books], T]) -> T: ...

    def in_turn(self, wallet_id: WalletId, work: Callable[[Books], T]) -> T: ...


class FailedEndService:
    def __init__(self, *, books: BookKeeping, changes: Changes, doorbell: Doorbell) -> None:
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

    def replay(self, end_id: UUID) -> FailedEndRow:
        """Have a failed end tried again at once; what it is after that. Raises NotFound, WalletBusy or Unavailable."""
        wallet_id = self._books.read(lambda books: books.payer_of(end_id))
        if wallet_id is None:
            raise NotFound("Failed end not found")
        replayed = self._books.in_turn(wallet_id, lambda books: books.replay([end_id]))
        if not replayed:
            raise NotFound("Failed end not found")
        self._ring(replayed)
        return replayed[0]

    def replay_all(self, end_ids: Sequence[UUID]) -> Sequence[FailedEndRow]:
        """Have failed ends tried again at once, in one transaction; those that there are. Raises WalletBusy when one of
        their wallets is locked, or Unavailable.
        """
        replayed = self._books.transaction(lambda books: books.replay(end_ids))
        self._ring(replayed)
        return replayed

    def replay_matching(self, matching: Filter) -> Iterator[Sequence[FailedEndRow]]:
        """Replay all that match, so many at a time. Stopped half-way it has done what it gave. Raises Unavailable, or
        WalletBusy at the end, when all are replayed but those of locked wallets.

        An end that fails again meanwhile is not tried twice: the list is walked through once, oldest first.
        """
        busy: set[WalletId] = set()
        after_id: str | None = FIRST_END
        while after_id is not None:
            found = self.list(matching, ENDS_PER_REPLAY, after_id)
            ends = [end for end in found.items if end.wallet_id not in busy]
            if ends:
                yield self._replay_free(ends, busy)
            after_id = found.next_key
        if busy:
            raise WalletBusy

    def _replay_free(self, ends: Sequence[FailedEndRow], busy: set[WalletId]) -> Sequence[FailedEndRow]:
        """Replay the ends of wallets that aren't locked; those that are get added to `busy`."""
        try:
            return self.replay_all([end.id for end in ends])
        except WalletBusy:
            replayed: list[FailedEndRow] = []
        for end in ends:
            if end.wallet_id not in busy:
                try:
                    replayed += self.replay_all([end.id])
                except WalletBusy:
                    busy.add(end.wallet_id)
        return replayed

    def write_off(self, end_id: UUID, reason: str, actor: str, request_id: str | None = None) -> Entered:
        """Give up an end's cost, with two ledger entries that leave the balance as it is. It can't be billed any more.

        Raises NotFound, WalletNotFound, Unavailable, or AlreadyExists when it has been billed.
        """
        wallet_id = self._books.read(lambda books: books.payer_of(end_id))

        def work(books: Books) -> Change:
            return _write_off(books, end_id, reason, actor, request_id)

        # An end that isn't there any more may have been written off: that is told, and needs no turn.
        change = self._books.transaction(work) if wallet_id is None else self._books.in_turn(wallet_id, work)
        entered = change.tell(self._changes, self._doorbell)
        if not entered.replayed:
            log.info("end_written_off", end_id=str(end_id), actor=actor, micros=entered.entry.amount_micros)
        return entered

    def _ring(self, ends: Sequence[FailedEndRow]) -> None:
        accepted = [end.id for end in ends if end.state == EndState.ACCEPTED]
        if accepted:
            self._doorbell.settle(accepted)
        owed_micros: dict[WalletId, int] = defaultdict(int)
        for end in ends:
            if end.state == EndState.RETRYING:
                owed_micros[end.wallet_id] += end.cost_micros
        self._doorbell.collect([IndebtedWallet(wallet_id, micros) for wallet_id, micros in owed_micros.items()])


def _write_off(books: Books, end_id: UUID, reason: str, actor: str, request_id: str | None) -> Change:
    wallet_id = books.payer_of(end_id)
    wallet = None if wallet_id is None else books.lock(wallet_id)
    known = books.find_write_off(end_id)
    if known is not None:
        return Change(known)
    if wallet_id is None:
        raise NotFound("Failed end not found")
    if wallet is None:
        raise WalletNotFound
    end = books.claim_failed(end_id)
    if end is None:
        raise NotFound("Failed end not found")
    if books.is_billed(end_id):
        raise AlreadyExists("This end is billed already")
    # As written off and as billed: the balance ends where it was, and nothing can bill it again.
    given_up = NewEntry(
        user_id=end.user_id,
        kind="write_off",
        amount_micros=end.cost_micros,
        # Of which run it is: reports count it with those of the same kind.
        model=end.model,
        feature_endpoint_id=end.feature_endpoint_id,
        price_id=end.price_id,
        end_id=end.id,
        corrects=end.corrects,
        reason=reason,
        actor=actor,
        request_id=request_id,
    )
    written_off, _ = books.enter(wallet, [given_up, billed(end)])
    books.delete_failed(end_id)
    debt_micros = max(wallet.debt_micros - end.cost_micros, 0) if end.is_debt else wallet.debt_micros
    changed = books.update(wallet.id, {"debt_micros": debt_micros})
    # What stood behind it in the line may be payable.
    return Change(written_off, changed, told=[end_id], woken=books.wake(wallet.id))
