"""Reads a cached wallet as an end would find it."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import ResponseError

from app.domain.wallets import Balance, WalletId
from app.stores.redis.keys import wallet_keys
from app.stores.redis.scripts import WalletScript, WalletScripts

_LOOK = WalletScript("look")


@dataclass(frozen=True, slots=True)
class WalletLook:
    """`balance` counts all open holds except the run's own, whose amount is `own_hold_micros`."""

    balance: Balance
    own_hold_micros: int = 0


class WalletLooks:
    """Errors are redis-py's own, as in `wallet_cache`."""

    def __init__(self, scripts: WalletScripts) -> None:
        self._scripts = scripts

    def look(self, wallet_id: WalletId, process_id: str | None, epoch: int) -> WalletLook | None:
        """None where the wallet isn't cached."""
        reply = self._scripts.run(_LOOK, wallet_keys(wallet_id), [epoch, process_id or ""])
        match reply:
            case None | ["miss"]:
                return None
            case ["seen", *amounts]:
                available, held, own_hold, debt, overdraft = map(int, amounts)
                # `available` is the posted balance less everything unsettled, debt included.
                balance = Balance(
                    available + debt,
                    debt_micros=debt,
                    held_micros=held - own_hold,
                    overdraft_limit_micros=overdraft,
                )
                return WalletLook(balance, own_hold)
        raise ResponseError(f"look.lua answered {reply!r}")
