"""Calls that lock the same wallet take turns before they take a connection.

The row's lock would make them wait for each other anyway. Waiting here instead, they hold at most one connection
together: a wallet that somebody has locked by hand takes no connections from the others.
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
        # The last caller couldn't lock the row. Until one can, one caller at a time tries and the others fail at once.
        self.is_stuck = False


class WalletTurns:
    def __init__(self, *, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._turns: dict[WalletId, _Turn] = {}

    @contextmanager
    def take(self, wallet_id: WalletId) -> Iterator[None]:
        """Hold the wallet's turn within this context. The body raises WalletBusy when the wallet's row is locked.

        Raises WalletBusy when the turn doesn't come in time, or when the caller before couldn't lock the row.
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
        """The wallet's turn, and whether its row was stuck, so that we are the one caller who tries it."""
        with self._lock:
            turn = self._turns.setdefault(wallet_id, _Turn())
            if turn.is_stuck and turn.takers:
                raise WalletBusy
            turn.takers += 1
            return turn, turn.is_stuck

    def _leave(self, wallet_id: WalletId, turn: _Turn) -> None:
        """Forget a wallet without callers, unless its row is stuck; stuck ones too once there are more than
        STUCK_WALLETS_MAX wallets.
        """
        with self._lock:
            turn.takers -= 1
            if turn.takers:
                return
            if not turn.is_stuck:
                self._turns.pop(wallet_id, None)
            elif len(self._turns) > STUCK_WALLETS_MAX:
                self._turns = {wallet_id: turn for wallet_id, turn in self._turns.items() if turn.takers}
