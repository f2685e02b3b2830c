"""Making decided ends durable: in the inbox, or in the spool while Postgres is away.

What can't be made durable is refused, and its mark is taken back from the cached wallet. What is refused for a reason
of its own is refused alone.
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
        """The outcome of each, in order."""
        try:
            fresh = self._insert(decisions)
        except Unavailable:
            return self._keep_in_spool(decisions)
        except SQLAlchemyError as error:
            # Postgres refuses something in this batch: only that one shall fail.
            return self._one_by_one(self.record, decisions, error)

        def is_known(decision: Decided) -> bool:
            # An end without a key that isn't fresh was recorded by an attempt whose answer got lost.
            return decision.end.request.repeatable and decision.end.id not in fresh

        self._land([d for d in decisions if not is_known(d)], _unrecorded_before(decisions, fresh))
        replays = iter(self._replay([d for d in decisions if is_known(d)]))
        return [next(replays) if is_known(d) else d.answered() for d in decisions]

    def _insert(self, decisions: Sequence[Decided]) -> set[UUID]:
        """Put a batch into the inbox; the ids that weren't known.

        Raises Unavailable: nothing was recorded; SQLAlchemyError: Postgres refuses one of these.
        """
        ends: dict[UUID, AcceptedEnd] = {}
        for decision in decisions:
            # A repeat has the id of the end it repeats, which is recorded as it came first.
            ends.setdefault(decision.end.id, decision.end)
        # Redis, once it is back, doesn't know of ends decided around it.
        around = {d.wallet_id for d in decisions if not d.origin.is_redis}
        try:
            return self._intake.record(
                list(ends.values()), lambda recorded: around | _unrecorded_before(decisions, recorded)
            )
        finally:
            if any(decision.origin is Origin.PAST_REDIS for decision in decisions):
                self._redis.bypass()

    def _replay(self, decisions: Sequence[Decided]) -> list[Recorded | Replayed | Refused]:
        """Answer the ends whose keys are known as they were answered first, or refuse another body."""
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
        """Postgres is away: what Redis has decided Redis keeps, until the spool is drained into the inbox.

        What Postgres decided it didn't take any more: that alone is refused.
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
        """These ends are durable. Where their mark is gone meanwhile, the wallet is corrected; so are the doubtful."""
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
            # A new epoch begins when Redis is back, and forgets these marks in time.
            self._redis.close(error)


def _marks(decisions: Sequence[Decided]) -> list[EndMark]:
    return [mark for decision in decisions if (mark := decision.mark) is not None]


def _unrecorded_before(decisions: Sequence[Decided], recorded: Set[UUID]) -> set[WalletId]:
    """Wallets of repeats by which an end was recorded for the first time: who saw its key first never did, and that
    mark may be given back at this moment.
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
        # Its keys were deleted by hand this moment.
        return Refused(Unavailable())
    first = matches[0]
    if first.end_id == decision.end.id:
        # Recorded by an attempt whose answer got lost: this call's own, or that of the one it repeats.
        return decision.answered()
    return Replayed(first.end_id, EndAnswer(first.user_id, first.spendable_micros, first.cost_micros, first.deduction))
