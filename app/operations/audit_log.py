"""Reading the audit log."""

from __future__ import annotations

from collections.abc import Iterator

from app.access.postgres import PostgresAccess
from app.domain.audit import AuditEntry, AuditFilter
from app.domain.pages import NEWEST, Page, page
from app.stores.postgres import audit as store

ENTRIES_PER_FETCH = 1_000


class AuditLog:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def all(self, wanted: AuditFilter) -> Iterator[AuditEntry]:
        """All matching entries, newest first, without a limit. Raises Unavailable."""
        start: int | None = NEWEST
        while start is not None:
            found = self.list(wanted, ENTRIES_PER_FETCH, start)
            yield from found.items
            start = found.next_key

    def list(self, wanted: AuditFilter, limit: int, before_id: int = NEWEST) -> Page[AuditEntry, int]:
        """Newest first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_newest(connection, wanted, before_id, count), lambda entry: entry.id, limit
            )
        )
