"""The stores as use cases see them, in memory and small. Each can be away, and says what it was asked to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa
from redis import ConnectionError as RedisConnectionError

from app.access.gate import Gate
from app.domain.audit import Change
from app.domain.catalog import Catalog, FeatureEndpoint, Package
from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.errors import Unavailable
from app.domain.in_force import ProfitRules
from app.domain.keys import Caller
from app.domain.pricing import ProfitRule
from app.domain.reasons import CacheVerdict
from app.domain.wallets import (
    Access,
    Balance,
    Wallet,
    WalletBalance,
    WalletId,
    WalletStatus,
    access,
    deduction,
    wallet_of,
)
from app.stores.failures import Failure
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.inbox import KnownEnd
from app.stores.redis.wallet_calls import (
    EndMark,
    EndReply,
    ExtendCall,
    ExtendReply,
    OpenHold,
    ReleaseReply,
    StartCall,
    StartReply,
    WalletChange,
)
from app.stores.redis.wallet_holds import NoOpenHold
from app.stores.redis.wallet_look import WalletLook

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOKEN = 1_000_000
FEATURE, PACKAGE = "text", "basic"
ALICE = wallet_of("alice")

T = TypeVar("T")


def gate(store: str = "redis") -> Gate:
    """A gate of a serving process: whatever it is told of is about the whole store."""
    return Gate(store, lambda _: Failure.AWAY, is_watched=True)


def row(wallet_id: WalletId, tokens: int = 0) -> Wallet:
    return Wallet(wallet_id, PACKAGE, WalletStatus.ACTIVE, tokens * TOKEN, 0, 0, version=2)


def wallet(
    user_id: str = "alice",
    tokens: int = 100,
    *,
    package_id: str | None = PACKAGE,
    status: WalletStatus = WalletStatus.ACTIVE,
    debt_micros: int = 0,
    pending_micros: int = 0,
) -> WalletBalance:
    row = Wallet(wallet_of(user_id), package_id, status, tokens * TOKEN, debt_micros, 0, version=1)
    return WalletBalance(user_id, row, row.balance(pending_micros=pending_micros), NOW)


class FakeCatalog:
    """One feature that costs 10 % profit and needs a token to start, in one package."""

    epoch = 1

    def __init__(self) -> None:
        self.current = Catalog(
            version=1,
            features={FEATURE: FeatureEndpoint(FEATURE, "Text", TOKEN)},
            packages={PACKAGE: Package(PACKAGE, "Basic", (FEATURE,))},
            profit_rules=ProfitRules([ProfitRule(7, 1_000, NOW - timedelta(days=1))]),
        )


class FakeBalances:
    """What Postgres knows of wallets."""

    def __init__(self, *wallets: WalletBalance) -> None:
        self.wallets = {each.wallet.id: each for each in wallets}
        self.is_away = False

    def of(self, wallet_ids: Collection[WalletId]) -> Mapping[WalletId, WalletBalance]:
        if self.is_away:
            raise Unavailable
        return {wallet_id: self.wallets[wallet_id] for wallet_id in wallet_ids if wallet_id in self.wallets}


class FakeCache:
    """The cached wallets: decided by the domain's own rules, with marks, holds and records of keys."""

    def __init__(self) -> None:
        self.balances: dict[WalletId, Balance] = {}
        self.holds: dict[tuple[WalletId, str], int] = {}
        self.marks: dict[UUID, WalletId] = {}
        self.in_flight: set[UUID] = set()
        self.starts: dict[str, StartReply] = {}
        self.ends: dict[str, EndReply] = {}
        self.is_away = False

    def start(self, calls: Sequence[StartCall], epoch: int) -> list[StartReply | None]:
        self._ask()
        return [self._start(call) if call.wallet_id in self.balances else None for call in calls]

    def end(self, marks: Sequence[EndMark], epoch: int) -> list[EndReply | None]:
        self._ask()
        return [self._end(mark) if mark.wallet_id in self.balances else None for mark in marks]

    def land(self, ends: Sequence[tuple[UUID, WalletId]]) -> set[WalletId]:
        self._ask()
        self.in_flight -= {end_id for end_id, _ in ends}
        return {wallet_id for end_id, wallet_id in ends if end_id not in self.marks}

    def unmark(self, marks: Sequence[EndMark]) -> None:
        self._ask()
        for mark in marks:
            self.marks.pop(mark.end_id, None)
            self.in_flight.discard(mark.end_id)
            self._add(mark.wallet_id, mark.price.cost_micros)
            self.ends = {key: reply for key, reply in self.ends.items() if reply.end_id != mark.end_id}

    def void(self, ends: Mapping[WalletId, Sequence[UUID]]) -> None:
        self._ask()
        voided = {end_id for end_ids in ends.values() for end_id in end_ids}
        self.ends = {key: reply for key, reply in self.ends.items() if reply.end_id not in voided}

    def spendable_micros(self, wallet_id: WalletId = ALICE) -> int:
        held = sum(micros for (holder, _), micros in self.holds.items() if holder == wallet_id)
        return self.balances[wallet_id].spendable_micros - held

    def _start(self, call: StartCall) -> StartReply:
        if call.idempotency_key in self.starts:
            return replace(self.starts[call.idempotency_key], outcome=CacheVerdict.SEEN)
        balance = self.balances[call.wallet_id]
        free = replace(balance, held_micros=balance.spendable_micros - self.spendable_micros(call.wallet_id))
        outcome = CacheVerdict.GRANTED
        if PACKAGE not in call.packages:
            outcome = CacheVerdict.NOT_IN_PACKAGE
        elif access(free, call.min_micros, call.hold_micros) is Access.DENIED:
            outcome = CacheVerdict.DENIED
        elif call.hold_micros:
            self.holds[call.wallet_id, call.process_id] = call.hold_micros
        ends_at = NOW + timedelta(seconds=call.hold_seconds) if call.hold_micros else None
        spendable_micros = self.spendable_micros(call.wallet_id)
        reply = StartReply(outcome, spendable_micros, 0, ends_at, call.process_id, call.payload_hash)
        if call.idempotency_key is not None and outcome is CacheVerdict.GRANTED:
            self.starts[call.idempotency_key] = reply
        return reply

    def _end(self, mark: EndMark) -> EndReply:
        for key in (mark.idempotency_key, mark.process_id):
            if key in self.ends:
                return replace(self.ends[key], seen=True)
        held_micros = self.holds.pop((mark.wallet_id, mark.process_id or ""), 0)
        verdict = deduction(self.balances[mark.wallet_id], mark.price.cost_micros, held_micros)
        if not mark.is_free:
            self.marks[mark.end_id] = mark.wallet_id
            self.in_flight.add(mark.end_id)
            self._add(mark.wallet_id, -mark.price.cost_micros)
        spendable_micros = self.spendable_micros(mark.wallet_id)
        reply = EndReply(mark.end_id, mark.payload_hash, spendable_micros, verdict, mark.price, seen=False)
        if not mark.is_free:
            self.ends |= {key: reply for key in (mark.idempotency_key, mark.process_id) if key is not None}
        return reply

    def _add(self, wallet_id: WalletId, micros: int) -> None:
        balance = self.balances[wallet_id]
        self.balances[wallet_id] = replace(balance, pending_micros=balance.pending_micros - micros)

    def _ask(self) -> None:
        if self.is_away:
            raise RedisConnectionError("gone")


