"""Holds of cached wallets, one call each: for whoever asks about one wallet, not for the many starts and ends.

Errors are redis-py's own, as in `wallet_cache`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis import Redis

from app.domain.holds import HOLD_SECONDS_MAX, REPEAT_SECONDS
from app.stores.redis.wallet_cache import IDLE_MS, WalletScript, record_keys, wallet_keys


class NoOpenHold(Exception):
    """The wallet is cached and has no such hold, or none whose time isn't over."""


@dataclass(frozen=True, slots=True)
class ExtendCall:
    user_id: str
    process_id: str
    more_micros: int
    more_ms: int
    idempotency_key: str | None
    payload_hash: str


@dataclass(frozen=True, slots=True)
class ExtendReply:
    """`outcome` is granted, denied or seen, as `extend.lua` says; the hold as it is after the call."""

    outcome: str
    available_micros: int
    held_micros: int
    hold_micros: int
    hold_ends_at_ms: int
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
    ends_at_ms: int


class WalletHolds:
    def __init__(self, client: Redis) -> None:
        def script(name: str) -> Callable[..., list[Any]]:
            return client.register_script(WalletScript(name).source)

        self._client = client
        self._extend = script("extend")
        self._release = script("release")
        self._holds = script("holds")

    def extend(self, call: ExtendCall, epoch: int) -> ExtendReply | None:
        """Add to an open hold and its life, both or neither. None where the wallet isn't cached. Raises NoOpenHold."""
        reply = self._extend(
            keys=[*wallet_keys(call.user_id), *record_keys(call.user_id, "extend", call.idempotency_key)],
            args=[
                epoch,
                call.process_id,
                call.more_micros,
                call.more_ms,
                HOLD_SECONDS_MAX * 1000,
                IDLE_MS,
                call.payload_hash,
                REPEAT_SECONDS * 1000,
            ],
        )
        match reply:
            case ["miss"]:
                return None
            case ["none"]:
                raise NoOpenHold
        outcome, available, held, amount, ends_at, payload_hash = reply
        return ExtendReply(outcome, int(available), int(held), int(amount), int(ends_at), payload_hash)

    def release(self, user_id: str, process_id: str, epoch: int) -> ReleaseReply | None:
        """Give a hold back, if there is one. None where the wallet isn't cached."""
        reply = self._release(keys=wallet_keys(user_id), args=[epoch, process_id])
        if reply[0] == "miss":
            return None
        _, available, held, amount = reply
        return ReleaseReply(int(available) - int(held), int(amount))

    def list(
        self, user_id: str, limit: int, epoch: int, after_ms: int = 0, after_id: str = ""
    ) -> list[OpenHold] | None:
        """Open holds in the order they end, after one of them. None where the wallet isn't cached."""
        reply = self._holds(keys=wallet_keys(user_id), args=[epoch, limit, after_ms, after_id])
        if reply[0] == "miss":
            return None
        return [
            OpenHold(process_id, int(amount), int(ends_at))
            for process_id, amount, ends_at in zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
        ]

    def has_ended(self, user_id: str, process_id: str) -> bool:
        """Whether Redis remembers an end of this run. It forgets it after a while."""
        [record] = record_keys(user_id, "process", process_id)
        return bool(self._client.hexists(record, "end"))
