"""Holds after start: extended while the run goes on, released when it fails or when an operator says so.

Holds are kept in Redis only. While Redis is away there are none, and none can be extended.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

import structlog
from redis import RedisError

from app.access.gate import Gate
from app.billing.ports import Balances, CurrentCatalog, WalletsToCache
from app.domain.audit import Change
from app.domain.errors import AlreadyEnded, HoldNotFound, IdempotencyConflict, Unavailable, WalletNotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import FIRST_ID, Page, page
from app.domain.processes import check_owner
from app.domain.reasons import CacheVerdict
from app.domain.wallets import Access, WalletId, wallet_of
from app.stores.postgres.inbox import KnownEnd
from app.stores.redis.wallet_calls import ExtendCall, ExtendReply, OpenHold, ReleaseReply
from app.stores.redis.wallet_holds import NoOpenHold

log = structlog.get_logger(__name__)

LOOK_ATTEMPTS = 3
# Upper bound of holds that wait for Redis to be released. Beyond it the oldest are dropped and expire by themselves.
OWED_MAX = 10_000
# How many of the waiting holds each call releases.
OWED_PER_CALL = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ExtendRequest:
    """More tokens, more seconds, or both; 0 is none."""

    user_id: str
    process_id: str
    more_micros: int
    more_seconds: int
    idempotency_key: str | None = None

    @property
    def payload_hash(self) -> str:
        """Hash of the body. A repeated idempotency key has to come with the same one."""
        body = (self.process_id, self.more_micros, self.more_seconds)
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ExtendAnswer:
    """The hold after the call. A denied call leaves it as it was."""

    access: Access
    spendable_micros: int
    hold_micros: int
    expires_at: datetime
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class HoldView:
    process_id: str
    amount_micros: int
    expires_at: datetime


class EndedRuns(Protocol):
    def of_process(self, process_id: str) -> Sequence[KnownEnd]:
        """Raises Unavailable."""


class RememberedRuns(Protocol):
    def has_ended(self, wallet_id: WalletId, process_id: str) -> bool:
        """Raises RedisError. So do the methods of `OpenHolds`."""


class AuditBook(Protocol):
    def around(self, caller: Caller, work: Callable[[], T], told: Callable[[T], Change]) -> T:
        """Run `work`, and write the change that `told` makes of its result to the audit log.

        Raises Unavailable, and what `work` raises.
        """


class OpenHolds(Protocol):
    def extend(self, call: ExtendCall, epoch: int) -> ExtendReply | None: ...

    def release(self, wallet_id: WalletId, process_id: str, epoch: int) -> ReleaseReply | None: ...

    def list(self, wallet_id: WalletId, limit: int, epoch: int, after: str = "") -> list[OpenHold] | None: ...


class HoldService:
    def __init__(
        self,
        *,
        balances: Balances,
        runs: EndedRuns,
        catalog: CurrentCatalog,
        holds: OpenHolds,
        records: RememberedRuns,
        loader: WalletsToCache,
        redis: Gate,
        audit: AuditBook,
    ) -> None:
        self._balances = balances
        self._audit = audit
        self._runs = runs
        self._catalog = catalog
        self._holds = holds
        self._records = records
        self._loader = loader
        self._redis = redis
        self._owed: deque[tuple[WalletId, str]] = deque(maxlen=OWED_MAX)

    def _release(self, wallet_id: WalletId, process_id: str) -> int:
        """Release a run's hold, if it has one. Returns the wallet's spendable micro-tokens after that.

        While Redis is away the balance is read from Postgres, and the hold is released later. Raises WalletNotFound or
        Unavailable.
        """
        released = self._ask_redis(wallet_id, lambda epoch: self._holds.release(wallet_id, process_id, epoch))
        if released is not None:
            return released.spendable_micros
        found = self._balances.of([wallet_id]).get(wallet_id)
        if found is None:
            raise WalletNotFound
        self.release_later(wallet_id, process_id)
        return found.balance.spendable_micros

    def cancel(self, user_id: str, process_id: str) -> int:
        """Release the hold of a failed run. Idempotent. Returns the wallet's spendable micro-tokens after that.

        Raises AlreadyEnded for a run that was billed, ProcessOfAnotherUser, WalletNotFound or Unavailable.
        """
        check_owner(process_id, user_id)
        spendable_micros = self._release(wallet_of(user_id), process_id)
        if self._has_ended(user_id, process_id):
            raise AlreadyEnded
        return spendable_micros

    def extend(self, request: ExtendRequest) -> ExtendAnswer:
        """Add to an open hold. Raises HoldNotFound, ProcessOfAnotherUser, WalletNotFound, IdempotencyConflict, or
        Unavailable when Redis is away.

        After Unavailable the hold may have been extended all the same, if only Redis's reply was lost.
        """
        check_owner(request.process_id, request.user_id)
        call = ExtendCall(
            wallet_of(request.user_id),
            request.process_id,
            request.more_micros,
            request.more_seconds,
            request.idempotency_key,
            request.payload_hash,
        )
        reply = self._asked(call.wallet_id, lambda epoch: self._holds.extend(call, epoch))
        if reply.payload_hash != call.payload_hash:
            raise IdempotencyConflict
        return _extend_answer(reply)

    def list(self, user_id: str, limit: int, after: str = FIRST_ID) -> Page[HoldView, str]:
        """Open holds in the order they expire. Raises WalletNotFound or Unavailable."""
        wallet_id = wallet_of(user_id)

        def fetch(count: int) -> list[OpenHold]:
            return self._asked(wallet_id, lambda epoch: self._holds.list(wallet_id, count, epoch, after))

        found = page(fetch, lambda hold: hold.position, limit)
        return Page(
            [HoldView(hold.process_id, hold.amount_micros, hold.ends_at) for hold in found.items], found.next_key
        )

    def give_back(
        self, user_id: str, process_id: str, caller: Caller = SYSTEM, *, reason: str | None = None
    ) -> ReleaseReply:
        """Release an open hold for an operator, with an entry in the audit log.

        Raises HoldNotFound, WalletNotFound or Unavailable.
        """
        wallet_id = wallet_of(user_id)

        def release() -> ReleaseReply:
            reply = self._asked(wallet_id, lambda epoch: self._holds.release(wallet_id, process_id, epoch))
            if not reply.released_micros:
                raise HoldNotFound
            return reply

        def told(reply: ReleaseReply) -> Change:
            before = {"user_id": user_id, "held_micros": reply.released_micros}
            return Change(
                "hold.released", "hold", process_id, before=before, after=None if reason is None else {"reason": reason}
            )

        released = self._audit.around(caller, release, told)
        log.info("hold_released_by_operator", user_id=user_id, process_id=process_id, actor=caller.actor)
        return released

    def release_later(self, wallet_id: WalletId, process_id: str) -> None:
        """Queue a run's hold, if it has one, to be released once Redis answers. The queue is lost with the process."""
        self._owed.append((wallet_id, process_id))

    def release_owed(self) -> None:
        """Release some of the queued holds, if Redis is in use."""
        for _ in range(min(len(self._owed), OWED_PER_CALL)):
            if not self._redis.is_open:
                return
            try:
                owed = self._owed.popleft()
            except IndexError:
                return  # Another thread took the last one.
            try:
                # Epoch 0 accepts a cached copy of any epoch: reloading a wallet keeps its holds.
                self._holds.release(*owed, epoch=0)
            except RedisError as error:
                self._owed.append(owed)
                self._redis.close(error)
                return

    def _has_ended(self, user_id: str, process_id: str) -> bool:
        if self._redis.is_open:
            try:
                if self._records.has_ended(wallet_of(user_id), process_id):
                    return True
            except RedisError as error:
                self._redis.close(error)
        try:
            known = self._runs.of_process(process_id)
        except Unavailable:
            # Unknown. The hold is released by now, which is right whether the run has ended or not.
            return False
        return any(end.user_id == user_id for end in known)

    def _asked(self, wallet_id: WalletId, ask: Callable[[int], T | None]) -> T:
        """Like `_ask_redis`, for questions that only Redis can answer: raises Unavailable instead of returning None,
        and HoldNotFound.
        """
        try:
            found = self._ask_redis(wallet_id, ask)
        except NoOpenHold:
            raise HoldNotFound from None
        if found is None:
            raise Unavailable
        return found

    def _ask_redis(self, wallet_id: WalletId, ask: Callable[[int], T | None]) -> T | None:
        """Call `ask` with the cache epoch, loading the wallet each time that it returns None.

        Returns None while Redis is away, and for a wallet that can't be cached. Raises WalletNotFound, or Unavailable
        if the wallet can't be loaded.
        """
        self.release_owed()
        if not self._redis.is_open:
            return None
        try:
            for _ in range(LOOK_ATTEMPTS):
                found = ask(self._catalog.epoch)
                if found is not None:
                    return found
                if self._loader.load([wallet_id], self._catalog.epoch):
                    raise WalletNotFound
        except RedisError as error:
            self._redis.close(error)
        return None


def _extend_answer(reply: ExtendReply) -> ExtendAnswer:
    return ExtendAnswer(
        Access.DENIED if reply.outcome is CacheVerdict.DENIED else Access.GRANTED,
        reply.spendable_micros,
        reply.hold_micros,
        reply.hold_ends_at,
        replayed=reply.outcome is CacheVerdict.SEEN,
    )
