"""The cached wallets: starts and ends are decided on them, and committed changes are applied to them.

Each call is one round trip for any number of wallets, and a Lua script decides.

All keys of a wallet carry the same hash tag, so the scripts work on Redis Cluster. Errors are redis-py's own
(`redis.RedisError`) and mean that Redis as a whole can't be used: callers fall back to Postgres. A fault in one wallet
(a field that isn't a number, a sum past 64 bits, a key of another type) affects only that wallet: its copy is dropped,
and it counts as not cached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import structlog
from redis import Redis
from redis.exceptions import ResponseError

from app.domain.holds import REPEAT_SECONDS
from app.domain.pricing import Price
from app.domain.reasons import CacheVerdict
from app.domain.wallets import Deduction, WalletId
from app.stores.redis import holders
from app.stores.redis.keys import IN_FLIGHT_KEY, fence_key, in_flight_member, wallet_keys
from app.stores.redis.records import Records, keys_of_end, keys_of_start
from app.stores.redis.scripts import WalletScript, WalletScripts
from app.stores.redis.slices import slices
from app.stores.redis.wallet_calls import (
    IDLE_SECONDS,
    EndMark,
    EndReply,
    StartCall,
    StartReply,
    WalletChange,
    milliseconds,
    moment,
    row_arguments,
)

log = structlog.get_logger(__name__)

_PRICE_FIELDS = tuple(field.name for field in fields(Price))

C = TypeVar("C")
T = TypeVar("T")

_START, _END, _UNMARK, _APPLY = map(WalletScript, ("start", "end", "unmark", "apply"))


class WalletCache:
    def __init__(self, client: Redis, scripts: WalletScripts, records: Records) -> None:
        self._client = client
        self._scripts = scripts
        self._records = records

    def start(self, calls: Sequence[StartCall], epoch: int) -> list[StartReply | None]:
        """Decide starts. None stands where the wallet isn't cached, or where the answer remembered under the call's key
        can't be read.
        """
        lives_seconds: dict[WalletId, float] = {}
        for call in calls:
            if call.hold_micros:
                lives_seconds[call.wallet_id] = max(call.hold_seconds, lives_seconds.get(call.wallet_id, 0))
        replies = self._scripts.run_all(
            _START,
            [
                (
                    keys_of_start(call),
                    [
                        epoch,
                        call.min_micros,
                        call.hold_micros,
                        milliseconds(call.hold_seconds),
                        call.process_id,
                        milliseconds(IDLE_SECONDS),
                        call.payload_hash,
                        milliseconds(REPEAT_SECONDS),
                        *call.packages,
                    ],
                )
                for call in calls
            ],
            before=(lambda pipeline: holders.note(pipeline, lives_seconds)) if lives_seconds else None,
        )
        return [_readable(_start_reply, call, reply) for call, reply in zip(calls, replies, strict=True)]

    def end(self, marks: Sequence[EndMark], epoch: int) -> list[EndReply | None]:
        """Decide ends, in their order, and mark them as unsettled. None stands where the wallet isn't cached, or where
        the answer remembered under the end's key can't be read.

        The marked ends are in flight until they are recorded: see `in_flight`.
        """
        costly = [mark for mark in marks if not mark.is_free]
        replies = self._scripts.run_all(
            _END,
            [
                (
                    keys_of_end(mark),
                    [
                        epoch,
                        str(mark.end_id),
                        mark.price.cost_micros,
                        mark.process_id or "",
                        mark.payload_hash,
                        milliseconds(self._records.seconds),
                        "0" if mark.idempotency_key is None else "1",
                        _price_text(mark.price),
                        "1" if mark.is_free else "0",
                    ],
                )
                for mark in marks
            ],
            before=(lambda pipeline: pipeline.sadd(IN_FLIGHT_KEY, *map(_in_flight, costly))) if costly else None,
        )
        answers = [_readable(_end_reply, mark, reply) for mark, reply in zip(marks, replies, strict=True)]
        unmarked = [
            mark
            for mark, answer in zip(marks, answers, strict=True)
            if not mark.is_free and (answer is None or answer.seen)
        ]
        if unmarked:
            self._client.srem(IN_FLIGHT_KEY, *map(_in_flight, unmarked))
        return answers

    def unmark(self, marks: Sequence[EndMark]) -> None:
        """Remove the marks of ends that weren't recorded under their id."""
        if not marks:
            return
        self._scripts.run_all(_UNMARK, [(keys_of_end(mark), [str(mark.end_id)]) for mark in marks])
        # Only after the scripts have succeeded: a Redis that is out of memory refuses scripts but accepts SREM, and the
        # mark of an end that isn't in flight would never be found.
        self._client.srem(IN_FLIGHT_KEY, *map(_in_flight, marks))

    def apply(self, changes: Sequence[WalletChange]) -> None:
        """Apply committed changes to cached wallets; safe in any order and more than once."""
        calls = [
            (
                [*wallet_keys(change.wallet.id), fence_key(change.wallet.id)],
                [*row_arguments(change.wallet), *map(str, told)],
            )
            for change in changes
            for told in slices(change.told) or [()]
        ]
        replies = self._scripts.run_all(_APPLY, calls)
        dropped = [call for call, reply in zip(calls, replies, strict=True) if reply is None]
        if dropped:
            # Sick copies were dropped, so the second call meets no copy and leaves a fence: a process that is loading
            # the wallet right now can't fill in the state from before the change.
            self._scripts.run_all(_APPLY, dropped)


def _in_flight(mark: EndMark) -> str:
    return in_flight_member(mark.end_id, mark.wallet_id)


@lru_cache(maxsize=1_024)
def _price_text(price: Price) -> str:
    """Cached, because runs of the same size have the same price."""
    return json.dumps({name: getattr(price, name) for name in _PRICE_FIELDS})


def _readable(read: Callable[[C, Any], T | None], call: C, reply: Any) -> T | None:
    """A parsed reply, or None where it repeats a record of another version's form. One such record doesn't fail its
    neighbours.
    """
    try:
        return read(call, reply)
    except (LookupError, OSError, OverflowError, TypeError, ValueError) as error:
        log.error("unreadable_record", reply=str(reply)[:200], error=str(error)[:200])  # noqa: TRY400
        return None


def _start_reply(_: StartCall, reply: Sequence[str] | None) -> StartReply | None:
    match reply:
        case None | ["miss"]:
            return None
        case [outcome, available, held, ends_at, process_id, payload_hash]:
            if None in (process_id, payload_hash):
                raise ValueError("a record without its run")
            hold_ends_at = moment(int(ends_at)) if int(ends_at) > 0 else None
            return StartReply(CacheVerdict(outcome), int(available), int(held), hold_ends_at, process_id, payload_hash)
    raise ResponseError(f"start.lua answered {reply!r}")


def _end_reply(mark: EndMark, reply: Sequence[str] | None) -> EndReply | None:
    match reply:
        case None | ["miss"]:
            return None
        case ["marked", available, held, deduction]:
            return EndReply(
                mark.end_id,
                mark.payload_hash,
                int(available) - int(held),
                Deduction(deduction),
                mark.price,
                seen=False,
            )
        case ["free", available, held]:
            return EndReply(
                mark.end_id,
                mark.payload_hash,
                int(available) - int(held),
                Deduction.COVERED,
                mark.price,
                seen=False,
            )
        case ["seen", end_id, payload_hash, available, held, deduction, price]:
            return EndReply(
                UUID(end_id),
                payload_hash,
                int(available) - int(held),
                Deduction(deduction),
                Price(**json.loads(price)),
                seen=True,
            )
    raise ResponseError(f"end.lua answered {reply!r}")
