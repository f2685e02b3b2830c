"""Ends that Redis kept while Postgres was away: into the inbox, each by its own keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.billing.settle import SettleService
from app.domain.ends import AcceptedEnd
from app.domain.errors import UnknownPayloadVersion, WalletBusy
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.stores.postgres import inbox, spool_aside
from app.stores.postgres.inbox import KnownEnd
from app.stores.postgres.spool_aside import Aside
from app.stores.redis.records import Records
from app.stores.redis.spool import Spool
from app.stores.redis.wallet_cache import WalletCache
from app.stores.redis.wallet_calls import mark_of
from app.stores.spool_entry import SpoolEntry, UnreadableEntry

log = structlog.get_logger(__name__)

ENDS_PER_DRAIN = 500
# How often what was put aside is tried again.
ASIDE_AGAIN_SECONDS = 60


@dataclass(frozen=True, slots=True)
class _Moved:
    """What of the spool stands in the inbox now, or has stood there."""

    end_ids: Sequence[UUID] = ()
    repeated: Sequence[AcceptedEnd] = ()
    reused: Sequence[AcceptedEnd] = ()

    def __add__(self, other: _Moved) -> _Moved:
        return _Moved([*self.end_ids, *other.end_ids], [*self.repeated, *other.repeated], [*self.reused, *other.reused])


class SpoolDrain:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        cache: WalletCache,
        records: Records,
        spool: Spool,
        settlement: SettleService,
    ) -> None:
        self._postgres = postgres
        self._cache = cache
        self._records = records
        self._spool = spool
        self._settlement = settlement

    def drain(self) -> int:
        """Move what Redis kept while Postgres was away into the inbox, and settle it; how many ends there were.

        An entry that can't be read, or that Postgres refuses, is put aside into Postgres and tried again each minute.
        Safe from several workers at once and after dying half-way: ids stay the same, and an end leaves the spool
        only when it is recorded. Raises Unavailable or RedisError.
        """
        drained = 0
        while entries := self._spool.take(ENDS_PER_DRAIN):
            drained += self._drain(entries)
        due = self._postgres.run(lambda connection: spool_aside.due(connection, ASIDE_AGAIN_SECONDS, ENDS_PER_DRAIN))
        return drained + (self._drain(due) if due else 0)

    def _drain(self, entries: Sequence[SpoolEntry]) -> int:
        """Bring entries into the inbox, and those that can't go there out of the way; how many went there."""
        ends: dict[SpoolEntry, AcceptedEnd] = {}
        unreadable: dict[SpoolEntry, Aside] = {}
        for entry in entries:
            try:
                ends[entry] = entry.read()
            except UnreadableEntry as error:
                unreadable[entry] = Aside(FailureReason.UNREADABLE, str(error))
        if unreadable:
            self._postgres.transaction(lambda connection: spool_aside.put(connection, unreadable))
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
        self._settlement.settle(moved.end_ids)
        if moved.end_ids:
            log.info("spool_drained", ends=len(moved.end_ids), repeated=len(moved.repeated))
        return len(moved.end_ids)

    def _move(self, ends: Mapping[SpoolEntry, AcceptedEnd]) -> _Moved:
        """Record ends in one transaction. What the database refuses, or a locked wallet keeps from becoming debt, is
        found by halving, and put aside alone.
        """
        try:
            return self._postgres.transaction(partial(_record, ends=ends))
        except (sa.exc.SQLAlchemyError, WalletBusy) as error:
            if len(ends) > 1:
                half = list(ends)[: len(ends) // 2]
                first = {entry: ends[entry] for entry in half}
                rest = {entry: end for entry, end in ends.items() if entry not in first}
                return self._move(first) + self._move(rest)
            refused = dict.fromkeys(ends, _refusal(error))
            self._postgres.transaction(lambda connection: spool_aside.put(connection, refused))
            _log_put_aside(refused)
            return _Moved()


class _Verdict(Enum):
    """What the known keys of a spooled end say of it."""

    RECORDED = "by a drain that died before it could clear the spool"
    REPEATED = "billed before, under another id"
    REUSED = "another body"
    UNKNOWN = "only a newer version can compare the bodies"


def _record(connection: sa.Connection, ends: Mapping[SpoolEntry, AcceptedEnd]) -> _Moved:
    """Put ends into the inbox, each by what its own keys tell of it."""
    fresh = inbox.insert(connection, list(ends.values()), were_kept=True)
    known = {entry: end for entry, end in ends.items() if end.id not in fresh and end.request.repeatable}
    verdicts = _verdicts(connection, known.values()) if known else {}
    reused = [end for end in known.values() if verdicts[end.id] is _Verdict.REUSED]
    if reused:
        # We said yes to another body under a used key, as nobody could know the key then. It isn't dropped unseen.
        inbox.bury_reused(connection, reused)
    aside = {
        entry: Aside(FailureReason.NEWER_PAYLOAD)
        for entry, end in known.items()
        if verdicts[end.id] is _Verdict.UNKNOWN
    }
    if aside:
        spool_aside.put(connection, aside)
    moved = {entry: end for entry, end in ends.items() if entry not in aside}
    spool_aside.remove(connection, moved)
    return _Moved(
        [end.id for end in moved.values()],
        [end for end in known.values() if verdicts[end.id] is _Verdict.REPEATED],
        reused,
    )


def _verdicts(connection: sa.Connection, ends: Collection[AcceptedEnd]) -> dict[UUID, _Verdict]:
    found = inbox.KnownEnds(
        inbox.find_keys(
            connection,
            {end.request.idempotency_key for end in ends if end.request.idempotency_key is not None},
            {end.request.process_id for end in ends if end.request.process_id is not None},
        )
    )
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
