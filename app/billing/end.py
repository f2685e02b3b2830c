"""end: a run used this much.

The price is pinned from the profit rule in force, the wallet is decided in one Lua call, and the end is written
to the inbox before anybody hears yes. Ends that wait at the same time share one Redis pipeline, one insert and
one message. From then on the end is billed exactly once, whatever dies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
import structlog
from redis import RedisError
from uuid_utils.compat import uuid7

from app.access.batcher import Batcher, Unanswered
from app.access.doorbell import Doorbell
from app.access.gate import Gate
from app.access.loader import WalletLoader
from app.access.postgres import PostgresAccess
from app.billing.holds import HoldService
from app.catalog.snapshot import CatalogSnapshot
from app.domain.ends import AcceptedEnd, EndAnswer, EndRequest
from app.domain.errors import (
    DomainError,
    FeatureNotAvailable,
    IdempotencyConflict,
    Unavailable,
    UnknownPayloadVersion,
    WalletNotFound,
)
from app.domain.pricing import Price, price
from app.domain.processes import check_owner
from app.domain.wallets import Balance, Deduction, deduction
from app.stores.postgres import balances, inbox, stale
from app.stores.redis.spool import Spool
from app.stores.redis.wallet_cache import WalletCache
from app.stores.redis.wallet_calls import EndMark, EndReply, mark_of

log = structlog.get_logger(__name__)

LOOK_ATTEMPTS = 3
# What a first answer is remembered with has 64 bits.
SPENDABLE_MICROS_MIN = -(2**63)
# As many as the batch call takes: whatever is in it is one commit.
ENDS_PER_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A validated, priced end on its way into the inbox."""

    id: UUID
    request: EndRequest
    price: Price
    past_cache: bool = False
    """Its wallet couldn't be cached: Postgres decides."""

    @property
    def mark(self) -> EndMark:
        return mark_of(self.request, self.id, self.price)

    def accepted(self, verdict: Deduction, spendable_micros: int) -> AcceptedEnd:
        return AcceptedEnd(
            id=self.id,
            request=self.request,
            price=self.price,
            deduction=verdict,
            spendable_micros=spendable_micros,
        )


class _NotCached(Exception):
    """The wallet has to be loaded before this end can be decided."""


@dataclass(slots=True)
class _Decision:
    """One candidate of a batch: either an answer already (`outcome`) or an end to record."""

    candidate: _Candidate
    end: AcceptedEnd | None = None
    outcome: EndAnswer | Exception | None = None
    mark: EndMark | None = None
    seen: bool = False
    is_bypass: bool = False
    """Decided without Redis because its gate is closed: what it holds of the wallet is older than this."""


