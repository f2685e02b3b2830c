"""Changes of the catalog. They run one after another, and each is announced in its own transaction.

Every process loads a changed catalog within its poll interval; the process that changed it loads it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.access.ports import BookKeeping

log = structlog.get_logger(__name__)


class Announcing(Protocol):
    def announce(self) -> None:
        """Let every process see on commit that something changed. Another transaction that announces waits until this
        one has ended.
        """


class Copy(Protocol):
    """This process's own copy of the catalog."""

    def refresh(self) -> object:
        """Raises SQLAlchemyError when Postgres is away."""


class Showing(Protocol):
    def show(self) -> None:
        """Load the changed catalog into this process at once; never raises because a store is away."""


B_co = TypeVar("B_co", bound=Announcing, covariant=True)
T = TypeVar("T")


class CatalogChanges(Generic[B_co]):
    def __init__(self, *, books: BookKeeping[B_co], copy: Copy) -> None:
        self._books = books
        self._copy = copy

    def make(self, work: Callable[[B_co], T]) -> T:
        """Run `work` in a transaction that changes the catalog. It sees all changes that came before it.

        Raises what `work` raises, or Unavailable.
        """

        def announced(books: B_co) -> T:  # type: ignore[misc]
            books.announce()
            return work(books)

        result = self._books.transaction(announced)
        self.show()
        return result

    def show(self) -> None:
        """Load the changed catalog into this process at once."""
        try:
            self._copy.refresh()
        except SQLAlchemyError as error:
            # The change is committed. This process loads it at its next poll, as the others do.
            log.warning("catalog_refresh_postponed", error=type(error).__name__)
