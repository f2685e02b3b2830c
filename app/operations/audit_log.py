"""Reading the audit log."""

from __future__ import annotations

from app.access.postgres import PostgresAccess
from app.domain.audit import AuditEntry, AuditFilter
from app.domain.pages import NEWEST, Page, page
from app.stores.postgres import audit as store


class AuditLog:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def list(self, wanted: AuditFilter, limit: int, before_id: int = NEWEST) -> Page[AuditEntry, int]:
        """Newest first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_newest(connection, wanted, before_id, count), lambda entry: entry.id, limit
            )
        )
