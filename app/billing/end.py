"""end: a run used this much.

The steps of an end: its price is pinned by the rate card and the profit rule in force; a Lua script decides whether its
wallet covers it (`end_decide`); it is made durable (`end_record`); the workers are told; then the caller is answered.
Ends that wait at the same time share one Redis pipeline, one insert and one message. Once an end is durable it is
billed exactly once, whichever process dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from redis import RedisError
from uuid_utils.compat import uuid7

from app import tracing
from app.access.batcher import Batcher, Unanswered
from app.access.gate import Gate
from app.billing.end_decide import EndDecider
from app.billing.end_outcomes import Decided, NotCached, Outcome, Priced, Recorded, Refused, Replayed, answer_of
from app.billing.end_record import EndRecorder
from app.billing.ports import CacheEpoch, HoldsToRelease, WalletsToCache
from app.billing.pricer import Pricer
from app.domain.ends import EndAnswer, EndRequest
from app.domain.errors import DomainError, Unavailable, WalletNotFound
from app.domain.processes import check_owner
from app.domain.wallets import wallet_of

LOOK_ATTEMPTS = 3
# The maximum of one end/batch call, so that the ends of a call share one commit.
ENDS_PER_BATCH = 1_000


class Bell(Protocol):
    def settle(self, end_ids: Sequence[UUID]) -> None: ...


class EndService:
    def __init__(
        self,
        *,
        pricer: Pricer,
        catalog: CacheEpoch,
        decider: EndDecider,
        recorder: EndRecorder,
        loader: WalletsToCache,
        holds: HoldsToRelease,
        redis: Gate,
        doorbell: Bell,
        timeout_seconds: float,
    ) -> None:
        self._pricer = pricer
        self._catalog = catalog
        self._decider = decider
        self._recorder = recorder
        self._loader = loader
        self._holds = holds
        self._redis = redis
        self._doorbell = doorbell
        self._commits: Batcher[Priced, Outcome] = Batcher(
            self._commit, calls_max=ENDS_PER_BATCH, timeout_seconds=timeout_seconds
        )

    @property
    def waiting(self) -> int:
        """How many ends wait for the next commit."""
        return self._commits.waiting

    def end(self, request: EndRequest) -> EndAnswer:
        """Accept one end. Raises WalletNotFound, FeatureNotAvailable, ProcessOfAnotherUser, IdempotencyConflict or
        Unavailable.
        """
        [result] = self.end_all([request])
        if isinstance(result, Exception):
            raise result
        return result

    def end_all(self, requests: Sequence[EndRequest]) -> list[EndAnswer | Exception]:
        """Accept many ends, in order. The result of a refused end is its error; it doesn't affect the other ends."""
        results: list[EndAnswer | Exception | None] = [None] * len(requests)
        waiting: dict[int, Priced] = {}
        for i, request in enumerate(requests):
            try:
                waiting[i] = self._priced(request)
            except DomainError as error:
                results[i] = error
        self._accept(waiting, results)
        return [result if result is not None else Unavailable() for result in results]

    def _priced(self, request: EndRequest) -> Priced:
        check_owner(request.process_id, request.user_id)
        quote = self._pricer.quote(request.feature_endpoint_id, request.model, request.usage)
        end_id = uuid7()
        tracing.remember(end_id)
        return Priced(id=end_id, request=request, wallet_id=wallet_of(request.user_id), price=quote.price)

    def _accept(self, waiting: dict[int, Priced], results: list[EndAnswer | Exception | None]) -> None:
        """Commit the waiting ends and enter each result at its index. Wallets that aren't cached are loaded and their
        ends tried again; in the last attempt Postgres decides them.
        """
        for attempts_left in reversed(range(LOOK_ATTEMPTS)):
            if not waiting:
                return
            if not attempts_left:
                for i, end in waiting.items():
                    waiting[i] = replace(end, past_cache=True)
            for i, outcome in zip(waiting.copy(), self._commits.submit_all(list(waiting.values())), strict=True):
                if isinstance(outcome, NotCached):
                    continue
                del waiting[i]
                if isinstance(outcome, Unanswered):
                    results[i] = Unavailable()
                else:
                    results[i] = outcome if isinstance(outcome, Exception) else answer_of(outcome)
            self._cache_wallets(waiting, results)

    def _commit(self, ends: list[Priced]) -> Sequence[Outcome]:
        """Process one batch of ends, of any number of callers: decide, make durable, tell the workers."""
        with tracing.run_of("commit ends", (end.id for end in ends)):
            return self._decide_and_record(ends)

    def _decide_and_record(self, ends: list[Priced]) -> Sequence[Outcome]:
        with tracing.span("redis end", len(ends)):
            decisions = self._decider.decide(ends, self._catalog.epoch)
        to_record = [decision for decision in decisions if isinstance(decision, Decided)]
        recorded: list[Recorded | Replayed | Refused] = []
        if to_record:
            with tracing.span("postgres record ends", len(to_record)):
                recorded = self._recorder.record(to_record)
        self._release_later(to_record, recorded)
        self._ring(recorded)
        outcomes = iter(recorded)
        return [next(outcomes) if isinstance(decision, Decided) else decision for decision in decisions]

    def _release_later(self, decisions: Sequence[Decided], outcomes: Sequence[Outcome]) -> None:
        """Have the holds released of runs whose ends Postgres decided: Redis may still have them."""
        for decision, outcome in zip(decisions, outcomes, strict=True):
            process_id = decision.end.request.process_id
            if process_id is not None and not decision.origin.is_redis and not isinstance(outcome, Refused):
                self._holds.release_later(decision.wallet_id, process_id)

    def _ring(self, outcomes: Sequence[Outcome]) -> None:
        """Tell the workers of ends to settle, covered or not: settlement turns uncovered ends into debt."""
        end_ids = []
        for outcome in outcomes:
            match outcome:
                case Recorded(end):
                    end_ids.append(end.id)
                case Replayed(end_id):
                    # The message about the first call may have been lost.
                    end_ids.append(end_id)
        if end_ids:
            self._doorbell.settle(end_ids)

    def _cache_wallets(self, waiting: dict[int, Priced], results: list[EndAnswer | Exception | None]) -> None:
        wallet_ids = {end.wallet_id for end in waiting.values()}
        if not wallet_ids:
            return
        try:
            missing = self._loader.load(wallet_ids, self._catalog.epoch)
        except RedisError as error:
            # The gate is closed now: in the next attempt Postgres decides.
            self._redis.close(error)
            return
        except Unavailable as error:
            for i in waiting:
                results[i] = error
            waiting.clear()
            return
        for i, end in list(waiting.items()):
            if end.wallet_id in missing:
                results[i] = WalletNotFound()
                del waiting[i]
