"""Corrections: reversing or amending one run, and chargebacks. Each exactly once, however often it is sent.

The wallet's row is locked first, so that two calls under one reference come one after the other, and the second finds
what the first has done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

import sqlalchemy as sa
import structlog
from redis import RedisError

from app.access.changes import WalletChanges
from app.access.doorbell import Doorbell
from app.access.gate import Gate
from app.access.postgres import PostgresAccess
from app.billing.postings import ANOTHER_BODY
from app.billing.run_account import Told, charge, correct
from app.domain.corrections import NO_USAGE, Chargeback, CorrectionKind, CorrectionRequest, OwnReversal
from app.domain.errors import (
    CorrectionOfCorrection,
    IdempotencyConflict,
    NotFound,
    ReversalNotAllowed,
    Unavailable,
    WalletNotFound,
)
from app.domain.wallets import Wallet, WalletId, wallet_of
from app.stores.postgres import audit, catalog, inbox, ledger, wallets
from app.stores.postgres import corrections as store
from app.stores.postgres.corrections import Correction, Run
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.settlement import RetryPolicy
from app.stores.redis.spool import Spool

log = structlog.get_logger(__name__)

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


class CorrectionService:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        changes: WalletChanges,
        doorbell: Doorbell,
        policy: RetryPolicy,
        spool: Spool,
        redis: Gate,
    ) -> None:
        self._postgres = postgres
        self._changes = changes
        self._doorbell = doorbell
        self._policy = policy
        self._spool = spool
        self._redis = redis

    def correct(self, request: CorrectionRequest) -> Corrected:
        """Reverse or amend a run.

        Raises NotFound (no such end), CorrectionOfCorrection, AlreadyWrittenOff, ExceedsOriginal, IdempotencyConflict,
        BalanceOutOfRange, WalletNotFound, WalletBusy or Unavailable.
        """
        return self._correct(request, lambda connection, run: None)

    def reverse_own(self, asked: OwnReversal) -> Corrected:
        """Reverse a run for the service server that reported it, as long as its feature endpoint allows that.

        Raises ReversalNotAllowed, and what `correct` raises.
        """
        found = self._known(asked)
        if not found:
            self._raise_if_spooled(None)
            # It may have been recorded between the two looks.
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

    def _known(self, asked: OwnReversal) -> Sequence[inbox.KnownEnd]:
        keys = [] if asked.idempotency_key is None else [asked.idempotency_key]
        processes = [] if asked.process_id is None else [asked.process_id]
        return self._postgres.run(lambda connection: inbox.find_keys(connection, keys, processes))

    def of_end(self, end_id: UUID) -> Sequence[Corrected]:
        """An end's corrections, oldest first. Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> Sequence[Corrected] | None:
            if store.wallet_of(connection, end_id) is None:
                return None
            found = store.list_of_end(connection, end_id)
            return [Corrected(correction, _entries(connection, correction)) for correction in found]

        corrected = self._postgres.run(work)
        if corrected is None:
            raise NotFound(END_NOT_FOUND)
        return corrected

    def charge_back(self, chargeback: Chargeback) -> Corrected:
        """Take tokens out of a wallet, or have it owe them.

        Raises WalletNotFound, IdempotencyConflict, BalanceOutOfRange, WalletBusy or Unavailable.
        """
        outcome = self._postgres.wallet_transaction(
            wallet_of(chargeback.user_id), lambda connection: _charge_back(connection, chargeback, self._policy)
        )
        return self._told(outcome)

    def _correct(self, request: CorrectionRequest, check: Callable[[sa.Connection, Run], None]) -> Corrected:
        wallet_id = self._wallet_of(request.end_id)

        def work(connection: sa.Connection) -> _Outcome:
            wallet = wallets.lock(connection, wallet_id)
            if wallet is None:
                raise WalletNotFound
            return _correct(connection, wallet, request, self._policy, check)

        return self._told(self._postgres.wallet_transaction(wallet_id, work))

    def _wallet_of(self, end_id: UUID) -> WalletId:
        def look(connection: sa.Connection) -> WalletId | None:
            return store.wallet_of(connection, end_id)

        wallet_id = self._postgres.run(look)
        if wallet_id is None:
            if self._postgres.run(lambda connection: store.is_charge(connection, end_id)):
                raise CorrectionOfCorrection
            self._raise_if_spooled(end_id)
            # It may have been recorded between the two looks.
            wallet_id = self._postgres.run(look)
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
        """An end that Redis still keeps for Postgres can't be corrected yet. Raises Unavailable where it may be one."""
        if not self._redis.is_open:
            return
        try:
            is_spooled = self._spool.size() > 0 if end_id is None else bool(self._spool.holding([end_id]))
        except RedisError as error:
            self._redis.close(error)
            return
        if is_spooled:
            raise Unavailable


