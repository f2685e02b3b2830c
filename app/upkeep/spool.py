"""Drains the spool: ends that Redis kept while Postgres was away move into the inbox, deduplicated by their keys."""

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
# How often entries that were put aside are tried again.
ASIDE_AGAIN_SECONDS = 60

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Moved:
    """What a drain has moved into the inbox: all ids, the ends billed before under another id, and those whose key was
    used with another body.
    """

    end_ids: Sequence[UUID] = ()
    repeated: Sequence[AcceptedEnd] = ()
    reused: Sequence[AcceptedEnd] = ()

    def __add__(self, other: _Moved) -> _Moved:
        return _Moved([*self.end_ids, *other.end_ids], [*self.repeated, *other.repeated], [*self.reused, *other.reused])


class Inbox(Protocol):
    """The inbox, and `spool_aside` for entries that can't enter it, in one transaction."""

    def insert(self, ends: Sequence[AcceptedEnd]) -> set[UUID]: ...

    def known(self, requests: Sequence[EndRequest]) -> Sequence[KnownEnd]: ...

    def bury_reused(self, ends: Sequence[AcceptedEnd]) -> None: ...

    def put_aside(self, entries: Mapping[SpoolEntry, Aside]) -> None: ...

    def take_back(self, entries: Collection[SpoolEntry]) -> None: ...

    def put_aside_before(self, seconds: float, limit: int) -> Sequence[SpoolEntry]: ...


class Transactions(Protocol):
    """Runs `work` in a transaction that is committed on return. Raises Unavailable, WalletBusy or SQLAlchemyError, and
    what `work` raises.
    """

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
        """Move the spooled ends into the inbox and settle them. Returns how many ends there were; `tell` is called with
        what became of them.

        An entry that can't be read, or that Postgres refuses, is put aside in Postgres and tried again every minute.
        Idempotent, also with several workers at once or after one died half-way: ids stay the same, and an end leaves
        the spool only when it is recorded. Raises Unavailable or RedisError.
        """
        drained = 0
        while entries := self._spool.take(ENDS_PER_DRAIN):
            drained += self._drain(entries, tell)
        due = self._inbox.transaction(lambda inbox: inbox.put_aside_before(ASIDE_AGAIN_SECONDS, ENDS_PER_DRAIN))
        return drained + (self._drain(due, tell) if due else 0)

    def _drain(self, entries: Sequence[SpoolEntry], tell: Callable[[SettleReport], object]) -> int:
        """Move entries into the inbox, and put those aside that can't enter it. Returns how many have entered."""
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
        # The same ends were billed before under another id, so the marks under these ids are wrong.
        self._cache.unmark([mark_of(end.request, end.wallet_id, end.id, end.price) for end in moved.repeated])
        # Their keys belong to other ends. Forget these answers, so that repeats of the other ends don't get them.
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
        """Record ends in one transaction. If that fails (the database refuses an end, or a wallet that an end has to
        become debt of is locked), halve them until that end is alone, and put it aside.
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
    """What a spooled end is, by the ends that came with its keys before."""

    RECORDED = "by a drain that died before it could clear the spool"
    REPEATED = "billed before, under another id"
    REUSED = "another body"
    UNKNOWN = "only a newer version can compare the bodies"


def _record(inbox: Inbox, ends: Mapping[SpoolEntry, AcceptedEnd]) -> _Moved:
    """Insert ends into the inbox, and treat those with known keys by their verdicts."""
    fresh = inbox.insert(list(ends.values()))
    known = {entry: end for entry, end in ends.items() if end.id not in fresh and end.request.repeatable}
    verdicts = _verdicts(inbox, list(known.values())) if known else {}
    reused = [end for end in known.values() if verdicts[end.id] is _Verdict.REUSED]
    if reused:
        # These were accepted with another body under a used key, as the key couldn't be checked while Postgres was
        # away. They become dead letters, for operators to see.
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
    # No known end: somebody has just deleted the keys by hand, so the end is tried again.
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
