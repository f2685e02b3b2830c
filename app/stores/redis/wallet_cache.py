"""The cached wallets: each call is one round trip for any number of wallets, decided by a Lua script.

All keys of a user carry the same hash tag, so the scripts work on Redis Cluster. Errors are redis-py's own
(`redis.RedisError`) and mean all of Redis: callers go to Postgres. What is wrong with one wallet (a field that isn't a
number, a sum past 64 bits, a key of another type) is that wallet's alone: its copy is dropped, and it counts as not
cached.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError, ResponseError

from app.domain.ends import EndRequest
from app.domain.holds import REPEAT_SECONDS
from app.domain.pricing import Price
from app.domain.wallets import Deduction
from app.stores.failures import Failure
from app.stores.redis.failures import failure_of

log = structlog.get_logger(__name__)

KEY_PREFIX = "tokentill"
# A wallet nobody touched for this long is forgotten; longer than any hold lives.
IDLE_MS = 48 * 3_600_000
# Ends that are marked but not recorded yet. What stays here was left by a process that died in between.
IN_FLIGHT_KEY = f"{KEY_PREFIX}:in-flight"
# When each of them was first seen by a look at what stays, by the server's clock.
IN_FLIGHT_SEEN_KEY = f"{KEY_PREFIX}:in-flight-seen"
# How long a loader may take from its first look to the fill; less than the fence of `apply.lua` lives.
LEASE_MS = 5_000
# So many marks a script sets, and so many fields are read at once: a few milliseconds in which nobody else is served.
MARKS_PER_CALL = 500

T = TypeVar("T")

_HERE = Path(__file__).parent
PRELUDE = (_HERE / "prelude.lua").read_text()


class WalletScript:
    """A script on one wallet: what its file says, behind what they all share."""

    def __init__(self, name: str) -> None:
        self.source = PRELUDE + (_HERE / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


_START, _END, _UNMARK, _APPLY, _MARKS, _FILL, _RELEASE = map(
    WalletScript, ("start", "end", "unmark", "apply", "marks", "fill", "release")
)


@dataclass(frozen=True, slots=True)
class StartCall:
    user_id: str
    min_micros: int
    packages: tuple[str, ...]
    process_id: str
    hold_micros: int = 0
    hold_ms: int = 0
    idempotency_key: str | None = None
    payload_hash: str = ""


@dataclass(frozen=True, slots=True)
class StartReply:
    """`outcome` is wallet, feature, denied, full or granted, as `start.lua` says; seen, when the key's first call was
    granted and is answered again, process id included.
    """

    outcome: str
    available_micros: int
    held_micros: int
    hold_ends_at_ms: int
    process_id: str
    payload_hash: str

    @property
    def spendable_micros(self) -> int:
        return self.available_micros - self.held_micros


@dataclass(frozen=True, slots=True)
class EndMark:
    user_id: str
    end_id: UUID
    price: Price
    payload_hash: str
    idempotency_key: str | None = None
    process_id: str | None = None
    is_free: bool = False
    """Nothing was used: only the hold ends, and no mark is left."""


def mark_of(request: EndRequest, end_id: UUID, price: Price) -> EndMark:
    """The mark of a priced end."""
    return EndMark(
        user_id=request.user_id,
        end_id=end_id,
        price=price,
        payload_hash=request.payload_hash,
        idempotency_key=request.idempotency_key,
        process_id=request.process_id,
        is_free=request.is_free,
    )


@dataclass(frozen=True, slots=True)
class EndReply:
    """What the script decided, or (`seen`) decided when the key came first, under the first call's end id."""

    end_id: UUID
    payload_hash: str
    spendable_micros: int
    deduction: Deduction
    price: Price
    seen: bool


@dataclass(frozen=True, slots=True)
class CachedFields:
    """What Postgres knows of a wallet itself, as of one version."""

    version: int
    posted_micros: int
    debt_micros: int
    overdraft_limit_micros: int
    status: str
    package_id: str | None

    def as_arguments(self) -> tuple[str | int, ...]:
        return (
            self.version,
            self.posted_micros,
            self.debt_micros,
            self.overdraft_limit_micros,
            self.status,
            self.package_id or "",
        )


@dataclass(frozen=True, slots=True)
class WalletChange:
    """A committed change: the wallet after it, and the ends that its row tells of now, as settled or as debt."""

    user_id: str
    fields: CachedFields
    told: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fill one wallet, and what the cache knew when it was taken."""

    user_id: str
    token: str
    epoch: int | None
    marked: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Mark:
    """An end that its wallet's row doesn't tell of yet. `is_failed`: the balance didn't cover it when it came."""

    cost_micros: int
    is_failed: bool

    @property
    def entry(self) -> str:
        return f"{'d' if self.is_failed else 'p'}{self.cost_micros}"


