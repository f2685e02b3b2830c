"""start: may this user run this feature now?

Starts that wait at the same time are decided on their cached wallets in one Redis round trip. A wallet that isn't
cached is loaded first, once for all callers that wait for it. While Redis is away, Postgres decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from redis import RedisError

from app import tracing
from app.access.batcher import Batcher, Unanswered
from app.access.gate import Gate
from app.billing.ports import Balances, CurrentCatalog, HoldsToRelease, WalletsToCache
from app.domain.errors import (
    FeatureNotAvailable,
    IdempotencyConflict,
    ModelNotPriced,
    TooManyHolds,
    Unavailable,
    WalletNotFound,
)
from app.domain.processes import new_process_id
from app.domain.reasons import CacheVerdict
from app.domain.wallets import Access, WalletStatus, access, wallet_of
from app.stores.redis.wallet_calls import StartCall, StartReply

# A cached wallet may be evicted between its load and the next attempt.
LOOK_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class StartRequest:
    user_id: str
    feature_endpoint_id: str
    hold_micros: int = 0
    hold_seconds: int | None = None
    idempotency_key: str | None = None
    model: str | None = None

    @property
    def payload_hash(self) -> str:
        """Hash of the body. A repeated idempotency key has to come with the same one."""
        body: list[str | float | None] = [self.feature_endpoint_id, self.hold_micros, self.hold_seconds]
        if self.model is not None:
            body.append(self.model)
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StartAnswer:
    user_id: str
    spendable_micros: int
    access: Access
    process_id: str | None = None
    hold_micros: int = 0
    expires_at: datetime | None = None
    replayed: bool = False


class CachedWallets(Protocol):
    def start(self, calls: Sequence[StartCall], epoch: int) -> list[StartReply | None]:
        """Raises RedisError."""


class StartService:
    def __init__(
        self,
        *,
        balances: Balances,
        catalog: CurrentCatalog,
        cache: CachedWallets,
        loader: WalletsToCache,
        holds: HoldsToRelease,
        redis: Gate,
        hold_seconds_default: float,
        timeout_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._balances = balances
        self._catalog = catalog
        self._cache = cache
        self._loader = loader
        self._holds = holds
        self._redis = redis
        self._hold_seconds_default = hold_seconds_default
        self._now = now
        self._looks: Batcher[StartCall, StartReply | None] = Batcher(
            self._look, calls_max=200, timeout_seconds=timeout_seconds
        )

    def start(self, request: StartRequest) -> StartAnswer:
        """Raises WalletNotFound, FeatureNotAvailable, ModelNotPriced, IdempotencyConflict, TooManyHolds, or Unavailable
        (with Redis away a hold can't be granted).

        A repeated idempotency key is answered with the same run for as long as Redis remembers the key. While Redis is
        away, each repeat starts another run.
        """
        call = self._call(request)
        self._holds.release_owed()
        if not self._redis.is_open:
            return self._answer_from_postgres(request, call)
        try:
            reply = self._reply(call)
        except RedisError as error:
            self._redis.close(error)
            self._leave_unanswered(call)
            reply = None
        return self._answer_from_postgres(request, call) if reply is None else self._answer(request, call, reply)

    @property
    def waiting(self) -> int:
        """How many starts wait for the next Redis round trip."""
        return self._looks.waiting

    def _call(self, request: StartRequest) -> StartCall:
        catalog = self._catalog.current
        if catalog.refuses(request.feature_endpoint_id, request.model, self._now()):
            raise ModelNotPriced(data={"user_id": request.user_id, "status": Access.DENIED})
        feature = catalog.features.get(request.feature_endpoint_id)
        return StartCall(
            wallet_id=wallet_of(request.user_id),
            user_id=request.user_id,
            min_micros=0 if feature is None else feature.min_micros,
            packages=catalog.packages_with(request.feature_endpoint_id),
            process_id=new_process_id(request.user_id),
            hold_micros=request.hold_micros,
            hold_seconds=request.hold_seconds or self._hold_seconds_default,
            idempotency_key=request.idempotency_key,
            # Compared only for calls that have an idempotency key.
            payload_hash="" if request.idempotency_key is None else request.payload_hash,
        )

    def _look(self, calls: list[StartCall]) -> Sequence[StartReply | None]:
        with tracing.span("redis start", len(calls)):
            return self._cache.start(calls, self._catalog.epoch)

    def _reply(self, call: StartCall) -> StartReply | None:
        """The decision on the cached wallet, which is loaded if necessary. None if the wallet can't be cached."""
        try:
            for _ in range(LOOK_ATTEMPTS):
                reply = self._looks.submit(call)
                if reply is not None:
                    return reply
                if call.wallet_id in self._loader.load([call.wallet_id], self._catalog.epoch):
                    raise WalletNotFound
        except Unanswered as error:
            self._leave_unanswered(call)
            raise Unavailable from error
        return None

    def _leave_unanswered(self, call: StartCall) -> None:
        """Release the hold later that Redis may have granted to a call whose reply was lost.

        With an idempotency key the hold is kept: the caller's retry finds the run and its hold.
        """
        if call.hold_micros and call.idempotency_key is None:
            self._holds.release_later(call.wallet_id, call.process_id)

    def _answer(self, request: StartRequest, call: StartCall, reply: StartReply) -> StartAnswer:
        match reply.outcome:
            case CacheVerdict.NO_WALLET:
                raise WalletNotFound
            case CacheVerdict.NOT_IN_PACKAGE:
                raise _not_in_package(call.user_id, reply.spendable_micros)
            case CacheVerdict.DENIED:
                return StartAnswer(call.user_id, reply.spendable_micros, Access.DENIED)
            case CacheVerdict.TOO_MANY_HOLDS:
                raise TooManyHolds
        if reply.payload_hash != call.payload_hash:
            raise IdempotencyConflict
        return StartAnswer(
            call.user_id,
            reply.spendable_micros,
            Access.GRANTED,
            process_id=reply.process_id,
            hold_micros=call.hold_micros,
            expires_at=reply.hold_ends_at,
            replayed=reply.outcome is CacheVerdict.SEEN,
        )

    def _answer_from_postgres(self, request: StartRequest, call: StartCall) -> StartAnswer:
        found = self._balances.of([call.wallet_id]).get(call.wallet_id)
        if found is None or found.wallet.status is not WalletStatus.ACTIVE or found.wallet.package_id is None:
            raise WalletNotFound
        balance = found.balance
        if found.wallet.package_id not in call.packages:
            raise _not_in_package(request.user_id, balance.spendable_micros)
        verdict = access(balance, call.min_micros, call.hold_micros)
        if verdict is Access.DENIED:
            return StartAnswer(request.user_id, balance.spendable_micros, verdict)
        if call.hold_micros:
            # Only Redis can keep a hold, and a run must not start without the hold that it asked for.
            raise Unavailable
        return StartAnswer(request.user_id, balance.spendable_micros, verdict, process_id=call.process_id)


def _not_in_package(user_id: str, spendable_micros: int) -> FeatureNotAvailable:
    return FeatureNotAvailable(data={"user_id": user_id, "spendable_micros": spendable_micros, "status": Access.DENIED})
