"""Ends that Redis kept while Postgres was away: into the inbox, each by its own keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol, TypeVar
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.billing.settlements import SettleReport
from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.errors import UnknownPayloadVersion, WalletBusy
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.stores.postgres import inbox, spool_aside
from app.stores.postgres.inbox import KnownEnd, KnownEnds
from app.stores.postgres.spool_aside import Aside
from app.stores.redis.wallet_calls import EndMark, mark_of
from app.stores.spool_entry import SpoolEntry, UnreadableEntry

log = structlog.get_logger(__name__)

ENDS_PER_DRAIN = 500
# How often what was put aside is tried again.
ASIDE_AGAIN_SECONDS = 60

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Moved:
    """What of the spool stands in the inbox now, or has stood there."""

    end_ids: Sequence[UUID] = ()
    repeated: Sequence[AcceptedEnd] = ()
    reused: Sequence[AcceptedEnd] = ()

    def __add__(self, other: _Moved) -> _Moved:
        return _Moved([*self.end_ids, *other.end_ids], [*self.repeated, *other.repeated], [*self.reused, *other.reused])


class Inbox(Protocol):
    """Where ends go, and where those that can't go there are kept, in one transaction."""

    def insert(self, ends: Sequence[AcceptedEnd]) -> set[UUID]: ...

    def known(self, requests: Sequence[EndRequest]) -> Sequence[KnownEnd]: ...

    def bury_reused(self, ends: Sequence[AcceptedEnd]) -> None: ...

    def put_aside(self, entries: Mapping[SpoolEntry, Aside]) -> None: ...

    def take_back(self, entries: Collection[SpoolEntry]) -> None: ...

    def put_aside_before(self, seconds: float, limit: int) -> Sequence[SpoolEntry]: ...


class Transactions(Protocol):
    """Committed when it returns. Raises Unavailable, WalletBusy or SQLAlchemyError, and what `work` raises."""

    def transaction(self, work: Callable[[Inbox], T]) -> T: ...


class KeptEnds(Protocol):
    """Raises RedisError."""

    def take(self, limit: int) -> Sequence[SpoolEntry]: ...

    def remove(self, entries: Collection[SpoolEntry]) -> None: ...


class Marks(Protocol):
    def unmark(self, marks: Sequence[EndMark]) -> None: ...


class Answers(Protocol):
    def void(self, ends: Mapping[WalletId, Sequence[UUID]]) -> None: ...


class Settlement(Protocol):
    def settle(self, end_ids: Sequence[UUID]) -> SettleReport: ...