@dataclass(frozen=True, slots=True)
class Fill:
    lease: Lease
    epoch: int
    fields: CachedFields
    marks: Mapping[UUID, Mark] = field(default_factory=dict)
    forgotten: Sequence[UUID] = ()


class WalletCache:
    def __init__(self, client: Redis, *, record_seconds: int) -> None:
        self._client = client
        self._record_ms = record_seconds * 1000

    def start(self, calls: Sequence[StartCall], epoch: int) -> list[StartReply | None]:
        """Decide starts. None stands where the wallet isn't cached."""
        replies = self._run(
            _START,
            [
                (
                    [
                        _wallet(call.user_id),
                        _holds(call.user_id),
                        *record_keys(call.user_id, "start", call.idempotency_key),
                    ],
                    [
                        epoch,
                        call.min_micros,
                        call.hold_micros,
                        call.hold_ms,
                        call.process_id,
                        IDLE_MS,
                        call.payload_hash,
                        REPEAT_SECONDS * 1000,
                        *call.packages,
                    ],
                )
                for call in calls
            ],
        )
        return [
            None
            if reply is None or reply[0] == "miss"
            else StartReply(reply[0], int(reply[1]), int(reply[2]), int(reply[3]), reply[4], reply[5])
            for reply in replies
        ]

    def end(self, marks: Sequence[EndMark], epoch: int) -> list[EndReply | None]:
        """Decide ends, in their order, and mark them as unsettled. None stands where the wallet isn't cached.

        The marks count as in flight until `land` says that they are recorded.
        """
        costly = [mark for mark in marks if not mark.is_free]
        replies = self._run(
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
                        self._record_ms,
                        "0" if mark.idempotency_key is None else "1",
                        json.dumps(astuple(mark.price)),
                        "1" if mark.is_free else "0",
                    ],
                )
                for mark in marks
            ],
            before=(lambda pipeline: pipeline.sadd(IN_FLIGHT_KEY, *map(_in_flight, costly))) if costly else None,
        )
        answers = [_end_reply(mark, reply) for mark, reply in zip(marks, replies, strict=True)]
        unmarked = [
            mark
            for mark, answer in zip(marks, answers, strict=True)
            if not mark.is_free and (answer is None or answer.seen)
        ]
        if unmarked:
            self._client.srem(IN_FLIGHT_KEY, *map(_in_flight, unmarked))
        return answers

    def land(self, ends: Sequence[tuple[UUID, str]]) -> set[str]:
        """Take recorded ends (id, user id) out of flight. The users of those whose mark may have been lost meanwhile:
        by a flush, by who took it for abandoned, or with a copy that was dropped.
        """
        pipeline = self._client.pipeline(transaction=False)
        for end_id, user_id in ends:
            pipeline.srem(IN_FLIGHT_KEY, in_flight_member(end_id, user_id))
            pipeline.hexists(_wallet(user_id), f"p:{end_id}")
        replies = pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                raise reply
        return {
            user_id
            for (_, user_id), was_in_flight, is_marked in zip(ends, replies[::2], replies[1::2], strict=True)
            if was_in_flight != 1 or is_marked is not True
        }

    def give_up(self, ends: Sequence[tuple[UUID, str]]) -> set[str]:
        """Take ends (id, user id) out of flight that were never recorded. The users of those that have landed after
        all.
        """
        pipeline = self._client.pipeline(transaction=False)
        for end_id, user_id in ends:
            pipeline.srem(IN_FLIGHT_KEY, in_flight_member(end_id, user_id))
        return {user_id for (_, user_id), found in zip(ends, pipeline.execute(), strict=True) if not found}

    def unmark(self, marks: Sequence[EndMark]) -> None:
        """Take marks back whose ends weren't recorded under their id."""
        if not marks:
            return
        self._run(_UNMARK, [(self._keys_with_records(mark), [str(mark.end_id)]) for mark in marks])
        # Only now: a mark that stays while Redis refuses writes (it may take this one all the same) has to be found.
        self._client.srem(IN_FLIGHT_KEY, *map(_in_flight, marks))

    def stranded(self, seconds: float) -> dict[UUID, str]:
        """Ends in flight that an earlier look has seen more than `seconds` ago: end id -> user id.

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
        return dict(_from_in_flight(member) for member, first in seen if member in members and first <= now - seconds)

    def release(self, user_id: str, process_id: str | None, epoch: int) -> int | None:
        """Give a hold back, if there is one; spendable micro-tokens after it. None where the wallet isn't cached."""
        [reply] = self._run(_RELEASE, [([_wallet(user_id), _holds(user_id)], [epoch, process_id or ""])])
        return None if reply is None or reply[0] == "miss" else int(reply[1]) - int(reply[2])

    def held(self, user_ids: Sequence[str]) -> list[int]:
        """Micro-tokens held now, 0 where nothing is cached."""
        # Releasing a hold that can't exist is a look that expires what is due.
        replies = self._run(_RELEASE, [([_wallet(user_id), _holds(user_id)], [0, ""]) for user_id in user_ids])
        return [0 if reply is None or reply[0] == "miss" else int(reply[2]) for reply in replies]

    def apply(self, changes: Sequence[WalletChange]) -> None:
        """Bring cached wallets up to committed changes; safe in any order and more than once."""
        calls = [
            (
                [_wallet(change.user_id), _holds(change.user_id), fence_key(change.user_id)],
                [*change.fields.as_arguments(), *map(str, told)],
            )
            for change in changes
            for told in _slices(change.told) or [()]
        ]
        replies = self._run(_APPLY, calls)
        dropped = [call for call, reply in zip(calls, replies, strict=True) if reply is None]
        if dropped:
            # Whoever loads one of these just now has to find that there is something newer.
            self._run(_APPLY, dropped)

    def lease(self, user_ids: Sequence[str]) -> list[Lease]:
        """Take leases for loading wallets. A cached wallet's epoch and marked ends come along."""
        tokens = [uuid4().hex for _ in user_ids]
        pipeline = self._client.pipeline(transaction=False)
        for user_id, token in zip(user_ids, tokens, strict=True):
            # The lease stands before the look, and the look before the load.
            pipeline.set(_lease(user_id, token), "1", px=LEASE_MS)
            pipeline.hget(_wallet(user_id), "epoch")
            pipeline.hlen(_wallet(user_id))
        replies = pipeline.execute(raise_on_error=False)
        leases = []
        for user_id, token, *found in zip(user_ids, tokens, replies[::3], replies[1::3], replies[2::3], strict=True):
            for reply in found:
                if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                    raise reply
            _, epoch, length = found
            try:
                known = None if epoch is None else int(epoch)
                marked = self._marked(user_id, int(length))
            except (ResponseError, TypeError, ValueError) as error:
                self._drop([user_id], error)
                known, marked = None, frozenset()
            leases.append(Lease(user_id, token, known, marked))
        return leases

    def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Cache loaded wallets. False stands where something newer is known: load that one again.

        True stands also for a wallet that can't be cached at all, as its numbers don't fit.
        """
        self._void_records([fill for fill in fills if fill.forgotten])
        marks_calls, marks_of, fill_calls = [], [], []
        for i, fill in enumerate(fills):
            keys = [*wallet_keys(fill.lease.user_id), _lease(fill.lease.user_id, fill.lease.token)]
            *slices, last = _slices([*((end_id, None) for end_id in fill.forgotten), *fill.marks.items()]) or [()]
            for changes in slices:
                marks_calls.append((keys, [LEASE_MS, IDLE_MS, *_mark_arguments(changes)]))
                marks_of.append(i)
            arguments = [fill.epoch, *fill.fields.as_arguments(), IDLE_MS, *_mark_arguments(last)]
            fill_calls.append(([*keys, fence_key(fill.lease.user_id)], arguments))
        # A round trip of their own: what is filled counts, so all of them have to stand by then.
        done: list[bool | None] = [None] * len(fills)
        for i, reply in zip(marks_of, self._run(_MARKS, marks_calls), strict=True):
            if reply != 1:
                done[i] = reply is None
        whole = [i for i, is_done in enumerate(done) if is_done is None]
        for i, reply in zip(whole, self._run(_FILL, [fill_calls[i] for i in whole]), strict=True):
            done[i] = reply != 0
        return [is_done is True for is_done in done]

    def _void_records(self, fills: Sequence[Fill]) -> None:
        """Have `end.lua` pass over what keys were answered for ends whose marks are about to be forgotten.

        Otherwise a repeat would be recorded without a mark.
        """
        pipeline = self._client.pipeline(transaction=False)
        for fill in fills:
            key = _given_back(fill.lease.user_id)
            pipeline.sadd(key, *map(str, fill.forgotten))
            pipeline.pexpire(key, self._record_ms)
        for reply in pipeline.execute(raise_on_error=False):
            if isinstance(reply, Exception) and not is_of_one_wallet(reply):
                raise reply

    def _marked(self, user_id: str, fields: int) -> frozenset[UUID]:
        if fields <= MARKS_PER_CALL:
            names: Any = self._client.hkeys(_wallet(user_id)) if fields else ()
        else:
            names = (name for name, _ in self._client.hscan_iter(_wallet(user_id), count=MARKS_PER_CALL))
        return frozenset(UUID(name[2:]) for name in names if name.startswith("p:"))

    def _keys_with_records(self, mark: EndMark) -> list[str]:
        return [
            _wallet(mark.user_id),
            _holds(mark.user_id),
            _key(mark.user_id, f"key:{mark.idempotency_key or ''}"),
            _key(mark.user_id, f"process:{mark.process_id or ''}"),
            _given_back(mark.user_id),
        ]

    def run(self, script: WalletScript, keys: list[str], arguments: list[Any]) -> Any:
        """What a script answers about one wallet; None where its copy was sick, and is dropped now."""
        [reply] = self._run(script, [(keys, arguments)])
        return reply

    def _run(
        self,
        script: WalletScript,
        calls: Sequence[tuple[list[str], list[Any]]],
        before: Callable[[Pipeline], object] | None = None,
    ) -> list[Any]:
        """One pipeline, begun by the command of `before`; None stands where a copy was sick, and is dropped now.

        A server that doesn't know the script (it restarted) is taught it; only those calls repeat."""
        replies = self._send(script, calls, before)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            self._client.script_load(script.source)
            for i, reply in zip(unknown, self._send(script, [calls[i] for i in unknown]), strict=True):
                replies[i] = reply
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception):
                if not is_of_one_wallet(reply):
                    raise reply
                self._drop_keys(calls[i][0][:2], reply)
                replies[i] = None
        return replies

    def _send(
        self,
        script: WalletScript,
        calls: Sequence[tuple[list[str], list[Any]]],
        before: Callable[[Pipeline], object] | None = None,
    ) -> list[Any]:
        if not calls:
            return []
        pipeline = self._client.pipeline(transaction=False)
        if before is not None:
            before(pipeline)
        for keys, arguments in calls:
            pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
        return list(pipeline.execute(raise_on_error=False))[-len(calls) :]

    def _drop(self, user_ids: Collection[str], error: Exception) -> None:
        for user_id in user_ids:
            self._drop_keys(wallet_keys(user_id), error)

    def _drop_keys(self, keys: Sequence[str], error: Exception) -> None:
        """Forget a copy that no script can work with. Its holds are lost; everything else can be loaded again."""
        log.error("sick_copy_dropped", key=keys[0], error=str(error)[:200])
        self._client.unlink(*keys)


