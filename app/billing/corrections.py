"""Corrections: reversing or amending one run, and chargebacks. Each exactly once, however often it is sent.

The wallet's row is locked first, so two calls under the same reference run one after the other, and the second finds
the first one's correction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Protocol, TypeVar
from uuid import UUID

import structlog
from redis import RedisError

from app.access.gate import Gate
from app.billing.entries import Bell, Changes
from app.billing.postings import ANOTHER_BODY
from app.billing.run_account import RunBooks, Told, charge, correct
from app.domain.audit import Change
from app.domain.catalog import FeatureEndpoint
from app.domain.corrections import NO_USAGE, Chargeback, CorrectionKind, CorrectionRequest, OwnReversal
from app.domain.errors import (
    CorrectionOfCorrection,
    IdempotencyConflict,
    NotFound,
    ReversalNotAllowed,
    Unavailable,
    WalletNotFound,
)
from app.domain.keys import Caller
from app.domain.wallets import Wallet, WalletId, wallet_of
from app.stores.postgres.corrections import Correction, Run
from app.stores.postgres.inbox import KnownEnd
from app.stores.postgres.ledger import LedgerEntry

log = structlog.get_logger(__name__)

T = TypeVar("T")

END_NOT_FOUND = "End not found"


@dataclass(frozen=True, slots=True)
class Corrected:
    """A correction as it was first answered, with the ledger entries that it has made."""

    correction: Correction
    entries: Sequence[LedgerEntry]
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Outcome:
    correction: Correction
    entries: Sequence[LedgerEntry]
    told: Told | None = None


class CorrectionBooks(RunBooks, Protocol):
    def lock(self, wallet_id: WalletId) -> Wallet | None: ...

    def known_ends(self, idempotency_keys: Collection[str], process_ids: Collection[str]) -> Sequence[KnownEnd]: ...

    def wallet_of_run(self, end_id: UUID) -> WalletId | None:
        """The wallet that pays for an end. None if the end is unknown."""

    def is_charge(self, end_id: UUID) -> bool:
        """Whether this is the id of a correction's charge, and not of an end."""

    def find_run(self, end_id: UUID) -> Run | None: ...

    def find_correction(self, end_id: UUID, reference: str) -> Correction | None: ...

    def corrections_of(self, end_id: UUID) -> Sequence[Correction]:
        """Oldest first."""

    def find_chargeback(self, wallet_id: WalletId, reference: str) -> Correction | None: ...

    def find_posting(self, wallet_id: WalletId, reference: str) -> LedgerEntry | None: ...

    def find_entries(self, numbers: Sequence[int]) -> Sequence[LedgerEntry]: ...

    def feature(self, feature_endpoint_id: str) -> FeatureEndpoint | None: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class BookKeeping(Protocol):
    def read(self, work: Callable[[CorrectionBooks], T]) -> T:
        """Raises Unavailable."""

    def in_turn(self, wallet_id: WalletId, work: Callable[[CorrectionBooks], T]) -> T:
        """Run `work` in one transaction that locks this wallet. Raises WalletBusy or Unavailable."""


class Spool(Protocol):
    """Errors are redis-py's own."""

    def size(self) -> int: ...

    def holding(self, end_ids: Sequence[UUID]) -> Set[UUID]: ...