class SpoolDrain:
    def __init__(
        self,
        *,
        inbox: Transactions,
        cache: Marks,
        records: Answers,
        spool: KeptEnds,
        settlement: Settlement,
    ) -> None:
        self._inbox = inbox
        self._cache = cache
        self._records = records
        self._spool = spool
        self._settlement = settlement

    def drain(self, tell: Callable[[SettleReport], object] = lambda _: None) -> int:
        """Move what Redis kept while Postgres was away into the inbox, and settle it; how many ends there were. What
        became of them is told to `tell`.

        An entry that can't be read, or that Postgres refuses, is put aside into Postgres and tried again each minute.
        Safe from several workers at once and after dying half-way: ids stay the same, and an end leaves the spool
        only when it is recorded. Raises Unavailable or RedisError.
        """
        drained = 0
        while entries := self._spool.take(ENDS_PER_DRAIN):
            drained += self._drain(entries, tell)
        due = self._inbox.transaction(lambda inbox: inbox.put_aside_before(ASIDE_AGAIN_SECONDS, ENDS_PER_DRAIN))
        return drained + (self._drain(due, tell) if due else 0)

    def _drain(self, entries: Sequence[SpoolEntry], tell: Callable[[SettleReport], object]) -> int:
        """Bring entries into the inbox, and those that can't go there out of the way; how many went there."""
        ends: dict[SpoolEntry, AcceptedEnd] = {}
        unreadable: dict[SpoolEntry, Aside] = {}
        for entry in entries:
            try:
                ends[entry] = entry.read()
            except UnreadableEntry as error:
                unreadable[entry] = Aside(FailureReason.UNREADABLE, str(error))
        if unreadable:
            self._inbox.transaction(lambda inbox: inbox.put_aside(unreadable))
            _log_put_aside(unreadable)
        moved = self._move(ends) if ends else _Moved()
        # Their keys had billed before, under another id: these marks stand for nothing.
        self._cache.unmark([mark_of(end.request, end.wallet_id, end.id, end.price) for end in moved.repeated])
        # Their keys are those of others, whose repeats mustn't meet their bodies.
        reused: dict[WalletId, list[UUID]] = defaultdict(list)
        for end in moved.reused:
            reused[end.wallet_id].append(end.id)
        self._records.void(reused)
        self._spool.remove(entries)
        tell(self._settlement.settle(moved.end_ids))
        if moved.end_ids:
            log.info("spool_drained", ends=len(moved.end_ids), repeated=len(moved.repeated))
        return len(moved.end_ids)

    def _move(self, ends: Mapping[SpoolEntry, AcceptedEnd]) -> _Moved:
        """Record ends in one transaction. What the database refuses, or a locked wallet keeps from becoming debt, is
        found by halving, and put aside alone.
        """
        try:
            return self._inbox.transaction(partial(_record, ends=ends))
        except (sa.exc.SQLAlchemyError, WalletBusy) as error:
            if len(ends) > 1:
                half = list(ends)[: len(ends) // 2]
                first = {entry: ends[entry] for entry in half}
                rest = {entry: end for entry, end in ends.items() if entry not in first}
                return self._move(first) + self._move(rest)
            refused = dict.fromkeys(ends, _refusal(error))
            self._inbox.transaction(lambda inbox: inbox.put_aside(refused))
            _log_put_aside(refused)
            return _Moved()


class _Verdict(Enum):
    """What the known keys of a spooled end say of it."""

    RECORDED = "by a drain that died before it could clear the spool"
    REPEATED = "billed before, under another id"
    REUSED = "another body"
    UNKNOWN = "only a newer version can compare the bodies"


def _record(inbox: Inbox, ends: Mapping[SpoolEntry, AcceptedEnd]) -> _Moved:
    """Put ends into the inbox, each by what its own keys tell of it."""
    fresh = inbox.insert(list(ends.values()))
    known = {entry: end for entry, end in ends.items() if end.id not in fresh and end.request.repeatable}
    verdicts = _verdicts(inbox, list(known.values())) if known else {}
    reused = [end for end in known.values() if verdicts[end.id] is _Verdict.REUSED]
    if reused:
        # We said yes to another body under a used key, as nobody could know the key then. It isn't dropped unseen.
        inbox.bury_reused(reused)
    aside = {
        entry: Aside(FailureReason.NEWER_PAYLOAD)
        for entry, end in known.items()
        if verdicts[end.id] is _Verdict.UNKNOWN
    }
    if aside:
        inbox.put_aside(aside)
    moved = {entry: end for entry, end in ends.items() if entry not in aside}
    inbox.take_back(moved)
    return _Moved(
        [end.id for end in moved.values()],
        [end for end in known.values() if verdicts[end.id] is _Verdict.REPEATED],
        reused,
    )


def _verdicts(inbox: Inbox, ends: Sequence[AcceptedEnd]) -> dict[UUID, _Verdict]:
    found = KnownEnds(inbox.known([end.request for end in ends]))
    return {end.id: _verdict(end, found.sharing_a_key_with(end.request)) for end in ends}


def _verdict(end: AcceptedEnd, firsts: Sequence[KnownEnd]) -> _Verdict:
    if any(first.end_id == end.id for first in firsts):
        return _Verdict.RECORDED
    try:
        is_same = all(end.request.has_payload(first.payload_hash) for first in firsts)
    except UnknownPayloadVersion:
        return _Verdict.UNKNOWN
    # Without any its keys were deleted by hand this moment: it is tried again.
    return (_Verdict.REPEATED if is_same else _Verdict.REUSED) if firsts else _Verdict.UNKNOWN


def _refusal(error: sa.exc.SQLAlchemyError | WalletBusy) -> Aside:
    if isinstance(error, WalletBusy):
        return Aside(FailureReason.WALLET_BUSY)
    return Aside(FailureReason.DATABASE_REFUSED, str(getattr(error, "orig", None) or error))


def _log_put_aside(entries: Mapping[SpoolEntry, Aside]) -> None:
    for entry, aside in entries.items():
        log.error("spool_entry_put_aside", entry=entry.field.decode(errors="backslashreplace"), reason=str(aside)[:200])


class PostgresInbox:
    """The inbox and `spool_aside`, within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def insert(self, ends: Sequence[AcceptedEnd]) -> set[UUID]:
        return inbox.insert(self._connection, ends, were_kept=True)

    def known(self, requests: Sequence[EndRequest]) -> Sequence[KnownEnd]:
        keys = {request.idempotency_key for request in requests if request.idempotency_key is not None}
        process_ids = {request.process_id for request in requests if request.process_id is not None}
        return inbox.find_keys(self._connection, keys, process_ids)

    def bury_reused(self, ends: Sequence[AcceptedEnd]) -> None:
        inbox.bury_reused(self._connection, ends)

    def put_aside(self, entries: Mapping[SpoolEntry, Aside]) -> None:
        spool_aside.put(self._connection, entries)

    def take_back(self, entries: Collection[SpoolEntry]) -> None:
        spool_aside.remove(self._connection, entries)

    def put_aside_before(self, seconds: float, limit: int) -> Sequence[SpoolEntry]:
        return spool_aside.due(self._connection, seconds, limit)


class InboxTransactions:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def transaction(self, work: Callable[[Inbox], T]) -> T:
        return self._postgres.transaction(lambda connection: work(PostgresInbox(connection)))
