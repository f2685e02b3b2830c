"""How the catalog is changed: one change after another, each announced in its own transaction.

Every process loads the new catalog within its poll interval; the process that made it loads it at once.
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
        """Have every process told on commit. Whoever announces next waits until this transaction has ended."""


class Copy(Protocol):
    """This process's own copy of the catalog."""

    def refresh(self) -> object:
        """Raises SQLAlchemyError when Postgres is away."""


class Showing(Protocol):
    def show(self) -> None:
        """Load what was changed at once; never raises because a store is away."""


B_co = TypeVar("B_co", bound=Announcing, covariant=True)
T = TypeVar("T")


class CatalogChanges(Generic[B_co]):
    def __init__(self, *, books: BookKeeping[B_co], copy: Copy) -> None:
        self._books = books
        self._copy = copy

    def make(self, work: Callable[[B_co], T]) -> T:
        """Run `work` in a transaction that changes the catalog. It sees what every change before it has made.

        Raises what `work` raises, or Unavailable.
        """

        def announced(books: B_co) -> T:  # type: ignore[misc]
            books.announce()
            return work(books)

        result = self._books.transaction(announced)
        self.show()
        return result

    def show(self) -> None:
        """Load what was changed at once."""
        try:
            self._copy.refresh()
        except SQLAlchemyError as error:
            # It is committed; this process learns of it with its next look, as the others do.
            log.warning("catalog_refresh_postponed", error=type(error).__name__)
