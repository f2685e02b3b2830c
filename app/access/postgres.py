"""How services reach Postgres: with bounded waits, with retries where these may help, and refused at once while it is
away.

A failure of one call (a row that somebody has locked, a statement that took too long, no free connection) is answered
as such and doesn't close the gate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import sqlalchemy as sa

from app.access.gate import Gate
from app.access.turns import WalletTurns
from app.domain.errors import TooSlow, Unavailable, WalletBusy
from app.domain.wallets import WalletId
from app.stores.failures import Failure
from app.stores.postgres.engine import POOL_OVERFLOW, POOL_SIZE
from app.stores.postgres.failures import failure_of, is_lock_timeout, is_passing, is_silent, is_too_slow

T = TypeVar("T")

ATTEMPTS = 3
# Transactions may wait for rows. They get at most half of a process's connections, so that the others stay free for
# starts and ends, which need one for a millisecond.
TRANSACTIONS_MAX = (POOL_SIZE + POOL_OVERFLOW) // 2


class PostgresAccess:
    def __init__(self, engine: sa.Engine, gate: Gate, *, wait_seconds: float) -> None:
        """`wait_seconds` is how long a transaction waits for its turn to get a connection."""
        self._engine = engine
        # Each statement is a transaction by itself: one round trip instead of three.
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._wait_seconds = wait_seconds
        self._slots = threading.BoundedSemaphore(TRANSACTIONS_MAX)
        self._turns = WalletTurns(wait_seconds=wait_seconds)
        self.gate = gate

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Run statements that each commit on their own. `work` may run again, so it must be idempotent.

        Raises Unavailable when Postgres is away or too busy (TooSlow: a statement took too long), SQLAlchemyError when
        it refuses.
        """
        return self._attempt(self._autocommit.connect, work)

    def transaction(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction, committed when it returns and rolled back when it raises.

        `work` may run again, after a rollback or a lost answer to COMMIT, so it must be idempotent. Raises WalletBusy
        when another transaction keeps a row locked that it needs, Unavailable when Postgres is away or too busy,
        SQLAlchemyError when it refuses.
        """
        self._check_gate()
        with self._slot():
            return self._attempt(self._engine.begin, work)

    def wallet_transaction(self, wallet_id: WalletId, work: Callable[[sa.Connection], T]) -> T:
        """A transaction that locks this one wallet. However many of these wait, calls about other wallets find
        connections.
        """
        self._check_gate()
        with self._turns.take(wallet_id):
            return self.transaction(work)

    def _check_gate(self) -> None:
        if not self.gate.is_open:
            raise Unavailable

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(timeout=self._wait_seconds):
            raise Unavailable
        try:
            yield
        finally:
            self._slots.release()

    def _attempt(
        self, connect: Callable[[], AbstractContextManager[sa.Connection]], work: Callable[[sa.Connection], T]
    ) -> T:
        self._check_gate()
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                with connect() as connection:
                    return work(connection)
            except sa.exc.SQLAlchemyError as error:
                failure = failure_of(error)
                if failure is Failure.REFUSED:
                    self._raise_refused(error, attempts_left)
                elif failure is Failure.CANNOT_WRITE or not attempts_left or is_silent(error):
                    self.gate.close(error)
                    raise Unavailable from error
        raise AssertionError("unreachable")

    @staticmethod
    def _raise_refused(error: sa.exc.SQLAlchemyError, attempts_left: int) -> None:
        """Raise the error that a refusal means; return if the call is worth another attempt."""
        if is_lock_timeout(error):
            raise WalletBusy from error
        if is_too_slow(error):
            # Waiting as long again helps nobody, and other requests may succeed.
            raise TooSlow from error
        if isinstance(error, sa.exc.TimeoutError) or (is_passing(error) and not attempts_left):
            # No connection became free, or a passing condition lasted through all attempts.
            raise Unavailable from error
        if not is_passing(error):
            raise error
