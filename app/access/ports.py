"""What use cases of every room ask for: books, by which one transaction sees and changes what they are about.

Which books stands beside each use case, in the words of its subject. `app/access/books.py` keeps them in Postgres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from app.domain.wallets import WalletId

B_co = TypeVar("B_co", covariant=True)
T = TypeVar("T")


class BookKeeping(Protocol[B_co]):
    """Gives work its books. Each call raises Unavailable, and what `work` raises, which may run again."""

    def read(self, work: Callable[[B_co], T]) -> T:
        """What is written commits at once, each by itself."""

    def transaction(self, work: Callable[[B_co], T]) -> T:
        """Committed when it returns; nothing is written when `work` raises."""


class WalletBookKeeping(BookKeeping[B_co], Protocol[B_co]):
    def in_turn(self, wallet_id: WalletId, work: Callable[[B_co], T]) -> T:
        """A transaction that locks this one wallet. Raises WalletBusy besides."""
