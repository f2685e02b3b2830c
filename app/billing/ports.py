"""Protocols that several use cases of this package need. A protocol that only one needs is defined beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from app.domain.catalog import Catalog
from app.domain.wallets import WalletBalance, WalletId


class CacheEpoch(Protocol):
    @property
    def epoch(self) -> int:
        """The current cache epoch: wallets that were cached in an older one have to be loaded anew."""


class CurrentCatalog(CacheEpoch, Protocol):
    @property
    def current(self) -> Catalog: ...


class Balances(Protocol):
    def of(self, wallet_ids: Collection[WalletId]) -> Mapping[WalletId, WalletBalance]:
        """Balances by wallet id; wallets that don't exist are left out. Raises Unavailable."""


class WalletsToCache(Protocol):
    def load(self, wallet_ids: Collection[WalletId], epoch: int) -> set[WalletId]:
        """Load wallets into the cache. Returns the ids that no wallet has. Raises Unavailable or RedisError."""


class HoldsToRelease(Protocol):
    def release_owed(self) -> None:
        """Never raises because a store is away."""

    def release_later(self, wallet_id: WalletId, process_id: str) -> None: ...