class FakeHolds:
    """The calls on single holds of the same cached wallets."""

    def __init__(self, cache: FakeCache) -> None:
        self._cache = cache

    def extend(self, call: ExtendCall, epoch: int) -> ExtendReply | None:
        self._cache._ask()
        if call.wallet_id not in self._cache.balances:
            return None
        held = self._cache.holds
        hold = (call.wallet_id, call.process_id)
        if hold not in held:
            raise NoOpenHold
        verdict = CacheVerdict.GRANTED
        if self._cache.spendable_micros(call.wallet_id) < call.more_micros:
            verdict = CacheVerdict.DENIED
        else:
            held[hold] += call.more_micros
        spendable_micros = self._cache.spendable_micros(call.wallet_id)
        ends_at = NOW + timedelta(seconds=call.more_seconds)
        return ExtendReply(verdict, spendable_micros, 0, held[hold], ends_at, call.payload_hash)

    def release(self, wallet_id: WalletId, process_id: str, epoch: int) -> ReleaseReply | None:
        self._cache._ask()
        if wallet_id not in self._cache.balances:
            return None
        released_micros = self._cache.holds.pop((wallet_id, process_id), 0)
        return ReleaseReply(self._cache.spendable_micros(wallet_id), released_micros)

    def list(self, wallet_id: WalletId, limit: int, epoch: int, after: str = "") -> list[OpenHold] | None:
        self._cache._ask()
        found = sorted(process_id for holder, process_id in self._cache.holds if holder == wallet_id)
        behind = [process_id for process_id in found if process_id > after.partition(":")[2]]
        return [
            OpenHold(process_id, self._cache.holds[wallet_id, process_id], NOW, f"0:{process_id}")
            for process_id in behind[:limit]
        ]


class FakeLooks:
    """Looks at the same cached wallets."""

    def __init__(self, cache: FakeCache) -> None:
        self._cache = cache

    def look(self, wallet_id: WalletId, process_id: str | None, epoch: int) -> WalletLook | None:
        self._cache._ask()
        balance = self._cache.balances.get(wallet_id)
        if balance is None:
            return None
        own_micros = self._cache.holds.get((wallet_id, process_id or ""), 0)
        held_micros = sum(micros for (holder, _), micros in self._cache.holds.items() if holder == wallet_id)
        return WalletLook(replace(balance, held_micros=held_micros - own_micros), own_micros)


