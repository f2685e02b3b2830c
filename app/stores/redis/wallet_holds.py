"""Holds of cached wallets, one call each: for whoever asks about one wallet, not for the many starts and ends.

Errors are redis-py's own, as in `wallet_cache`; so is what is wrong with one wallet that wallet's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from redis import Redis
from redis.exceptions import ResponseError

from app.domain.holds import HOLD_SECONDS_MAX, REPEAT_SECONDS
from app.domain.reasons import CacheVerdict
from app.domain.wallets import WalletId
from app.stores.redis.keys import record_keys, wallet_keys
from app.stores.redis.scripts import WalletScript, is_of_one_wallet
from app.stores.redis.wallet_cache import IDLE_SECONDS, WalletCache
from app.stores.redis.wallet_calls import milliseconds, moment

_EXTEND, _RELEASE, _HOLDS = map(WalletScript, ("extend", "release", "holds"))


class NoOpenHold(Exception):
    """The wallet is cached and has no such hold, or none whose time isn't over."""


@dataclass(frozen=True, slots=True)
class ExtendCall:
    wallet_id: WalletId
    process_id: str
    more_micros: int
    more_seconds: float
    idempotency_key: str | None
    payload_hash: str


@dataclass(frozen=True, slots=True)
class ExtendReply:
    """As `extend.lua` decided; the hold as it is after the call."""

    outcome: CacheVerdict
    available_micros: int
    held_micros: int
    hold_micros: int
    hold_ends_at: datetime
    payload_hash: str

    @property
    def spendable_micros(self) -> int:
        return self.available_micros - self.held_micros


@dataclass(frozen=True, slots=True)
class ReleaseReply:
    """What can be spent after it, and what the hold reserved: 0 if there was none."""

    spendable_micros: int
    released_micros: int


@dataclass(frozen=True, slots=True)
class OpenHold:
    process_id: str
    amount_micros: int
    ends_at: datetime
    position: str
    """Where a list goes on after it: its end in milliseconds, a colon, its process id."""


class WalletHolds:
    def __init__(self, client: Redis, cache: WalletCache) -> None:
        self._client = client
        self._cache = cache

    def extend(self, call: ExtendCall, epoch: int) -> ExtendReply | None:
        """Add to an open hold and its life, both or neither. None where the wallet isn't cached. Raises NoOpenHold."""
        reply = self._cache.scripts.run(
            _EXTEND,
            [*wallet_keys(call.wallet_id), *record_keys(call.wallet_id, "extend", call.idempotency_key)],
            [
                epoch,
                call.process_id,
                call.more_micros,
                milliseconds(call.more_seconds),
                milliseconds(HOLD_SECONDS_MAX),
                milliseconds(IDLE_SECONDS),
                call.payload_hash,
                milliseconds(REPEAT_SECONDS),
            ],
        )
        match reply:
            case None | ["miss"]:
                return None
            case ["none"]:
                raise NoOpenHold
        outcome, available, held, amount, ends_at, payload_hash = reply
        return ExtendReply(
            CacheVerdict(outcome), int(available), int(held), int(amount), moment(int(ends_at)), payload_hash
        )

    def release(self, wallet_id: WalletId, process_id: str, epoch: int) -> ReleaseReply | None:
        """Give a hold back, if there is one. None where the wallet isn't cached."""
        reply = self._cache.scripts.run(_RELEASE, wallet_keys(wallet_id), [epoch, process_id])
        if reply is None or reply[0] == "miss":
            return None
        _, available, held, amount = reply
        return ReleaseReply(int(available) - int(held), int(amount))

    def list(self, wallet_id: WalletId, limit: int, epoch: int, after: str = "") -> list[OpenHold] | None:
        """Open holds in the order they end, after a position. None where the wallet isn't cached."""
        ends_at, _, process_id = after.partition(":")
        reply = self._cache.scripts.run(_HOLDS, wallet_keys(wallet_id), [epoch, limit, int(ends_at or 0), process_id])
        if reply is None or reply[0] == "miss":
            return None
        return [
            OpenHold(process_id, int(amount), moment(int(ends_at)), f"{ends_at}:{process_id}")
            for process_id, amount, ends_at in zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
        ]

    def has_ended(self, wallet_id: WalletId, process_id: str) -> bool:
        """Whether Redis remembers an end of this run. It forgets it after a while."""
        [record] = record_keys(wallet_id, "process", process_id)
        try:
            return bool(self._client.hexists(record, "end"))
        except ResponseError as error:
            if is_of_one_wallet(error):
                return False
            raise
