"""Holds of cached wallets: calls about a single wallet, not the bulk of starts and ends.

Errors are redis-py's own, as in `wallet_cache`; as there, a fault in one wallet affects only that wallet.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.holds import HOLD_SECONDS_MAX, REPEAT_SECONDS
from app.domain.reasons import CacheVerdict
from app.domain.wallets import WalletId
from app.stores.redis import holders
from app.stores.redis.keys import wallet_keys
from app.stores.redis.records import keys_of_extension
from app.stores.redis.scripts import WalletScript, WalletScripts
from app.stores.redis.wallet_calls import (
    IDLE_SECONDS,
    ExtendCall,
    ExtendReply,
    OpenHold,
    ReleaseReply,
    milliseconds,
    moment,
)

_EXTEND, _RELEASE, _HOLDS = map(WalletScript, ("extend", "release", "holds"))


class NoOpenHold(Exception):
    """The wallet is cached and has no such hold, or the hold has expired."""


class WalletHolds:
    def __init__(self, scripts: WalletScripts) -> None:
        self._scripts = scripts

    def extend(self, call: ExtendCall, epoch: int) -> ExtendReply | None:
        """Add to an open hold's amount and life, both or neither. None where the wallet isn't cached. Raises
        NoOpenHold.
        """
        arguments = [
            epoch,
            call.process_id,
            call.more_micros,
            milliseconds(call.more_seconds),
            milliseconds(HOLD_SECONDS_MAX),
            milliseconds(IDLE_SECONDS),
            call.payload_hash,
            milliseconds(REPEAT_SECONDS),
        ]
        [reply] = self._scripts.run_all(
            _EXTEND,
            [(keys_of_extension(call), arguments)],
            before=lambda pipeline: holders.note(pipeline, {call.wallet_id: HOLD_SECONDS_MAX}),
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
        """Release a hold, if there is one. None where the wallet isn't cached."""
        reply = self._scripts.run(_RELEASE, wallet_keys(wallet_id), [epoch, process_id])
        if reply is None or reply[0] == "miss":
            return None
        _, available, held, amount = reply
        return ReleaseReply(int(available) - int(held), int(amount))

    def held(self, wallet_ids: Sequence[WalletId]) -> Sequence[int]:
        """Micro-tokens held now by each wallet; 0 where nothing is cached."""
        # Without a process id the script releases no hold: it removes expired ones and returns the sum of the rest.
        replies = self._scripts.run_all(_RELEASE, [(wallet_keys(wallet_id), [0, ""]) for wallet_id in wallet_ids])
        return [0 if reply is None or reply[0] == "miss" else int(reply[2]) for reply in replies]

    def list(self, wallet_id: WalletId, limit: int, epoch: int, after: str = "") -> list[OpenHold] | None:
        """Open holds after a position, in the order they end. None where the wallet isn't cached."""
        ends_at, _, process_id = after.partition(":")
        reply = self._scripts.run(_HOLDS, wallet_keys(wallet_id), [epoch, limit, int(ends_at or 0), process_id])
        if reply is None or reply[0] == "miss":
            return None
        return [
            OpenHold(process_id, int(amount), moment(int(ends_at)), f"{ends_at}:{process_id}")
            for process_id, amount, ends_at in zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
        ]