class CorrectionService:
    def __init__(self, *, books: BookKeeping, changes: Changes, doorbell: Bell, spool: Spool, redis: Gate) -> None:
        self._books = books
        self._changes = changes
        self._doorbell = doorbell
        self._spool = spool
        self._redis = redis

    def correct(self, request: CorrectionRequest) -> Corrected:
        """Reverse or amend a run.

        Raises NotFound (no such end), CorrectionOfCorrection, AlreadyWrittenOff, ExceedsOriginal, IdempotencyConflict,
        BalanceOutOfRange, WalletNotFound, WalletBusy or Unavailable.
        """
        return self._correct(request, lambda books, run: None)

    def reverse_own(self, asked: OwnReversal) -> Corrected:
        """Reverse a run for the service server that reported it, as long as its feature endpoint allows that.

        Raises ReversalNotAllowed, and what `correct` raises.
        """
        found = self._known(asked)
        if not found:
            self._raise_if_spooled(None)
            # The spool may have been drained into Postgres between the two looks.
            found = self._known(asked)
        keys = (asked.idempotency_key, asked.process_id)
        ends = [end for end in found if end.user_id == asked.user_id and _is_named(end, *keys)]
        if len(ends) != 1 or len(found) != 1:
            raise NotFound(END_NOT_FOUND)
        request = CorrectionRequest(
            end_id=ends[0].end_id,
            kind=CorrectionKind.REVERSAL,
            reference=asked.reference,
            reason=asked.reason,
            caller=asked.caller,
        )
        return self._correct(request, _check_window)

    def _known(self, asked: OwnReversal) -> Sequence[KnownEnd]:
        keys = [] if asked.idempotency_key is None else [asked.idempotency_key]
        processes = [] if asked.process_id is None else [asked.process_id]
        return self._books.read(lambda books: books.known_ends(keys, processes))

    def of_end(self, end_id: UUID) -> Sequence[Corrected]:
        """An end's corrections, oldest first. Raises NotFound or Unavailable."""

        def work(books: CorrectionBooks) -> Sequence[Corrected] | None:
            if books.wallet_of_run(end_id) is None:
                return None
            found = books.corrections_of(end_id)
            return [Corrected(correction, _entries(books, correction)) for correction in found]

        corrected = self._books.read(work)
        if corrected is None:
            raise NotFound(END_NOT_FOUND)
        return corrected

    def charge_back(self, chargeback: Chargeback) -> Corrected:
        """Take tokens out of a wallet, at once or as debt.

        Raises WalletNotFound, IdempotencyConflict, BalanceOutOfRange, WalletBusy or Unavailable.
        """
        outcome = self._books.in_turn(wallet_of(chargeback.user_id), lambda books: _charge_back(books, chargeback))
        return self._told(outcome)

    def _correct(self, request: CorrectionRequest, check: Callable[[CorrectionBooks, Run], None]) -> Corrected:
        wallet_id = self._wallet_of(request.end_id)

        def work(books: CorrectionBooks) -> _Outcome:
            wallet = books.lock(wallet_id)
            if wallet is None:
                raise WalletNotFound
            return _correct(books, wallet, request, check)

        return self._told(self._books.in_turn(wallet_id, work))

    def _wallet_of(self, end_id: UUID) -> WalletId:
        def look(books: CorrectionBooks) -> WalletId | None:
            return books.wallet_of_run(end_id)

        wallet_id = self._books.read(look)
        if wallet_id is None:
            if self._books.read(lambda books: books.is_charge(end_id)):
                raise CorrectionOfCorrection
            self._raise_if_spooled(end_id)
            # The end may have left the spool for Postgres between the two looks.
            wallet_id = self._books.read(look)
        if wallet_id is None:
            raise NotFound(END_NOT_FOUND)
        return wallet_id

    def _told(self, outcome: _Outcome) -> Corrected:
        if (told := outcome.told) is None:
            return Corrected(outcome.correction, outcome.entries, replayed=True)
        log.info(
            "corrected",
            kind=outcome.correction.kind,
            end_id=str(outcome.correction.end_id),
            reference=outcome.correction.reference,
            micros=outcome.correction.amount_micros,
            actor=outcome.correction.actor,
        )
        told.tell(self._changes, self._doorbell)
        return Corrected(outcome.correction, outcome.entries)

    def _raise_if_spooled(self, end_id: UUID | None) -> None:
        """Raise Unavailable if an end may be in the spool, where it can't be corrected yet. None: any end.

        Raises it too if Redis can't be asked: a caller who is told that there is no such end wouldn't try again.
        """
        if not self._redis.is_open:
            raise Unavailable
        try:
            is_spooled = self._spool.size() > 0 if end_id is None else bool(self._spool.holding([end_id]))
        except RedisError as error:
            self._redis.close(error)
            raise Unavailable from error
        if is_spooled:
            raise Unavailable


