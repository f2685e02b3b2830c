"""Decides whether its wallet covers each priced end: on cached wallets in one Redis pipeline, or by Postgres."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from redis import RedisError

from app.access.gate import Gate
from app.billing.end_outcomes import Decided, NotCached, Origin, Priced, Refused, Unused, reuse_of_key
from app.billing.ports import Balances, HoldsToRelease
from app.domain.ends import AcceptedEnd
from app.domain.errors import Unavailable, WalletNotFound
from app.domain.wallets import Balance, WalletId, deduction
from app.stores.redis.wallet_calls import EndMark, EndReply

# An answer is stored with its key in a 64-bit column (`end_keys.spendable_micros`).
SPENDABLE_MICROS_MIN = -(2**63)


class CachedWallets(Protocol):
    def end(self, marks: Sequence[EndMark], epoch: int) -> list[EndReply | None]: ...


class EndDecider:
    def __init__(self, *, cache: CachedWallets, balances: Balances, holds: HoldsToRelease, redis: Gate) -> None:
        self._cache = cache
        self._balances = balances
        self._holds = holds
        self._redis = redis

    def decide(self, ends: Sequence[Priced], epoch: int) -> list[Decided | Refused | NotCached | Unused]:
        """The decision on each end, in order. Within a wallet each decision counts the ends decided before it."""
        self._holds.release_owed()
        cached = [end for end in ends if not end.past_cache] if self._redis.is_open else []
        try:
            replies = self._cache.end([end.mark for end in cached], epoch)
        except RedisError as error:
            self._redis.close(error)
            return self._decide_from_postgres(ends)
        decided = {end.id: _decided(end, reply) for end, reply in zip(cached, replies, strict=True)}
        others = [end for end in ends if end.id not in decided]
        if others:
            decisions = self._decide_from_postgres(others)
            decided |= {end.id: decision for end, decision in zip(others, decisions, strict=True)}
        return [decided[end.id] for end in ends]

    def _decide_from_postgres(self, ends: Sequence[Priced]) -> list[Decided | Refused | NotCached | Unused]:
        try:
            wallets = self._balances.of({end.wallet_id for end in ends})
        except Unavailable as error:
            return [Refused(error) for _ in ends]
        origin = Origin.PAST_CACHE if self._redis.is_open else Origin.PAST_REDIS
        taken_micros: dict[WalletId, int] = defaultdict(int)
        decisions: list[Decided | Refused | NotCached | Unused] = []
        for end in ends:
            found = wallets.get(end.wallet_id)
            if found is None:
                decisions.append(Refused(WalletNotFound()))
                continue
            decisions.append(self._decide_one(end, found.balance, taken_micros[end.wallet_id], origin))
            taken_micros[end.wallet_id] += end.price.cost_micros
        return decisions

    def _decide_one(self, end: Priced, balance: Balance, taken_micros: int, origin: Origin) -> Decided | Unused:
        """`taken_micros` is the cost of the batch's earlier ends of the same wallet."""
        balance = replace(balance, pending_micros=balance.pending_micros + taken_micros)
        spendable_micros = max(balance.spendable_micros - end.price.cost_micros, SPENDABLE_MICROS_MIN)
        if end.request.is_free:
            if end.request.process_id is not None:
                self._holds.release_later(end.wallet_id, end.request.process_id)
            return Unused(end.request.user_id, spendable_micros)
        return Decided(end.accepted(deduction(balance, end.price.cost_micros), spendable_micros), origin)


def _decided(end: Priced, reply: EndReply | None) -> Decided | Refused | NotCached | Unused:
    """The decision that a reply of `end.lua` means. A reply of None means that the wallet isn't cached."""
    if reply is None:
        return NotCached()
    if end.request.is_free:
        return Unused(end.request.user_id, reply.spendable_micros)
    if not reply.seen:
        return Decided(end.accepted(reply.deduction, reply.spendable_micros), Origin.MARKED)
    if error := reuse_of_key(end.request, reply.payload_hash):
        return Refused(error)
    # Recorded again under the first call's id, in case the first call died before its end was durable.
    first = AcceptedEnd(reply.end_id, end.wallet_id, end.request, reply.price, reply.deduction, reply.spendable_micros)
    return Decided(first, Origin.SEEN)
