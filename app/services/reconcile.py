"""Reconciliation: do wallets, ledger and cache say the same?

Every wallet is held against its ledger, then its cached copy against both. A cached copy that drifted is
corrected; the ledger never is: what is wrong there is for people to look into. One runs at a time. A run that
dies leaves a row that the next one marks as failed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
import structlog
from redis import RedisError

from app.domain.errors import AlreadyExists, NotFound, Unavailable
from app.services.admin_paging import FIRST_ID
from app.services.cache_audit import CacheAudit, Suspect
from app.services.gate import Gate
from app.services.postgres_access import PostgresAccess
from app.stores.postgres import reconciliation as store
from app.stores.postgres.reconciliation import Drift, DriftKind, Reconciliation, State, WalletSums

log = structlog.get_logger(__name__)

T = TypeVar("T")

WALLETS_PER_PAGE = 500
# So many wallets wait together for their second look.
SUSPECTS_MAX = 5_000
# How many drifts are told one by one.
DRIFTS_TOLD_MAX = 1_000
PAGE_SECONDS_MAX = 300


@dataclass
class _Tally:
    """What a run has found so far."""

    checked: int = 0
    cache_checked: bool = True
    money: list[Drift] = field(default_factory=list)
    cache: list[Drift] = field(default_factory=list)
    drifted_count: int = 0
    repaired: int = 0

    def add(self, drifts: list[Drift]) -> None:
        self.drifted_count += len(drifts)
        self.repaired += sum(drift.repaired for drift in drifts)
        for drift in drifts:
            told = self.cache if drift.kind is DriftKind.CACHE else self.money
            if len(told) < DRIFTS_TOLD_MAX:
                told.append(drift)

    @property
    def told(self) -> list[Drift]:
        """The ledger's first: however much of the cache drifted, money shows."""
        return (self.money + self.cache)[:DRIFTS_TOLD_MAX]


class ReconcileService:
    def __init__(
        self, *, postgres: PostgresAccess, audit: CacheAudit, redis: Gate, wallets_per_page: int = WALLETS_PER_PAGE
    ) -> None:
        self._postgres = postgres
        self._audit = audit
        self._redis = redis
        self._wallets_per_page = wallets_per_page

    def run(self) -> Reconciliation:
        """Check every wallet and correct the cache; what was found.

        Raises AlreadyExists when one is running, or Unavailable.
        """
        # The lock lives on a connection of its own, and is gone with it.
        return self._postgres.run(self._alone)

    def get(self, number: int) -> Reconciliation:
        """Raises NotFound or Unavailable."""
        found = self._postgres.run(lambda connection: store.find(connection, number))
        if found is None:
            raise NotFound("Reconciliation not found")
        return found

    def _alone(self, connection: sa.Connection) -> Reconciliation:
        if not store.try_lock(connection):
            raise AlreadyExists("A reconciliation is running already")
        try:
            return self._recorded()
        finally:
            with suppress(sa.exc.SQLAlchemyError):
                store.unlock(connection)

    def _recorded(self) -> Reconciliation:
        number = self._postgres.transaction(store.begin)
        tally = _Tally()
        try:
            self._walk(tally)
        except BaseException:
            # Stopped or broken off: what was found up to here is kept, if Postgres still takes it.
            with suppress(Unavailable, sa.exc.SQLAlchemyError):
                self._finish(number, State.FAILED, tally)
            raise
        done = self._finish(number, State.DONE, tally)
        report = log.error if not done.adds_up else log.warning if done.drifted_count else log.info
        report(
            "reconciled",
            id=done.id,
            checked=done.checked,
            drifted=done.drifted_count,
            repaired=done.repaired,
            cache_checked=done.cache_checked,
        )
        return done

    def _finish(self, number: int, state: State, tally: _Tally) -> Reconciliation:
        return self._postgres.run(
            lambda connection: store.finish(
                connection,
                number,
                state=state,
                checked=tally.checked,
                cache_checked=tally.cache_checked and state is State.DONE,
                drifted_count=tally.drifted_count,
                repaired=tally.repaired,
                drifted=tally.told,
            )
        )

    def _walk(self, tally: _Tally) -> None:
        suspects: dict[str, Suspect] = {}
        after_id = FIRST_ID
        while page := self._page(after_id):
            after_id = page[-1].user_id
            tally.checked += len(page)
            tally.add([drift for wallet in page for drift in _ledger_drifts(wallet)])
            with_cache = self._with_cache(tally, lambda: self._audit.look([wallet.user_id for wallet in page]))
            suspects |= with_cache or {}
            if len(suspects) >= SUSPECTS_MAX:
                self._confirm(tally, suspects)
                suspects = {}
        self._confirm(tally, suspects)
        tally.add(self._orphans())

    def _page(self, after_id: str) -> list[WalletSums]:
        return self._postgres.transaction(
            lambda connection: store.wallets_after(connection, after_id, self._wallets_per_page, PAGE_SECONDS_MAX)
        )

    def _confirm(self, tally: _Tally, suspects: dict[str, Suspect]) -> None:
        tally.add(self._with_cache(tally, lambda: self._audit.confirm(suspects)) or [])

    def _with_cache(self, tally: _Tally, look: Callable[[], T]) -> T | None:
        """With Redis away there is no cache to be wrong: the ledger is checked all the same."""
        if not (tally.cache_checked and self._redis.is_open):
            tally.cache_checked = False
            return None
        try:
            return look()
        except RedisError as error:
            self._redis.close(error)
            tally.cache_checked = False
            return None

    def _orphans(self) -> list[Drift]:
        found = self._postgres.run(lambda connection: store.orphans(connection, DRIFTS_TOLD_MAX))
        return [
            Drift(
                user.user_id,
                DriftKind.WALLET_MISSING,
                expected_micros=-user.cost_micros,
                found_micros=0,
                detail=f"{user.ends} unsettled ends and no wallet to deduct them from",
            )
            for user in found
        ]


def _ledger_drifts(wallet: WalletSums) -> list[Drift]:
    drifts = []
    if wallet.posted_micros != wallet.ledger_micros:
        detail = "the posted balance is not the sum of the ledger"
        drifts.append(Drift(wallet.user_id, DriftKind.LEDGER_SUM, wallet.ledger_micros, wallet.posted_micros, detail))
    if (at := wallet.first_break) is not None:
        detail = f"entry {at.entry_id} does not follow from the one before; {at.breaks} such entries"
        drifts.append(Drift(wallet.user_id, DriftKind.LEDGER_CHAIN, at.expected_micros, at.found_micros, detail))
    if wallet.posted_micros < -wallet.overdraft_limit_micros:
        detail = "more is overdrawn than the limit allows"
        drifts.append(
            Drift(wallet.user_id, DriftKind.BELOW_LIMIT, -wallet.overdraft_limit_micros, wallet.posted_micros, detail)
        )
    return drifts