def _correct(
    books: CorrectionBooks,
    wallet: Wallet,
    request: CorrectionRequest,
    check: Callable[[CorrectionBooks, Run], None],
) -> _Outcome:
    known = books.find_correction(request.end_id, request.reference)
    if known is not None:
        if not request.is_repeated_by(known.kind, known.reason, known.usage, known.price_id):
            raise IdempotencyConflict(ANOTHER_BODY)
        return _Outcome(known, _entries(books, known))
    run = books.find_run(request.end_id)
    if run is None:
        raise NotFound(END_NOT_FOUND)
    if run.kind != "usage":
        raise CorrectionOfCorrection
    check(books, run)
    correction, told = correct(books, wallet, run, request)
    after = {"cost_micros": correction.cost_after_micros, "reference": request.reference, "reason": request.reason}
    change = Change(
        "end.reversed" if request.kind is CorrectionKind.REVERSAL else "end.amended",
        "end",
        str(request.end_id),
        before={"cost_micros": correction.cost_before_micros, "user_id": run.user_id},
        after=after,
    )
    books.audit(request.caller, [change])
    return _Outcome(correction, _entries(books, correction), told)


def _check_window(books: CorrectionBooks, run: Run) -> None:
    feature = books.feature(run.feature_endpoint_id)
    seconds = 0 if feature is None else feature.reversal_seconds
    if seconds == 0 or run.age_seconds is None or run.age_seconds > seconds:
        raise ReversalNotAllowed


def _charge_back(books: CorrectionBooks, chargeback: Chargeback) -> _Outcome:
    wallet_id = wallet_of(chargeback.user_id)
    wallet = books.lock(wallet_id)
    if wallet is None:
        raise WalletNotFound
    known = books.find_chargeback(wallet_id, chargeback.reference)
    if known is not None:
        if (known.amount_micros, known.reason) != (-chargeback.amount_micros, chargeback.reason):
            raise IdempotencyConflict(ANOTHER_BODY)
        return _Outcome(known, _entries(books, known))
    if books.find_posting(wallet_id, chargeback.reference) is not None:
        raise IdempotencyConflict(ANOTHER_BODY)
    told = Told(wallet)
    row = {
        "kind": CorrectionKind.CHARGEBACK,
        "user_id": chargeback.user_id,
        **asdict(NO_USAGE),
        "base_cost_micros": chargeback.amount_micros,
        "profit_micros": 0,
        "cost_micros": chargeback.amount_micros,
        "reference": chargeback.reference,
        "reason": chargeback.reason,
        "actor": chargeback.caller.actor,
        "request_id": chargeback.caller.request_id,
    }
    charge_id = charge(books, told, row)
    entries = books.find_billed(charge_id)
    kept = books.keep(
        None,
        kind=CorrectionKind.CHARGEBACK,
        wallet_id=wallet_id,
        user_id=chargeback.user_id,
        reference=chargeback.reference,
        reason=chargeback.reason,
        amount_micros=-chargeback.amount_micros,
        posted_change_micros=-chargeback.amount_micros if entries else 0,
        debt_change_micros=0 if entries else chargeback.amount_micros,
        charge_id=charge_id,
        transaction_ids=[entry.id for entry in entries],
        actor=chargeback.caller.actor,
        request_id=chargeback.caller.request_id,
    )
    change = Change(
        "wallet.charged_back",
        "wallet",
        wallet_id,
        before={"posted_micros": wallet.posted_micros, "debt_micros": wallet.debt_micros},
        after={
            "posted_micros": wallet.posted_micros + kept.posted_change_micros,
            "debt_micros": wallet.debt_micros + kept.debt_change_micros,
            "reference": chargeback.reference,
            "reason": chargeback.reason,
        },
    )
    books.audit(chargeback.caller, [change])
    return _Outcome(kept, entries, told)


def _entries(books: CorrectionBooks, correction: Correction) -> Sequence[LedgerEntry]:
    return books.find_entries(correction.transaction_ids)


def _is_named(end: KnownEnd, idempotency_key: str | None, process_id: str | None) -> bool:
    """Whether an end came with all of the keys that are given here."""
    return idempotency_key in (None, end.idempotency_key) and process_id in (None, end.process_id)
