"""Audit log entries for changes made outside of Postgres."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from app.access.postgres import PostgresAccess
from app.domain.audit import Change
from app.domain.keys import Caller
from app.stores.postgres import audit

T = TypeVar("T")


class AuditBook:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def around(self, caller: Caller, work: Callable[[], T], told: Callable[[T], Change]) -> T:
        """Do `work` once, and write the change that `told` makes of its result to the audit log.

        Without Postgres `work` isn't done. Raises what `work` raises; nothing is written then. Raises Unavailable where
        Postgres is away; if Postgres was lost while committing, `work` may have been done all the same.
        """
        done: list[T] = []

        def written(connection: sa.Connection) -> T:
            if not done:
                done.append(work())
            audit.write_all(connection, caller, [told(done[0])])
            return done[0]

        return self._postgres.transaction(written)
