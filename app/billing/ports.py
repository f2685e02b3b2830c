"""What several use cases here ask of their surroundings. What only one of them asks stands beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from app.domain.catalog import Catalog
from app.domain.wallets import WalletBalance, WalletId


class CacheEpoch(Protocol):
    @property
    def epoch(self) -> int:
        """The least in which a wallet has to be cached."""


class CurrentCatalog(CacheEpoch, Protocol):
    @property
    def current(self) -> Catalog: ...


class Balances(Protocol):
    def of(self, wallet_ids: Collection[WalletId]) -> Mapping[WalletId, WalletBalance]:
        """Those that there are. Raises Unavailable."""


class WalletsToCache(Protocol):
    def load(self, wallet_ids: Collection[WalletId], epoch: int) -> set[WalletId]:
        """Cache these; the ids that no wallet has. Raises Unavailable or RedisError."""


class HoldsToRelease(Protocol):
    def release_owed(self) -> None:
        """Never raises because a store is away."""

    def release_later(self, wallet_id: WalletId, process_id: str) -> None: ...