class FakeRecords:
    """The runs that Redis remembers to have ended."""

    def __init__(self, cache: FakeCache) -> None:
        self._cache = cache
        self.ended: set[str] = set()

    def has_ended(self, wallet_id: WalletId, process_id: str) -> bool:
        self._cache._ask()
        return process_id in self.ended


class FakeLoader:
    """Caches what Postgres knows; `refuses` are wallets that can't be cached."""

    def __init__(self, balances: FakeBalances, cache: FakeCache) -> None:
        self._balances = balances
        self._cache = cache
        self.refuses: set[WalletId] = set()
        self.refreshed: list[WalletId] = []

    def load(self, wallet_ids: Collection[WalletId], epoch: int) -> set[WalletId]:
        self._cache._ask()
        found = self._balances.of(wallet_ids)
        for wallet_id, known in found.items():
            if wallet_id not in self.refuses:
                self._cache.balances[wallet_id] = known.balance
        return set(wallet_ids) - set(found)

    def refresh(self, wallet_ids: Collection[WalletId]) -> None:
        self._balances.of(wallet_ids)
        self.refreshed += wallet_ids


class FakeIntake:
    """The inbox and the memory of its keys. `refuses` are keys that the database takes for nonsense."""

    def __init__(self) -> None:
        self.rows: dict[UUID, AcceptedEnd] = {}
        self.keys: list[KnownEnd] = []
        self.outdated: set[WalletId] = set()
        self.refuses: set[str] = set()
        self.is_away = False

    def record(self, ends: Sequence[AcceptedEnd], outdated: Callable[[set[UUID]], Set[WalletId]]) -> set[UUID]:
        self._ask()
        if any(end.request.idempotency_key in self.refuses for end in ends):
            raise sa.exc.DataError("INSERT", {}, Exception("no such text"))
        fresh = {end.id for end in ends if self._insert(end)}
        self.outdated |= outdated(fresh)
        return fresh

    def known(self, requests: Sequence[EndRequest]) -> Sequence[KnownEnd]:
        self._ask()
        return [
            end
            for end in self.keys
            if any(
                (end.idempotency_key is not None and end.idempotency_key == request.idempotency_key)
                or (end.process_id is not None and end.process_id == request.process_id)
                for request in requests
            )
        ]

    def of_process(self, process_id: str) -> Sequence[KnownEnd]:
        self._ask()
        return [end for end in self.keys if end.process_id == process_id]

    def _insert(self, end: AcceptedEnd) -> bool:
        if end.id in self.rows or self.known([end.request]):
            return False
        self.rows[end.id] = end
        if end.request.repeatable:
            request = end.request
            known = KnownEnd(
                end.id,
                request.user_id,
                request.idempotency_key,
                request.process_id,
                request.payload_hash,
                end.price.cost_micros,
                end.spendable_micros,
                end.deduction,
            )
            self.keys.append(known)
        return True

    def _ask(self) -> None:
        if self.is_away:
            raise Unavailable


class FakeSpool:
    def __init__(self, cache: FakeCache) -> None:
        self._cache = cache
        self.ends: list[AcceptedEnd] = []

    def put(self, ends: Iterable[AcceptedEnd]) -> None:
        self._cache._ask()
        self.ends += ends


class FakeHoldService:
    def __init__(self) -> None:
        self.later: list[tuple[WalletId, str]] = []

    def release_owed(self) -> None: ...

    def release_later(self, wallet_id: WalletId, process_id: str) -> None:
        self.later.append((wallet_id, process_id))


class FakeDoorbell:
    def __init__(self) -> None:
        self.settled: list[UUID] = []
        self.collected: list[IndebtedWallet] = []

    def settle(self, end_ids: Sequence[UUID]) -> None:
        self.settled += end_ids

    def collect(self, wallets: Sequence[IndebtedWallet]) -> None:
        self.collected += wallets

    def close(self) -> None: ...


class FakeChanges:
    """What the cache was told of committed changes."""

    def __init__(self) -> None:
        self.applied: list[WalletChange] = []

    def apply(self, changes: Sequence[WalletChange]) -> None:
        self.applied += changes

    def announce(self, wallet: Wallet, told: Sequence[UUID] = ()) -> None:
        self.applied.append(WalletChange(wallet, told))


class FakeAuditBook:
    def __init__(self) -> None:
        self.audited: list[tuple[str, Change]] = []

    def around(self, caller: Caller, work: Callable[[], T], told: Callable[[T], Change]) -> T:
        done = work()
        self.audited.append((caller.actor, told(done)))
        return done