def is_of_one_wallet(error: BaseException) -> bool:
    """Did Redis refuse one call for what it found under its keys, where it would take any other?"""
    # Errors of classes of their own are about connections, scripts and the like.
    return type(error) is ResponseError and failure_of(error) is Failure.REFUSED


def wallet_keys(user_id: str) -> list[str]:
    """The keys that every script on a wallet begins with."""
    return [_wallet(user_id), _holds(user_id)]


def record_keys(user_id: str, kind: str, key: str | None) -> list[str]:
    """The key under which an answer is remembered; none without an idempotency key."""
    return [] if key is None else [_key(user_id, f"{kind}:{key}")]


def in_flight_member(end_id: UUID, user_id: str) -> str:
    return f"{end_id}{user_id}"


def _in_flight(mark: EndMark) -> str:
    return in_flight_member(mark.end_id, mark.user_id)


def _from_in_flight(member: str) -> tuple[UUID, str]:
    return UUID(member[:36]), member[36:]


def _key(user_id: str, name: str) -> str:
    # Quoted, because a brace in the id would end the hash tag early.
    return f"{KEY_PREFIX}:{{{quote(user_id, safe='')}}}:{name}"


def _wallet(user_id: str) -> str:
    return _key(user_id, "wallet")


def _holds(user_id: str) -> str:
    return _key(user_id, "holds")


def fence_key(user_id: str) -> str:
    return _key(user_id, "fence")


def _given_back(user_id: str) -> str:
    return _key(user_id, "given-back")


def _lease(user_id: str, token: str) -> str:
    return _key(user_id, f"lease:{token}")


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
                Price(*json.loads(price)),
                seen=True,
            )
    raise ResponseError(f"end.lua answered {reply!r}")


def _mark_arguments(changes: Sequence[tuple[UUID, Mark | None]]) -> list[Any]:
    """Which marks to forget and which to set, as `fill.lua` and `marks.lua` take them."""
    forgotten = [str(end_id) for end_id, mark in changes if mark is None]
    return [
        len(forgotten),
        *forgotten,
        *(part for end_id, mark in changes if mark is not None for part in (str(end_id), mark.entry)),
    ]


def _slices(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[i : i + MARKS_PER_CALL] for i in range(0, len(items), MARKS_PER_CALL)]