class EndService:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        catalog: CatalogSnapshot,
        cache: WalletCache,
        spool: Spool,
        loader: WalletLoader,
        holds: HoldService,
        redis: Gate,
        doorbell: Doorbell,
        timeout_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._postgres = postgres
        self._catalog = catalog
        self._cache = cache
        self._spool = spool
        self._loader = loader
        self._holds = holds
        self._redis = redis
        self._doorbell = doorbell
        self._now = now
        self._commits: Batcher[_Candidate, EndAnswer] = Batcher(
            self._commit, calls_max=ENDS_PER_BATCH, timeout_seconds=timeout_seconds
        )

    def end(self, request: EndRequest) -> EndAnswer:
        """Accept one end. Raises WalletNotFound, FeatureNotAvailable, ProcessOfAnotherUser, IdempotencyConflict or
        Unavailable.
        """
        [result] = self.end_all([request])
        if isinstance(result, Exception):
            raise result
        return result

    def end_all(self, requests: Sequence[EndRequest]) -> list[EndAnswer | Exception]:
        """Accept many ends in their order; one that is refused stands as its error and leaves the others alone."""
        results: list[EndAnswer | Exception | None] = [None] * len(requests)
        waiting: dict[int, _Candidate] = {}
        for i, request in enumerate(requests):
            try:
                waiting[i] = self._candidate(request)
            except DomainError as error:
                results[i] = error
        self._accept(waiting, results)
        return [result if result is not None else Unavailable() for result in results]

    def _accept(self, waiting: dict[int, _Candidate], results: list[EndAnswer | Exception | None]) -> None:
        """Commit what waits and enter each result at its place; without one it couldn't be decided."""
        for attempts_left in reversed(range(LOOK_ATTEMPTS)):
            if not waiting:
                return
            if not attempts_left:
                for i, candidate in waiting.items():
                    waiting[i] = replace(candidate, past_cache=True)
            for i, result in zip(waiting.copy(), self._commits.submit_all(list(waiting.values())), strict=True):
                if not isinstance(result, _NotCached):
                    results[i] = Unavailable() if isinstance(result, Unanswered) else result
                    del waiting[i]
            self._cache_wallets(waiting, results)
        waiting.clear()

    def _candidate(self, request: EndRequest) -> _Candidate:
        check_owner(request.process_id, request.user_id)
        catalog = self._catalog.current
        if request.feature_endpoint_id not in catalog.features:
            raise FeatureNotAvailable
        rule = catalog.rule_for(request.feature_endpoint_id, request.model, self._now())
        return _Candidate(
            id=uuid7(),
            request=request,
            price=price(request.output_tokens, rule),
        )

    def _cache_wallets(self, waiting: dict[int, _Candidate], results: list[EndAnswer | Exception | None]) -> None:
        user_ids = {candidate.request.user_id for candidate in waiting.values()}
        if not user_ids:
            return
        try:
            missing = self._loader.load(user_ids, self._catalog.epoch)
        except RedisError as error:
            # The next round decides from Postgres.
            self._redis.close(error)
            return
        except Unavailable as error:
            for i in waiting:
                results[i] = error
            waiting.clear()
            return
        for i, candidate in list(waiting.items()):
            if candidate.request.user_id in missing:
                results[i] = WalletNotFound()
                del waiting[i]

    # One batch -------------------------------------------------------------------------------------------

    def _commit(self, candidates: list[_Candidate]) -> Sequence[EndAnswer | Exception]:
        decisions = self._decide(candidates)
        to_record = [decision for decision in decisions if decision.end is not None]
        if to_record:
            self._record_or_give_back(to_record)
            self._release_later(to_record)
            self._ring(to_record)
        return [_outcome(decision) for decision in decisions]

    def _record_or_give_back(self, decisions: list[_Decision]) -> None:
        try:
            self._record(decisions)
        except (Unavailable, sa.exc.SQLAlchemyError) as error:
            if len(decisions) > 1 and not isinstance(error, Unavailable):
                # Postgres refuses something in this batch: only that one shall fail.
                for decision in decisions:
                    self._record_or_give_back([decision])
                return
            undecided = [decision for decision in decisions if decision.outcome is None]
            self._unmark(undecided)
            for decision in undecided:
                decision.outcome = error

    def _decide(self, candidates: list[_Candidate]) -> list[_Decision]:
        self._holds.release_owed()
        cached = [candidate for candidate in candidates if not candidate.past_cache] if self._redis.is_open else []
        try:
            replies = self._cache.end([c.mark for c in cached], self._catalog.epoch)
        except RedisError as error:
            self._redis.close(error)
            return self._decide_from_postgres(candidates)
        decided = {c.id: _decided(c, reply) for c, reply in zip(cached, replies, strict=True)}
        others = [candidate for candidate in candidates if candidate.id not in decided]
        if others:
            decided |= {d.candidate.id: d for d in self._decide_from_postgres(others)}
        return [decided[candidate.id] for candidate in candidates]

    def _decide_from_postgres(self, candidates: list[_Candidate]) -> list[_Decision]:
        try:
            wallets = self._postgres.run(
                lambda connection: balances.balances(connection, {c.request.user_id for c in candidates})
            )
        except Unavailable as error:
            return [_Decision(candidate, outcome=error) for candidate in candidates]
        is_bypass = not self._redis.is_open
        decisions = []
        taken_micros: dict[str, int] = defaultdict(int)
        for candidate in candidates:
            wallet = wallets.get(candidate.request.user_id)
            if wallet is None:
                decisions.append(_Decision(candidate, outcome=WalletNotFound()))
                continue
            balance = Balance(
                wallet.posted_micros,
                wallet.pending_micros + taken_micros[wallet.user_id],
                wallet.debt_micros,
                overdraft_limit_micros=wallet.overdraft_limit_micros,
            )
            taken_micros[wallet.user_id] += candidate.price.cost_micros
            verdict = deduction(balance, candidate.price.cost_micros)
            spendable_micros = max(balance.spendable_micros - candidate.price.cost_micros, SPENDABLE_MICROS_MIN)
            if candidate.request.is_free:
                decisions.append(_free(candidate, spendable_micros))
                if candidate.request.process_id is not None:
                    self._holds.release_later(wallet.user_id, candidate.request.process_id)
                continue
            end = candidate.accepted(verdict, spendable_micros)
            decisions.append(_Decision(candidate, end=end, is_bypass=is_bypass))
        return decisions

    def _record(self, decisions: list[_Decision]) -> None:
        """Make the batch durable and give each decision its outcome.

        Raises Unavailable: nothing was recorded; SQLAlchemyError: Postgres refuses one of these.
        """
        ends: dict[UUID, AcceptedEnd] = {}
        for decision in decisions:
            if decision.end is not None:
                # A repeat has the id of the end it repeats, which is recorded as it came first.
                ends.setdefault(decision.end.id, decision.end)
        around = {d.candidate.request.user_id for d in decisions if d.mark is None and not d.seen}

        def unrecorded_before(recorded: set[UUID]) -> set[str]:
            # Who saw their key first never recorded them, and their marks may be given back at this moment.
            marked_here = {d.mark.end_id for d in decisions if d.mark is not None}
            return {
                d.candidate.request.user_id for d in decisions if d.seen and d.candidate.id in recorded - marked_here
            }

        def insert(connection: sa.Connection) -> set[UUID]:
            recorded = inbox.insert(connection, list(ends.values()))
            # Redis, once it is back, doesn't know of ends decided around it.
            if users := around | unrecorded_before(recorded):
                stale.demand_refresh(connection, users)
            return recorded

        try:
            fresh = self._postgres.run(insert)
        except Unavailable:
            self._keep_in_spool(decisions)
            return
        finally:
            if any(decision.is_bypass for decision in decisions):
                self._redis.bypass()
        for decision in decisions:
            end = decision.end
            # An end without a key that isn't fresh was recorded by an attempt whose answer got lost.
            if end is not None and (end.id in fresh or not end.request.repeatable):
                decision.outcome = _answer(end, replayed=decision.seen)
        self._land([decision for decision in decisions if decision.outcome is not None], unrecorded_before(fresh))
        known = [decision for decision in decisions if decision.outcome is None]
        if known:
            self._replay(known)

    def _replay(self, decisions: list[_Decision]) -> None:
        """Answer the ends whose keys are known as they were answered first, or refuse another body."""
        requests = [decision.candidate.request for decision in decisions]
        found = self._postgres.run(
            lambda connection: inbox.find_keys(
                connection,
                {r.idempotency_key for r in requests if r.idempotency_key is not None},
                {r.process_id for r in requests if r.process_id is not None},
            )
        )
        known = inbox.KnownEnds(found)
        for decision in decisions:
            request = decision.candidate.request
            matches = known.sharing_a_key_with(request)
            refusals = [error for end in matches if (error := _refusal(request, end.payload_hash))]
            if refusals:
                decision.outcome = refusals[0]
            elif matches:
                first = matches[0]
                decision.outcome = EndAnswer(
                    first.user_id,
                    first.spendable_micros,
                    first.cost_micros,
                    first.deduction,
                    replayed=decision.seen or first.end_id != decision.candidate.id,
                )
        recorded = {end.end_id for end in found}
        self._land([decision for decision in decisions if decision.candidate.id in recorded])
        self._unmark([decision for decision in decisions if decision.candidate.id not in recorded])

    def _keep_in_spool(self, decisions: list[_Decision]) -> None:
        """Postgres is away: what Redis has decided Redis keeps, until the spool is drained into the inbox."""
        kept = [decision for decision in decisions if decision.mark is not None or decision.seen]
        if not kept or not self._redis.is_open:
            raise Unavailable
        try:
            self._spool.put(decision.end for decision in kept if decision.end is not None)
        except RedisError as error:
            self._redis.close(error)
            raise Unavailable from error
        for decision in decisions:
            # What Postgres decided it didn't take any more: that alone is refused.
            decision.outcome = Unavailable()
        for decision in kept:
            if decision.end is not None:
                decision.outcome = _answer(decision.end, replayed=decision.seen)
        self._land(kept)

    def _land(self, decisions: list[_Decision], doubtful: Set[str] = frozenset()) -> None:
        """These ends are durable. Where their mark is gone meanwhile, the wallet is corrected; so are the doubtful."""
        marks = [decision.mark for decision in decisions if decision.mark is not None]
        if not marks and not doubtful:
            return
        try:
            lost = doubtful | self._cache.land([(mark.end_id, mark.user_id) for mark in marks])
            if lost:
                self._loader.refresh(lost)
        except RedisError as error:
            self._redis.close(error)
        except Unavailable:
            log.warning("refresh_postponed", users=len(lost))

    def _unmark(self, decisions: list[_Decision]) -> None:
        marks = [decision.mark for decision in decisions if decision.mark is not None]
        if not marks:
            return
        try:
            self._cache.unmark(marks)
        except RedisError as error:
            # A new epoch begins when Redis is back, and forgets these marks in time.
            self._redis.close(error)

    def _release_later(self, decisions: list[_Decision]) -> None:
        """Runs that ended while Redis was away may have holds there."""
        for decision in decisions:
            request = decision.candidate.request
            decided_around_redis = decision.mark is None and not decision.seen
            if decided_around_redis and request.process_id is not None and isinstance(decision.outcome, EndAnswer):
                self._holds.release_later(request.user_id, request.process_id)

    def _ring(self, decisions: list[_Decision]) -> None:
        recorded = [d.end for d in decisions if d.end is not None and isinstance(d.outcome, EndAnswer)]
        if recorded:
            # Also those that aren't covered: settlement makes them part of what their wallet owes.
            self._doorbell.settle([end.id for end in recorded])


