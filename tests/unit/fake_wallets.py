"""Books by which wallets are opened, changed and listed, in memory, and what their open holds reserve."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from app.domain.errors import Unavailable
from app.domain.pages import FIRST_ID
from app.domain.reports import WalletOrder, Wallets
from app.domain.wallets import Wallet, WalletBalance, WalletId, WalletStatus
from tests.unit.fake_books import FakeBooks
from tests.unit.fakes import NOW, PACKAGE


class FakeWalletBooks(FakeBooks):
    """The same for wallets under their users' ids. `pages` says how many were asked for at once, and among whom."""

    def __init__(self, *wallets: Wallet) -> None:
        super().__init__(*wallets)
        self.packages = {PACKAGE}
        self.pages: list[tuple[int, Collection[WalletId] | None]] = []

    def has_package(self, package_id: str) -> bool:
        return package_id in self.packages

    def open(
        self, wallet_id: WalletId, user_id: str, package_id: str | None, status: str, overdraft_limit_micros: int
    ) -> Wallet | None:
        if wallet_id in self.wallets:
            return None
        opened = Wallet(wallet_id, package_id, WalletStatus(status), 0, 0, overdraft_limit_micros, version=1)
        self.wallets[wallet_id] = opened
        return opened

    def balances(self, wallet_ids: Collection[WalletId]) -> Mapping[WalletId, WalletBalance]:
        return {wallet_id: self._balance(wallet_id) for wallet_id in wallet_ids if wallet_id in self.wallets}

    def list_wallets(
        self, wanted: Wallets, order: WalletOrder, after: str, limit: int, among: Collection[WalletId] | None
    ) -> Sequence[WalletBalance]:
        self.pages.append((limit, among))
        meant = [each for each in sorted(self.wallets) if among is None or each in among]
        return [self._balance(each) for each in meant if after == FIRST_ID or each > after][:limit]

    def _balance(self, wallet_id: WalletId) -> WalletBalance:
        wallet = self.wallets[wallet_id]
        return WalletBalance(wallet_id, wallet, wallet.balance(), NOW)


class FakeOpenHolds:
    """`noted` are wallets that may have holds beside those that have. Redis goes away after so many more calls."""

    def __init__(self) -> None:
        self.held: dict[WalletId, int] = {}
        self.noted: set[WalletId] = set()
        self.calls_left: int | None = None

    def held_micros(self, wallet_ids: Sequence[WalletId]) -> Sequence[int]:
        self._ask()
        return [self.held.get(wallet_id, 0) for wallet_id in wallet_ids]

    def holders(self) -> Collection[WalletId]:
        self._ask()
        return {*self.held, *self.noted}

    def _ask(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Unavailable
