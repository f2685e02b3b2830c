"""Tops up wallets of a top-up: each at most once, and each with an outcome.

A posting and its outcome are one transaction. A process killed before the commit has done nothing, and one that comes
second finds the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import sqlalchemy as sa
import structlog

from app.billing.entries import Bell, Change
from app.billing.postings import Books, post_new
from app.domain.errors import BalanceOutOfRange, IdempotencyConflict, WalletBusy, WalletNotFound
from app.domain.keys import caller_again
from app.domain.postings import Posting, PostingKind
from app.domain.reasons import FailureReason
from app.domain.top_ups import TopUpMode, TopUpOutcome
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.top_ups import BatchWallet, TopUpBatch
from app.stores.redis.wallet_calls import WalletChange

log = structlog.get_logger(__name__)

T = TypeVar("T")


class TopUpBooks(Books, Protocol):
    def lock_free(self, wallet_ids: Sequence[WalletId]) -> Collection[WalletId]: ...

    def claim(self, wallet_id: WalletId) -> bool: ...

    def set_outcome(
        self, wallet_id: WalletId, outcome: str, *, posted_micros: int = 0, transaction_id: int | None = None
    ) -> None: ...


class TopUpBookKeeping(Protocol):
    def in_turn(self, batch_id: int, wallet_id: WalletId, work: Callable[[TopUpBooks], T]) -> T: ...

    def together(self, batch_id: int, work: Callable[[TopUpBooks], T]) -> T: ...


class AllChanges(Protocol):
    def apply(self, changes: Sequence[WalletChange]) -> None:
        """Bring cached wallets up to committed changes; never raises because a store is away."""


@dataclass(frozen=True, slots=True)
class _Together:
    changes: Sequence[Change] = ()
    left_over: Sequence[BatchWallet] = ()
    """Wallets that another transaction has locked, or that don't exist any more."""


class WalletTopUp:
    def __init__(self, *, books: TopUpBookKeeping, changes: AllChanges, doorbell: Bell) -> None:
        self._books = books
        self._changes = changes
        self._doorbell = doorbell

    def top_up(self, batch: TopUpBatch, members: Sequence[BatchWallet]) -> None:
        """Top up these wallets, or record why they can't be. Busy wallets stay without an outcome, to be tried again.

        All in one transaction, as most of the cost is in commits; those for which that fails one by one. Raises
        Unavailable.
        """
        try:
            done = self._books.together(batch.id, lambda books: _top_up_free(books, batch, members))
        except (WalletBusy, sa.exc.SQLAlchemyError):
            done = _Together(left_over=members)
        self._tell(done.changes)
        for member in done.left_over:
            self._top_up_one(batch, member)

    def _top_up_one(self, batch: TopUpBatch, member: BatchWallet) -> None:
        try:
            change = self._books.in_turn(batch.id, member.wallet_id, lambda books: _top_up(books, batch, member))
        except WalletBusy:
            return
        except sa.exc.SQLAlchemyError:
            # Only this wallet is affected: go on with the others.
            log.exception(
                "top_up_refused", id=batch.id, wallet_id=member.wallet_id, code=FailureReason.DATABASE_REFUSED
            )
            self._books.in_turn(batch.id, member.wallet_id, lambda books: _refused(books, member))
            return
        if change is not None:
            self._tell([change])

    def _tell(self, changes: Sequence[Change]) -> None:
        changed = [WalletChange(change.wallet, change.told) for change in changes if change.wallet is not None]
        if changed:
            self._changes.apply(changed)
            self._doorbell.collect([wallet for change in changes for wallet in change.woken])


def _top_up_free(books: TopUpBooks, batch: TopUpBatch, members: Sequence[BatchWallet]) -> _Together:
    free = books.lock_free([member.wallet_id for member in members])
    changes = [_top_up(books, batch, member) for member in members if member.wallet_id in free]
    return _Together(
        [change for change in changes if change is not None],
        [member for member in members if member.wallet_id not in free],
    )


def _top_up(books: TopUpBooks, batch: TopUpBatch, member: BatchWallet) -> Change | None:
    wallet = books.lock(member.wallet_id)
    if not books.claim(member.wallet_id):
        return None
    done = _post(books, batch, member, wallet)
    if isinstance(done, str):
        books.set_outcome(member.wallet_id, done)
        return None
    entry = done.entry
    books.set_outcome(
        member.wallet_id, TopUpOutcome.TOPPED_UP, posted_micros=entry.amount_micros, transaction_id=entry.id
    )
    return done


def _post(books: TopUpBooks, batch: TopUpBatch, member: BatchWallet, wallet: Wallet | None) -> Change | str:
    """The change that was posted, or the outcome if nothing was."""
    if wallet is None:
        return WalletNotFound.code
    known = books.find_posting(wallet.id, batch.reference)
    if known is not None:
        return TopUpOutcome.POSTED_BEFORE if _is_repeated_by(batch, known) else IdempotencyConflict.code
    if not batch.target.includes(wallet):
        return TopUpOutcome.LEFT
    amount_micros = batch.amount.due_micros(wallet.posted_micros)
    if amount_micros == 0:
        return TopUpOutcome.FULL
    posting = Posting(
        user_id=member.user_id,
        kind=PostingKind.TOP_UP,
        amount_micros=amount_micros,
        reference=batch.reference,
        reason=batch.reason,
        caller=caller_again(batch.actor, batch.request_id),
    )
    try:
        return post_new(books, wallet, posting)
    except (BalanceOutOfRange, IdempotencyConflict) as error:
        log.warning("top_up_refused", id=batch.id, wallet_id=wallet.id, code=error.code)
        return error.code


def _is_repeated_by(batch: TopUpBatch, known: LedgerEntry) -> bool:
    """Whether an existing posting is the one that this top-up would make. With mode `fill` the amount isn't compared,
    as nobody knows now how much the wallet lacked then.
    """
    is_as_much = batch.amount.mode is TopUpMode.FILL or known.amount_micros == batch.amount.micros
    return is_as_much and (known.kind, known.reason) == (PostingKind.TOP_UP, batch.reason)


def _refused(books: TopUpBooks, member: BatchWallet) -> None:
    books.set_outcome(member.wallet_id, FailureReason.DATABASE_REFUSED)
