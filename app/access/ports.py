"""Ports that use cases of all rooms share: books, through which one transaction reads and changes its data.

Each use case declares the books that it needs beside itself, in its own words. `app/access/books.py` and its neighbours
implement them on Postgres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from app.domain.wallets import WalletId

B_co = TypeVar("B_co", covariant=True)
T = TypeVar("T")


class BookKeeping(Protocol[B_co]):
    """Runs work with its books. Each call raises Unavailable, and whatever `work` raises. `work` may run again."""

    def read(self, work: Callable[[B_co], T]) -> T:
        """Each statement that writes commits at once, by itself."""

    def transaction(self, work: Callable[[B_co], T]) -> T:
        """Committed when this returns; nothing is written when `work` raises."""


class WalletBookKeeping(BookKeeping[B_co], Protocol[B_co]):
    def in_turn(self, wallet_id: WalletId, work: Callable[[B_co], T]) -> T:
        """A transaction that locks this one wallet. Also raises WalletBusy."""
