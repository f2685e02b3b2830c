"""How use cases tell the workers that there is work. Any message may be lost: the sweep finds that work later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from app.stores.postgres.debts import IndebtedWallet


class Doorbell(Protocol):
    def settle(self, end_ids: Sequence[UUID]) -> None:
        """Tell the workers about recorded ends; best effort, never raises."""

    def collect(self, wallets: Sequence[IndebtedWallet]) -> None:
        """Have workers collect the debts of wallets, each as a task of its own; best effort, never raises."""

    def close(self) -> None:
        """Send what is pending, then stop."""
