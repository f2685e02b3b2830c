"""Open holds of cached wallets, one call each: for whoever asks about one hold, not for the many starts and ends.

Errors are redis-py's own, as in `wallet_cache`.
"""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from app.domain.holds import HOLD_SECONDS_MAX
from app.stores.redis.wallet_cache import IDLE_MS, WalletScript, wallet_keys


@dataclass(frozen=True, slots=True)
class ExtendReply:
    """The hold as it is after the call, changed only if that `is_granted`."""

    is_granted: bool
    available_micros: int
    held_micros: int
    hold_micros: int
    hold_ends_at_ms: int

    @property
    def spendable_micros(self) -> int:
        return self.available_micros - self.held_micros


class NoOpenHold(Exception):
    """The wallet is cached and has no such hold, or none whose time isn't over."""


class WalletHolds:
    def __init__(self, client: Redis) -> None:
        self._extend = client.register_script(WalletScript("extend").source)

    def extend(
        self, user_id: str, process_id: str, *, more_micros: int, more_ms: int, epoch: int
    ) -> ExtendReply | None:
        """Add to an open hold and its life, both or neither. None where the wallet isn't cached. Raises NoOpenHold."""
        reply = self._extend(
            keys=wallet_keys(user_id),
            args=[epoch, process_id, more_micros, more_ms, HOLD_SECONDS_MAX * 1000, IDLE_MS],
        )
        if reply[0] == "miss":
            return None
        if reply[0] == "none":
            raise NoOpenHold
        return ExtendReply(reply[0] == "granted", *map(int, reply[1:]))
