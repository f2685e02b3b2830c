"""A change of a wallet with an entry in its ledger: the caller's result, and what to announce after the commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from app.domain.wallets import Wallet
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.ledger import LedgerEntry


class Changes(Protocol):
    def announce(self, wallet: Wallet, told: Sequence[UUID] = ()) -> None:
        """Bring the cached wallet up to a committed change; never raises because a store is away."""


class Bell(Protocol):
    def collect(self, wallets: Sequence[IndebtedWallet]) -> None: ...


@dataclass(frozen=True, slots=True)
class Entered:
    """`replayed`: the entry existed before, and nothing was changed."""

    entry: LedgerEntry
    replayed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """The result of a transaction. `wallet` is None if the entry existed before, and nothing was changed."""

    entry: LedgerEntry
    wallet: Wallet | None = None
    told: Sequence[UUID] = ()
    """Ends that this transaction removed from the inbox."""
    woken: Sequence[IndebtedWallet] = ()

    def tell(self, changes: Changes, doorbell: Bell) -> Entered:
        """Announce the change to the cache and the workers. Call it after the commit."""
        if self.wallet is None:
            return Entered(self.entry, replayed=True)
        changes.announce(self.wallet, self.told)
        doorbell.collect(self.woken)
        return Entered(self.entry, replayed=False)
