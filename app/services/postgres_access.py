"""How services reach Postgres: bounded, tried once more when that may help, and closed to all while it is away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import sqlalchemy as sa

from app.domain.errors import TooSlow, Unavailable
from app.services.gate import Gate
from app.stores.postgres.engine import is_away, is_passing, is_silent, is_too_slow

T = TypeVar("T")

ATTEMPTS = 3


class PostgresAccess:
    def __init__(self, engine: sa.Engine, gate: Gate) -> None:
        self._engine = engine
        # Each statement a whole transaction: one round trip instead of three.
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.gate = gate

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Run statements that each commit on their own. `work` may run again and must not mind.

        Raises Unavailable when Postgres is away, SQLAlchemyError when it refuses.
        """
        return self._attempt(self._autocommit.connect, work)

    def transaction(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction, committed when it returns and rolled back when it raises.

        It may run again, after a roll-back or an answer to COMMIT that got lost, and must not mind.
        Raises Unavailable when Postgres is away, SQLAlchemyError when it refuses.
        """
        return self._attempt(self._engine.begin, work)

    def _attempt(
        self, connect: Callable[[], AbstractContextManager[sa.Connection]], work: Callable[[sa.Connection], T]
    ) -> T:
        if not self.gate.is_open:
            raise Unavailable
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                with connect() as connection:
                    return work(connection)
            except sa.exc.SQLAlchemyError as error:
                if is_too_slow(error):
                    # Waiting as long again helps nobody, and other requests may do well.
                    raise TooSlow from error
                if not (is_away(error) or is_passing(error)):
                    raise
                if attempts_left and not is_silent(error):
                    continue
                self.gate.close(error)
                raise Unavailable from error
        raise AssertionError("unreachable")
