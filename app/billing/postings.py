"""Top-ups, refunds and adjustments: each exactly once, however often it is sent.

The wallet's row is locked first, so two calls with the same reference run one after the other, and the second finds the
first one's entry. A credit that covers the wallet's oldest debt also wakes the collection of its debts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from app.billing.entries import Bell, Change, Changes, Entered
from app.domain.amounts import BALANCE_MICROS_MAX
from app.domain.audit import Change as Audited
from app.domain.errors import BalanceOutOfRange, IdempotencyConflict, WalletNotFound
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.domain.wallets import Wallet, WalletId, wallet_of
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.ledger import LedgerEntry, NewEntry

ANOTHER_BODY = "This reference was used with another body"

_ACTIONS = {
    PostingKind.TOP_UP: "wallet.topped_up",
    PostingKind.REFUND: "wallet.refunded",
    PostingKind.ADJUSTMENT: "wallet.adjusted",
}


class Books(Protocol):
    """A wallet's row, ledger and debts, in one transaction."""

    def lock(self, wallet_id: WalletId) -> Wallet | None: ...

    def find_posting(self, wallet_id: WalletId, reference: str) -> LedgerEntry | None: ...

    def is_chargeback(self, wallet_id: WalletId, reference: str) -> bool: ...

    def enter(self, wallet: Wallet, entries: Sequence[NewEntry]) -> Sequence[LedgerEntry]: ...

    def update(self, wallet_id: WalletId, changes: Mapping[str, Any]) -> Wallet: ...

    def wake(self, wallet_id: WalletId) -> Sequence[IndebtedWallet]: ...

    def audit(self, caller: Caller, changes: Sequence[Audited]) -> None: ...


class BookKeeping(Protocol):
    def in_turn(self, wallet_id: WalletId, work: Callable[[Books], Change]) -> Change:
        """Run `work` in a transaction that is committed when this returns; `work` may run more than once.

        Raises WalletBusy, Unavailable and what `work` raises.
        """


class PostingService:
    def __init__(self, *, books: BookKeeping, changes: Changes, doorbell: Bell) -> None:
        self._books = books
        self._changes = changes
        self._doorbell = doorbell

    def post(self, posting: Posting) -> Entered:
        """Raises WalletNotFound, IdempotencyConflict, BalanceOutOfRange, WalletBusy or Unavailable."""
        wallet_id = wallet_of(posting.user_id)
        change = self._books.in_turn(wallet_id, lambda books: _post(books, wallet_id, posting))
        return change.tell(self._changes, self._doorbell)


def _post(books: Books, wallet_id: WalletId, posting: Posting) -> Change:
    wallet = books.lock(wallet_id)
    if wallet is None:
        raise WalletNotFound
    known = books.find_posting(wallet_id, posting.reference)
    if known is None:
        posted = post_new(books, wallet, posting)
        books.audit(posting.caller, [_audited(wallet, posting)])
        return posted
    if (known.kind, known.amount_micros, known.reason) != (posting.kind, posting.amount_micros, posting.reason):
        raise IdempotencyConflict(ANOTHER_BODY)
    return Change(known)


def post_new(books: Books, wallet: Wallet, posting: Posting) -> Change:
    """Post to a locked wallet whose ledger has no posting under this reference.

    Raises IdempotencyConflict (a chargeback has the reference) or BalanceOutOfRange, before anything is changed.
    """
    if books.is_chargeback(wallet.id, posting.reference):
        raise IdempotencyConflict(ANOTHER_BODY)
    balance_after_micros = wallet.posted_micros + posting.amount_micros
    if not -wallet.overdraft_limit_micros <= balance_after_micros <= BALANCE_MICROS_MAX:
        raise BalanceOutOfRange
    [entry] = books.enter(wallet, [_entry(posting)])
    changed = books.update(wallet.id, {"posted_micros": balance_after_micros})
    is_credit = posting.amount_micros > 0
    return Change(entry, changed, woken=books.wake(wallet.id) if is_credit else ())


def _entry(posting: Posting) -> NewEntry:
    return NewEntry(
        user_id=posting.user_id,
        kind=posting.kind,
        amount_micros=posting.amount_micros,
        reference=posting.reference,
        reason=posting.reason,
        actor=posting.caller.actor,
        request_id=posting.caller.request_id,
    )


def _audited(wallet: Wallet, posting: Posting) -> Audited:
    return Audited(
        _ACTIONS[posting.kind],
        "wallet",
        wallet.id,
        before={"posted_micros": wallet.posted_micros},
        after={
            "posted_micros": wallet.posted_micros + posting.amount_micros,
            "reference": posting.reference,
            "reason": posting.reason,
        },
    )
