"""Calls that lock the same wallet take turns before they take a connection.

The row's lock makes them wait for each other anyway. Waiting here, all of them together hold one connection at most:
a wallet that somebody has locked by hand takes nothing from the others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.domain.errors import WalletBusy
from app.domain.wallets import WalletId

STUCK_WALLETS_MAX = 1_000


class _Turn:
    __slots__ = ("is_stuck", "lock", "takers")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.takers = 0
        # Whoever had the last turn didn't get the row: until somebody does, one at a time tries and nobody waits.
        self.is_stuck = False


class WalletTurns:
    def __init__(self, *, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._turns: dict[WalletId, _Turn] = {}

    @contextmanager
    def take(self, wallet_id: WalletId) -> Iterator[None]:
        """Have the turn of a wallet; raise WalletBusy within it when its row can't be had.

        Raises WalletBusy when the turn doesn't come in time, or the one before couldn't have the row.
        """
        turn, tries_anew = self._enter(wallet_id)
        try:
            if not turn.lock.acquire(timeout=self._wait_seconds):
                raise WalletBusy
            try:
                if turn.is_stuck and not tries_anew:
                    raise WalletBusy  # noqa: TRY301
                yield
                turn.is_stuck = False
            except BaseException as error:
                turn.is_stuck = isinstance(error, WalletBusy)
                raise
            finally:
                turn.lock.release()
        finally:
            self._leave(wallet_id, turn)

    def _enter(self, wallet_id: WalletId) -> tuple[_Turn, bool]:
        """The wallet's turn, and whether we try to have a row that was stuck."""
        with self._lock:
            turn = self._turns.setdefault(wallet_id, _Turn())
            if turn.is_stuck and turn.takers:
                raise WalletBusy
            turn.takers += 1
            return turn, turn.is_stuck

    def _leave(self, wallet_id: WalletId, turn: _Turn) -> None:
        """Forget a wallet that nobody wants, unless its row is stuck; and those once a thousand are."""
        with self._lock:
            turn.takers -= 1
            if turn.takers:
                return
            if not turn.is_stuck:
                self._turns.pop(wallet_id, None)
            elif len(self._turns) > STUCK_WALLETS_MAX:
                self._turns = {wallet_id: turn for wallet_id, turn in self._turns.items() if turn.takers}
