"""The cached wallets: each call is one round trip for any number of wallets, decided by a Lua script.

All keys of a wallet carry the same hash tag, so the scripts work on Redis Cluster. Errors are redis-py's own
(`redis.RedisError`) and mean all of Redis: callers go to Postgres. What is wrong with one wallet (a field that isn't a
number, a sum past 64 bits, a key of another type) is that wallet's alone: its copy is dropped, and it counts as not
cached.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import structlog
from redis import Redis
from redis.exceptions import ResponseError

from app.domain.holds import REPEAT_SECONDS
from app.domain.pricing import Price
from app.domain.reasons import CacheVerdict
from app.domain.wallets import Deduction, UntoldEnd, Wallet, WalletId
from app.stores.redis.keys import (
    IN_FLIGHT_KEY,
    IN_FLIGHT_SEEN_KEY,
    fence_key,
    from_in_flight,
    given_back_key,
    holds_key,
    in_flight_member,
    lease_key,
    record_key,
    wallet_key,
    wallet_keys,
)
from app.stores.redis.marks import entry_of
from app.stores.redis.scripts import WalletScript, WalletScripts, is_of_one_wallet
from app.stores.redis.wallet_calls import (
    EndMark,
    EndReply,
    Fill,
    Lease,
    StartCall,
    StartReply,
    WalletChange,
    milliseconds,
    moment,
)

log = structlog.get_logger(__name__)

# A wallet nobody touched for this long is forgotten; longer than any hold lives.
IDLE_SECONDS = 48 * 3_600
# How long a loader may take from its first look to the fill; less than the fence of `apply.lua` lives.
LEASE_SECONDS = 5
# So many marks a script sets, and so many fields are read at once: a few milliseconds in which nobody else is served.
MARKS_PER_CALL = 500

_PRICE_FIELDS = tuple(field.name for field in fields(Price))

C = TypeVar("C")
T = TypeVar("T")

_START, _END, _UNMARK, _APPLY, _MARKS, _FILL, _RELEASE = map(
    WalletScript, ("start", "end", "unmark", "apply", "marks", "fill", "release")
)


class WalletCache:
    def __init__(self, client: Redis, *, record_seconds: int) -> None:
        self._client = client
        self.scripts = WalletScripts(client)
        self._record_seconds = record_seconds

    def start(self, calls: Sequence[StartCall], epoch: int) -> list[StartReply | None]:
        """Decide starts. None stands where the wallet isn't cached, or what its key was answered can't be read."""
        replies = self.scripts.run_all(
            _START,
            [
                (
                    [
                        wallet_key(call.wallet_id),
                        holds_key(call.wallet_id),
                        *_start_record(call),
                    ],
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
        )
        return [_readable(_start_reply, call, reply) for call, reply in zip(calls, replies, strict=True)]

    def end(self, marks: Sequence[EndMark], epoch: int) -> list[EndReply | None]:
        """Decide ends, in their order, and mark them as unsettled. None stands where the wallet isn't cached, or what
        its key was answered can't be read.

        The marks count as in flight until `land` says that they are recorded.
        """
        costly = [mark for mark in marks if not mark.is_free]
        replies = self.scripts.run_all(
            _END,
            [
                (
                    self._keys_with_records(mark),
                    [
                        epoch,
                        str(mark.end_id),
                        mark.price.cost_micros,
                        mark.process_id or "",
                        mark.payload_hash,
                        milliseconds(self._record_seconds),
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

    def land(self, ends: Sequence[tuple[UUID, WalletId]]) -> set[WalletId]:
        """Take recorded ends (id, wallet id) out of flight. The wallets of those whose mark may have been lost
        meanwhile: by a flush, by who took it for abandoned, or with a copy that was dropped.
        """
        if not ends:
            return set()
        members = [in_flight_member(end_id, wallet_id) for end_id, wallet_id in ends]
        marks: dict[WalletId, list[str]] = defaultdict(list)
        for end_id, wallet_id in ends:
            marks[wallet_id].append(f"p:{end_id}")
        looks = [(wallet_id, part) for wallet_id, named in marks.items() for part in slices(named)]
        pipeline = self._client.pipeline(transaction=False)
        pipeline.smismember(IN_FLIGHT_KEY, members)
        pipeline.srem(IN_FLIGHT_KEY, *members)
        for wallet_id, part in looks:
            pipeline.hmget(wallet_key(wallet_id), part)
        flying, removed, *found = pipeline.execute(raise_on_error=False)
        for reply in (flying, removed, *found):
            if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                raise reply
        if isinstance(flying, Exception) or removed != sum(flying):
            # Not a set; or somebody else has taken some of them out of flight between our look and now.
            return set(marks)
        lost = {wallet_id for (_, wallet_id), was_in_flight in zip(ends, flying, strict=True) if not was_in_flight}
        return lost | {
            wallet_id
            for (wallet_id, _), entries in zip(looks, found, strict=True)
            if isinstance(entries, Exception) or None in entries
        }

    def give_up(self, ends: Sequence[tuple[UUID, WalletId]]) -> set[WalletId]:
        """Take ends (id, wallet id) out of flight that were never recorded. The wallets of those that have landed after
        all.
        """
        pipeline = self._client.pipeline(transaction=False)
        for end_id, wallet_id in ends:
            pipeline.srem(IN_FLIGHT_KEY, in_flight_member(end_id, wallet_id))
        return {wallet_id for (_, wallet_id), found in zip(ends, pipeline.execute(), strict=True) if not found}

    def unmark(self, marks: Sequence[EndMark]) -> None:
        """Take marks back whose ends weren't recorded under their id."""
        if not marks:
            return
        self.scripts.run_all(_UNMARK, [(self._keys_with_records(mark), [str(mark.end_id)]) for mark in marks])
        # Only now: a mark that stays while Redis refuses writes (it may take this one all the same) has to be found.
        self._client.srem(IN_FLIGHT_KEY, *map(_in_flight, marks))

    def stranded(self, seconds: float) -> dict[UUID, WalletId]:
        """Ends in flight that an earlier look has seen more than `seconds` ago: end id -> wallet id.

        Only the server's clock counts, whatever the clocks of those who look and those who marked say.
        """
        members: set[str] = set(self._client.smembers(IN_FLIGHT_KEY))  # type: ignore[arg-type]
        if not members:
            self._client.delete(IN_FLIGHT_SEEN_KEY)
            return {}
        now = self._client.time()[0]
        pipeline = self._client.pipeline(transaction=False)
        pipeline.zadd(IN_FLIGHT_SEEN_KEY, dict.fromkeys(members, now), nx=True)
        pipeline.zrange(IN_FLIGHT_SEEN_KEY, 0, -1, withscores=True)
        _, seen = pipeline.execute()
        gone = [member for member, _ in seen if member not in members]
        if gone:
            self._client.zrem(IN_FLIGHT_SEEN_KEY, *gone)
        return dict(from_in_flight(member) for member, first in seen if member in members and first <= now - seconds)

    def release(self, wallet_id: WalletId, process_id: str | None, epoch: int) -> int | None:
        """Give a hold back, if there is one; spendable micro-tokens after it. None where the wallet isn't cached."""
        reply = self.scripts.run(_RELEASE, wallet_keys(wallet_id), [epoch, process_id or ""])
        return None if reply is None or reply[0] == "miss" else int(reply[1]) - int(reply[2])

    def held(self, wallet_ids: Sequence[WalletId]) -> list[int]:
        """Micro-tokens held now, 0 where nothing is cached."""
        # Releasing a hold that can't exist is a look that expires what is due.
        replies = self.scripts.run_all(_RELEASE, [(wallet_keys(wallet_id), [0, ""]) for wallet_id in wallet_ids])
        return [0 if reply is None or reply[0] == "miss" else int(reply[2]) for reply in replies]

    def apply(self, changes: Sequence[WalletChange]) -> None:
        """Bring cached wallets up to committed changes; safe in any order and more than once."""
        calls = [
            (
                [*wallet_keys(change.wallet.id), fence_key(change.wallet.id)],
                [*_row_arguments(change.wallet), *map(str, told)],
            )
            for change in changes
            for told in slices(change.told) or [()]
        ]
        replies = self.scripts.run_all(_APPLY, calls)
        dropped = [call for call, reply in zip(calls, replies, strict=True) if reply is None]
        if dropped:
            # Whoever loads one of these just now has to find that there is something newer.
            self.scripts.run_all(_APPLY, dropped)

    def lease(self, wallet_ids: Sequence[WalletId]) -> list[Lease]:
        """Take leases for loading wallets. A cached wallet's epoch and marked ends come along."""
        tokens = [uuid4().hex for _ in wallet_ids]
        pipeline = self._client.pipeline(transaction=False)
        for wallet_id, token in zip(wallet_ids, tokens, strict=True):
            # The lease stands before the look, and the look before the load.
            pipeline.set(lease_key(wallet_id, token), "1", px=milliseconds(LEASE_SECONDS))
            pipeline.hget(wallet_key(wallet_id), "epoch")
            pipeline.hlen(wallet_key(wallet_id))
        replies = pipeline.execute(raise_on_error=False)
        leases = []
        for wallet_id, token, *found in zip(
            wallet_ids, tokens, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            for reply in found:
                if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                    raise reply
            _, epoch, length = found
            try:
                known = None if epoch is None else int(epoch)
                marked = self._marked(wallet_id, int(length))
            except (ResponseError, TypeError, ValueError) as error:
                self.scripts.drop(wallet_id, error)
                known, marked = None, frozenset()
            leases.append(Lease(wallet_id, token, known, marked))
        return leases

    def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Cache loaded wallets. False stands where something newer is known: load that one again.

        True stands also for a wallet that can't be cached at all, as its numbers don't fit.
        """
        self.void_records({fill.lease.wallet_id: fill.given_back for fill in fills if fill.given_back})
        marks_calls, marks_of, fill_calls = [], [], []
        for i, fill in enumerate(fills):
            keys = [*wallet_keys(fill.lease.wallet_id), lease_key(fill.lease.wallet_id, fill.lease.token)]
            *before, last = slices([*((end_id, None) for end_id in fill.forgotten), *fill.marks.items()]) or [()]
            for changes in before:
                marks_calls.append(
                    (keys, [milliseconds(LEASE_SECONDS), milliseconds(IDLE_SECONDS), *_mark_arguments(changes)])
                )
                marks_of.append(i)
            arguments = [fill.epoch, *_row_arguments(fill.wallet), milliseconds(IDLE_SECONDS), *_mark_arguments(last)]
            fill_calls.append(([*keys, fence_key(fill.lease.wallet_id)], arguments))
        # A round trip of their own: what is filled counts, so all of them have to stand by then.
        done: list[bool | None] = [None] * len(fills)
        for i, reply in zip(marks_of, self.scripts.run_all(_MARKS, marks_calls), strict=True):
            if reply != 1:
                done[i] = reply is None
        whole = [i for i, is_done in enumerate(done) if is_done is None]
        for i, reply in zip(whole, self.scripts.run_all(_FILL, [fill_calls[i] for i in whole]), strict=True):
            done[i] = reply != 0
        return [is_done is True for is_done in done]

    def void_records(self, ends: Mapping[WalletId, Sequence[UUID]]) -> None:
        """Have `end.lua` pass over what keys were answered for these ends, by wallet id.

        Their marks are about to be forgotten, and a repeat would be recorded without one; or they were put aside, as
        their keys are those of others.
        """
        pipeline = self._client.pipeline(transaction=False)
        for wallet_id, end_ids in ends.items():
            key = given_back_key(wallet_id)
            for part in slices(end_ids):
                pipeline.sadd(key, *map(str, part))
            pipeline.expire(key, self._record_seconds)
        for reply in pipeline.execute(raise_on_error=False):
            if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                raise reply

    def _marked(self, wallet_id: WalletId, fields: int) -> frozenset[UUID]:
        if fields <= MARKS_PER_CALL:
            names: Any = self._client.hkeys(wallet_key(wallet_id)) if fields else ()
        else:
            names = (name for name, _ in self._client.hscan_iter(wallet_key(wallet_id), count=MARKS_PER_CALL))
        return frozenset(UUID(name[2:]) for name in names if name.startswith("p:"))

    def _keys_with_records(self, mark: EndMark) -> list[str]:
        return [
            wallet_key(mark.wallet_id),
            holds_key(mark.wallet_id),
            record_key(mark.wallet_id, "key", mark.idempotency_key or ""),
            record_key(mark.wallet_id, "process", mark.process_id or ""),
            given_back_key(mark.wallet_id),
        ]


def _start_record(call: StartCall) -> list[str]:
    """Under whose key a start is remembered. Users who draw on one wallet have keys of their own."""
    if call.idempotency_key is None:
        return []
    return [record_key(call.wallet_id, f"start:{quote(call.user_id, safe='')}", call.idempotency_key)]


def _in_flight(mark: EndMark) -> str:
    return in_flight_member(mark.end_id, mark.wallet_id)


def _price_text(price: Price) -> str:
    return json.dumps({name: getattr(price, name) for name in _PRICE_FIELDS})


def _readable(read: Callable[[C, Any], T | None], call: C, reply: Any) -> T | None:
    """A reply, or None where it repeats a record that isn't of this version's form: its neighbours' are answered."""
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


def _row_arguments(wallet: Wallet) -> list[Any]:
    """What a wallet's row says, as `set_row` of `prelude.lua` takes it."""
    return [
        wallet.version,
        wallet.posted_micros,
        wallet.debt_micros,
        wallet.overdraft_limit_micros,
        wallet.status.value,
        wallet.package_id or "",
    ]


def _mark_arguments(changes: Sequence[tuple[UUID, UntoldEnd | None]]) -> list[Any]:
    """Which marks to forget and which to set, as `fill.lua` and `marks.lua` take them."""
    forgotten = [str(end_id) for end_id, mark in changes if mark is None]
    return [
        len(forgotten),
        *forgotten,
        *(part for end_id, mark in changes if mark is not None for part in (str(end_id), entry_of(mark))),
    ]


def slices(items: Sequence[T]) -> list[Sequence[T]]:
    """Of a size that one command may have: nobody else is served meanwhile."""
    return [items[i : i + MARKS_PER_CALL] for i in range(0, len(items), MARKS_PER_CALL)]
