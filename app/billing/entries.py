"""A change of a wallet that left an entry in its ledger: what the caller gets, and who else has to hear of it."""

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
        """Bring its cached copy up to it; never raises because a store is away."""


class Bell(Protocol):
    def collect(self, wallets: Sequence[IndebtedWallet]) -> None: ...


@dataclass(frozen=True, slots=True)
class Entered:
    """`replayed`: it stood there before, and nothing was changed."""

    entry: LedgerEntry
    replayed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction did. Without a wallet nothing: the entry was there."""

    entry: LedgerEntry
    wallet: Wallet | None = None
    told: Sequence[UUID] = ()
    """Ends that left the inbox with it."""
    woken: Sequence[IndebtedWallet] = ()

    def tell(self, changes: Changes, doorbell: Bell) -> Entered:
        """Once it is committed."""
        if self.wallet is None:
            return Entered(self.entry, replayed=True)
        changes.announce(self.wallet, self.told)
        doorbell.collect(self.woken)
        return Entered(self.entry, replayed=False)