def _decided(candidate: _Candidate, reply: EndReply | None) -> _Decision:
    if reply is None:
        return _Decision(candidate, outcome=_NotCached())
    if candidate.request.is_free:
        return _free(candidate, reply.spendable_micros)
    if reply.seen and (refusal := _refusal(candidate.request, reply.payload_hash)):
        return _Decision(candidate, outcome=refusal)
    if reply.seen:
        # Recorded again under the first call's id: if that call died before it was durable, this one makes it so.
        candidate = replace(
            candidate,
            id=reply.end_id,
            price=reply.price,
        )
    return _Decision(
        candidate,
        end=candidate.accepted(reply.deduction, reply.spendable_micros),
        mark=None if reply.seen else candidate.mark,
        seen=reply.seen,
    )


def _free(candidate: _Candidate, spendable_micros: int) -> _Decision:
    """A run that used nothing costs nothing and leaves no record; its hold has ended all the same."""
    return _Decision(candidate, outcome=EndAnswer(candidate.request.user_id, spendable_micros, 0, Deduction.COVERED))


def _refusal(request: EndRequest, payload_hash: str) -> DomainError | None:
    """Why a request can't have the answer that its key was given first, if that came with another body."""
    try:
        return None if request.has_payload(payload_hash) else IdempotencyConflict()
    except UnknownPayloadVersion as error:
        return error


def _answer(end: AcceptedEnd, *, replayed: bool) -> EndAnswer:
    return EndAnswer(end.request.user_id, end.spendable_micros, end.price.cost_micros, end.deduction, replayed=replayed)


def _outcome(decision: _Decision) -> EndAnswer | Exception:
    return decision.outcome if decision.outcome is not None else Unavailable()
