"""The books of top-ups of many wallets, in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from app.domain.wallets import Wallet, WalletId
from app.stores.postgres.ledger import LedgerEntry, NewEntry
from tests.unit.fake_books import FakeBooks

T = TypeVar("T")


class FakeTopUpBooks(FakeBooks):
    """The same with what became of the wallets of one top-up; None of those that wait."""

    def __init__(self, *wallets: Wallet) -> None:
        super().__init__(*wallets)
        self.outcomes: dict[WalletId, str | None] = {}
        self.refuses: set[WalletId] = set()

    def in_turn(self, batch_id: int, wallet_id: WalletId, work: Callable[[Any], T]) -> T:  # type: ignore[override]
        return self._outcomes_kept(lambda: super(FakeTopUpBooks, self).in_turn(wallet_id, work))

    def together(self, batch_id: int, work: Callable[[Any], T]) -> T:
        return self._outcomes_kept(lambda: self.transaction(work))

    def lock_free(self, wallet_ids: Sequence[WalletId]) -> Collection[WalletId]:
        return {wallet_id for wallet_id in wallet_ids if wallet_id in self.wallets} - self.busy

    def enter(self, wallet: Wallet, entries: Sequence[NewEntry]) -> Sequence[LedgerEntry]:
        if wallet.id in self.refuses:
            raise sa.exc.IntegrityError("refused", None, Exception())
        return super().enter(wallet, entries)

    def claim(self, wallet_id: WalletId) -> bool:
        return self.outcomes.get(wallet_id, "") is None

    def set_outcome(self, wallet_id: WalletId, outcome: str, **_: Any) -> None:
        self.outcomes[wallet_id] = outcome

    def _outcomes_kept(self, work: Callable[[], T]) -> T:
        before = dict(self.outcomes)
        try:
            return work()
        except Exception:
            self.outcomes = before
            raise
