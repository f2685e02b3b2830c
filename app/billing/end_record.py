"""Making decided ends durable: in the inbox, or in the spool while Postgres is away.

An end that can't be made durable is refused, and its mark is removed from the cached wallet. An end that Postgres
refuses doesn't affect the other ends of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from typing import Protocol
from uuid import UUID

import structlog
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.access.gate import Gate
from app.billing.end_outcomes import Decided, Origin, Recorded, Refused, Replayed, reuse_of_key
from app.domain.ends import AcceptedEnd, EndAnswer, EndRequest
from app.domain.errors import Unavailable
from app.domain.wallets import WalletId
from app.stores.postgres.inbox import KnownEnd, KnownEnds
from app.stores.redis.wallet_calls import EndMark

log = structlog.get_logger(__name__)


class Intake(Protocol):
    def record(self, ends: Sequence[AcceptedEnd], outdated: Callable[[set[UUID]], Set[WalletId]]) -> set[UUID]: ...

    def known(self, requests: Sequence[EndRequest]) -> Sequence[KnownEnd]: ...


class InFlight(Protocol):
    def land(self, ends: Sequence[tuple[UUID, WalletId]]) -> set[WalletId]: ...


class Marks(Protocol):
    def unmark(self, marks: Sequence[EndMark]) -> None: ...


class Copies(Protocol):
    def refresh(self, wallet_ids: Collection[WalletId]) -> None: ...


class Spool(Protocol):
    def put(self, ends: Iterable[AcceptedEnd]) -> object: ...


class EndRecorder:
    def __init__(
        self, *, intake: Intake, cache: Marks, in_flight: InFlight, loader: Copies, spool: Spool, redis: Gate
    ) -> None:
        self._intake = intake
        self._cache = cache
        self._in_flight = in_flight
        self._loader = loader
        self._spool = spool
        self._redis = redis

    def record(self, decisions: Sequence[Decided]) -> list[Recorded | Replayed | Refused]:
        """The outcome of each end, in order."""
        try:
            fresh = self._insert(decisions)
        except Unavailable:
            return self._keep_in_spool(decisions)
        except SQLAlchemyError as error:
            # Postgres refuses one of these ends: record them one by one, so that only that end fails.
            return self._one_by_one(self.record, decisions, error)

        def is_known(decision: Decided) -> bool:
            # An end without a key can't be a repeat. If its id isn't fresh, an attempt of this same call has recorded
            # it, and only the reply was lost.
            return decision.end.request.repeatable and decision.end.id not in fresh

        self._land([d for d in decisions if not is_known(d)], _unrecorded_before(decisions, fresh))
        replays = iter(self._replay([d for d in decisions if is_known(d)]))
        return [next(replays) if is_known(d) else d.answered() for d in decisions]

    def _insert(self, decisions: Sequence[Decided]) -> set[UUID]:
        """Insert a batch into the inbox. Returns the ids that are new.

        Raises Unavailable (nothing was recorded) or SQLAlchemyError (Postgres refuses one of the ends).
        """
        ends: dict[UUID, AcceptedEnd] = {}
        for decision in decisions:
            # A repeat has the id of the end that it repeats; the first of the two is recorded.
            ends.setdefault(decision.end.id, decision.end)
        # Redis has no marks of ends that Postgres decided, so the cached copies of these wallets are outdated.
        around = {d.wallet_id for d in decisions if not d.origin.is_redis}
        try:
            return self._intake.record(
                list(ends.values()), lambda recorded: around | _unrecorded_before(decisions, recorded)
            )
        finally:
            if any(decision.origin is Origin.PAST_REDIS for decision in decisions):
                self._redis.bypass()

    def _replay(self, decisions: Sequence[Decided]) -> list[Recorded | Replayed | Refused]:
        """Answer ends with known keys as the first time, or refuse them if they come with another body."""
        if not decisions:
            return []
        try:
            found = self._intake.known([decision.end.request for decision in decisions])
        except Unavailable as error:
            self._unmark(decisions)
            return [Refused(error) for _ in decisions]
        except SQLAlchemyError as error:
            return self._one_by_one(self._replay, decisions, error)
        known = KnownEnds(found)
        outcomes = [_known_outcome(decision, known) for decision in decisions]
        recorded = {end.end_id for end in found}
        self._land([decision for decision in decisions if decision.end.id in recorded])
        self._unmark([decision for decision in decisions if decision.end.id not in recorded])
        return outcomes

    def _keep_in_spool(self, decisions: Sequence[Decided]) -> list[Recorded | Replayed | Refused]:
        """While Postgres is away, keep the ends that Redis decided in the spool, until it is drained into the inbox.

        Ends that Postgres decided, just before it went away, are refused.
        """
        kept = [decision for decision in decisions if decision.origin.is_redis]
        if kept and self._redis.is_open:
            try:
                self._spool.put(decision.end for decision in kept)
            except RedisError as error:
                self._redis.close(error)
            else:
                self._land(kept)
                return [d.answered() if d.origin.is_redis else Refused(Unavailable()) for d in decisions]
        self._unmark(decisions)
        return [Refused(Unavailable()) for _ in decisions]

    def _one_by_one(
        self,
        again: Callable[[Sequence[Decided]], list[Recorded | Replayed | Refused]],
        decisions: Sequence[Decided],
        error: SQLAlchemyError,
    ) -> list[Recorded | Replayed | Refused]:
        if len(decisions) > 1:
            return [outcome for decision in decisions for outcome in again([decision])]
        self._unmark(decisions)
        return [Refused(error)]

    def _land(self, decisions: Sequence[Decided], doubtful: Set[WalletId] = frozenset()) -> None:
        """Take durable ends out of flight. Refresh the cached wallets that have lost a mark meanwhile, and `doubtful`
        ones.
        """
        marks = _marks(decisions)
        if not marks and not doubtful:
            return
        try:
            lost = doubtful | self._in_flight.land([(mark.end_id, mark.wallet_id) for mark in marks])
            if lost:
                self._loader.refresh(lost)
        except RedisError as error:
            self._redis.close(error)
        except Unavailable:
            log.warning("refresh_postponed", wallets=len(lost))

    def _unmark(self, decisions: Sequence[Decided]) -> None:
        marks = _marks(decisions)
        if not marks:
            return
        try:
            self._cache.unmark(marks)
        except RedisError as error:
            # These marks stay in flight; `StrandedMarks` in app/upkeep removes them once Redis is back.
            self._redis.close(error)


def _marks(decisions: Sequence[Decided]) -> list[EndMark]:
    return [mark for decision in decisions if (mark := decision.mark) is not None]


def _unrecorded_before(decisions: Sequence[Decided], recorded: Set[UUID]) -> set[WalletId]:
    """The wallets of repeats that were the first to record their end: the call that marked it never recorded it, so the
    mark may just be taken back as stranded.
    """
    marked_here = {d.end.id for d in decisions if d.origin is Origin.MARKED}
    return {d.wallet_id for d in decisions if d.origin is Origin.SEEN and d.end.id in recorded - marked_here}


def _known_outcome(decision: Decided, known: KnownEnds) -> Recorded | Replayed | Refused:
    request = decision.end.request
    matches = known.sharing_a_key_with(request)
    for match in matches:
        if error := reuse_of_key(request, match.payload_hash):
            return Refused(error)
    if not matches:
        # Only if somebody has just deleted the keys by hand.
        return Refused(Unavailable())
    first = matches[0]
    if first.end_id == decision.end.id:
        # Recorded by an attempt whose reply was lost: of this call, or of the call that it repeats.
        return decision.answered()
    return Replayed(first.end_id, EndAnswer(first.user_id, first.spendable_micros, first.cost_micros, first.deduction))
