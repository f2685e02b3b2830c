"""How the catalog is changed: one change after another, each announced in its own transaction.

Every process loads the new catalog within its poll interval; the process that made it loads it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.catalog.snapshot import CatalogSnapshot
from app.stores.postgres import catalog as store

log = structlog.get_logger(__name__)

T = TypeVar("T")


class CatalogChanges:
    def __init__(self, *, postgres: PostgresAccess, snapshot: CatalogSnapshot) -> None:
        self._postgres = postgres
        self._snapshot = snapshot

    def make(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in a transaction that changes the catalog. It sees what every change before it has made.

        Raises what `work` raises, or Unavailable.
        """

        def announced(connection: sa.Connection) -> T:
            store.announce_change(connection)
            return work(connection)

        result = self._postgres.transaction(announced)
        self.show()
        return result

    def show(self) -> None:
        """Load what was changed at once."""
        try:
            self._snapshot.refresh()
        except sa.exc.SQLAlchemyError as error:
            # It is committed; this process learns of it with its next look, as the others do.
            log.warning("catalog_refresh_postponed", error=type(error).__name__)