def _correct(
    connection: sa.Connection,
    wallet: Wallet,
    request: CorrectionRequest,
    policy: RetryPolicy,
    check: Callable[[sa.Connection, Run], None],
) -> _Outcome:
    known = store.find(connection, request.end_id, request.reference)
    if known is not None:
        if not request.is_repeated_by(known.kind, known.reason, known.usage, known.price_id):
            raise IdempotencyConflict(ANOTHER_BODY)
        return _Outcome(known, _entries(connection, known))
    run = store.find_run(connection, request.end_id)
    if run is None:
        raise NotFound(END_NOT_FOUND)
    if run.kind != "usage":
        raise CorrectionOfCorrection
    check(connection, run)
    correction, told = correct(connection, wallet, run, request, policy)
    audit.write(
        connection,
        request.caller,
        "end.reversed" if request.kind is CorrectionKind.REVERSAL else "end.amended",
        ("end", request.end_id),
        before={"cost_micros": correction.cost_before_micros, "user_id": run.user_id},
        after={
            "cost_micros": correction.cost_after_micros,
            "reference": request.reference,
            "reason": request.reason,
        },
    )
    return _Outcome(correction, _entries(connection, correction), told)


def _check_window(connection: sa.Connection, run: Run) -> None:
    feature = catalog.find_feature(connection, run.feature_endpoint_id)
    seconds = 0 if feature is None else feature.reversal_seconds
    if seconds == 0 or run.age_seconds is None or run.age_seconds > seconds:
        raise ReversalNotAllowed


def _charge_back(connection: sa.Connection, chargeback: Chargeback, policy: RetryPolicy) -> _Outcome:
    wallet_id = wallet_of(chargeback.user_id)
    wallet = wallets.lock(connection, wallet_id)
    if wallet is None:
        raise WalletNotFound
    known = store.find_chargeback(connection, wallet_id, chargeback.reference)
    if known is not None:
        if (known.amount_micros, known.reason) != (-chargeback.amount_micros, chargeback.reason):
            raise IdempotencyConflict(ANOTHER_BODY)
        return _Outcome(known, _entries(connection, known))
    if ledger.find_posting(connection, wallet_id, chargeback.reference) is not None:
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
    charge_id = charge(connection, told, row, policy)
    entries = ledger.find_billed(connection, charge_id)
    kept = store.insert(
        connection,
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
    audit.write(
        connection,
        chargeback.caller,
        "wallet.charged_back",
        ("wallet", wallet_id),
        before={"posted_micros": wallet.posted_micros, "debt_micros": wallet.debt_micros},
        after={
            "posted_micros": wallet.posted_micros + kept.posted_change_micros,
            "debt_micros": wallet.debt_micros + kept.debt_change_micros,
            "reference": chargeback.reference,
            "reason": chargeback.reason,
        },
    )
    return _Outcome(kept, entries, told)


def _entries(connection: sa.Connection, correction: Correction) -> Sequence[LedgerEntry]:
    return ledger.find_entries(connection, correction.transaction_ids)


def _is_named(end: inbox.KnownEnd, idempotency_key: str | None, process_id: str | None) -> bool:
    """Whether an end has all of the keys that were given."""
    return idempotency_key in (None, end.idempotency_key) and process_id in (None, end.process_id)
