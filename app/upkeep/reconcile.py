"""Reconciliation: checks that wallets, ledger, roll-ups and cache agree.

Every wallet is compared with its ledger, its cached copy with both, and the daily roll-ups with the ledger. A cached
copy that drifted is corrected, and a roll-up if that is asked for. The ledger is never corrected: people have to look
into what is wrong there. One reconciliation runs at a time and regularly reports that it is alive; one that died is
marked as failed by the next one. A wallet that can't be read is reported as unchecked, and the others are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import sqlalchemy as sa
import structlog
from redis import RedisError

from app.access.gate import Gate
from app.access.postgres import PostgresAccess
from app.domain.errors import AlreadyExists, NotFound, Unavailable
from app.domain.keys import SYSTEM, Caller
from app.domain.reasons import DriftKind
from app.domain.wallets import WalletId
from app.stores.postgres import audit
from app.stores.postgres import reconciliation as store
from app.stores.postgres.reconciliation import Drift, Reconciliation, State
from app.upkeep.cache_audit import CacheAudit, Suspect
from app.upkeep.ledger_audit import LedgerAudit, unchecked
from app.upkeep.rollup_audit import RollUpAudit

log = structlog.get_logger(__name__)

# How many suspect wallets are collected before they are looked at again.
SUSPECTS_MAX = 5_000
# How many drifts are listed one by one.
DRIFTS_TOLD_MAX = 1_000
RUNNING_ALREADY = "A reconciliation is running already"


@dataclass
class _Tally:
    """What a reconciliation has found so far."""

    checked: int = 0
    cache_checked: bool = True
    money: list[Drift] = field(default_factory=list)
    cache: list[Drift] = field(default_factory=list)
    drifted_count: int = 0
    repaired: int = 0

    def add(self, drifts: Sequence[Drift]) -> None:
        self.drifted_count += len(drifts)
        self.repaired += sum(drift.repaired for drift in drifts)
        for drift in drifts:
            told = self.cache if drift.kind is DriftKind.CACHE else self.money
            if len(told) < DRIFTS_TOLD_MAX:
                told.append(drift)

    @property
    def told(self) -> list[Drift]:
        """The drifts to list: those of money first, so that many drifts of the cache don't crowd them out."""
        return (self.money + self.cache)[:DRIFTS_TOLD_MAX]


class TakenForDead(Exception):
    """This reconciliation was silent for too long and counts as dead; another one may have begun."""


class ReconcileService:
    def __init__(
        self, *, postgres: PostgresAccess, ledger: LedgerAudit, rollups: RollUpAudit, cache: CacheAudit, redis: Gate
    ) -> None:
        self._postgres = postgres
        self._ledger = ledger
        self._rollups = rollups
        self._cache = cache
        self._redis = redis

    def request(self, *, is_full: bool = False, caller: Caller = SYSTEM) -> Reconciliation:
        """Request a reconciliation, which a worker runs soon. Raises AlreadyExists while one waits or runs, or
        Unavailable.
        """

        def work(connection: sa.Connection) -> Reconciliation:
            requested = store.request(connection, is_full=is_full)
            if requested is None:
                raise AlreadyExists(RUNNING_ALREADY)
            subject = ("reconciliation", requested.id)
            audit.write(connection, caller, "reconciliation.requested", subject, after={"is_full": is_full})
            return requested

        return self._postgres.transaction(work)

    def run(self, *, is_full: bool = False, repair: bool = False, caller: Caller = SYSTEM) -> Reconciliation:
        """Check every wallet and correct the cache. Returns what was found.

        By default ledgers are read from where the last reconciliation found them right, and roll-ups of two days are
        checked; with `is_full`, ledgers are read from their start, and all roll-ups are checked. `repair` rebuilds
        roll-ups that are wrong. Runs by SYSTEM aren't written to the audit log.
        Raises AlreadyExists when one is running, or Unavailable.
        """

        def work(connection: sa.Connection) -> Reconciliation:
            begun = store.begin(connection, is_full=is_full)
            if begun is None:
                raise AlreadyExists(RUNNING_ALREADY)
            if caller != SYSTEM:
                after = {"is_full": is_full, "repair": repair}
                audit.write(connection, caller, "reconciliation.run", ("reconciliation", begun.id), after=after)
            return begun

        return self._run(self._postgres.transaction(work), repair=repair)

    def run_requested(self) -> Reconciliation | None:
        """Run the requested reconciliation, if there is one and none is running. Raises Unavailable."""
        begun = self._postgres.transaction(store.begin_requested)
        return None if begun is None else self._run(begun)

    def get(self, number: int) -> Reconciliation:
        """Raises NotFound or Unavailable."""
        found = self._postgres.run(lambda connection: store.find(connection, number))
        if found is None:
            raise NotFound("Reconciliation not found")
        return found

    def _run(self, begun: Reconciliation, *, repair: bool = False) -> Reconciliation:
        tally = _Tally()
        try:
            self._walk(tally, begun, repair=repair)
        except BaseException:
            # Stopped or failed: store what was found so far, if Postgres still takes it.
            with suppress(Unavailable, sa.exc.SQLAlchemyError, TakenForDead):
                self._finish(begun, State.FAILED, tally)
            raise
        done = self._finish(begun, State.DONE, tally)
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

    def _finish(self, begun: Reconciliation, state: State, tally: _Tally) -> Reconciliation:
        done = self._postgres.run(
            lambda connection: store.finish(
                connection,
                begun.id,
                state=state,
                checked=tally.checked,
                cache_checked=tally.cache_checked and state is State.DONE,
                drifted_count=tally.drifted_count,
                repaired=tally.repaired,
                drifted=tally.told,
            )
        )
        if done is None:
            raise TakenForDead
        return done

    def _walk(self, tally: _Tally, begun: Reconciliation, *, repair: bool) -> None:
        def say_alive() -> None:
            if not self._postgres.run(lambda connection: store.say_alive(connection, begun.id)):
                raise TakenForDead

        suspects: dict[WalletId, Suspect] = {}
        for page in self._ledger.pages(is_full=begun.is_full, on_step=say_alive):
            tally.checked += len(page.wallet_ids)
            tally.add(page.drifts)
            suspects |= self._look(tally, page.wallet_ids)
            if len(suspects) >= SUSPECTS_MAX:
                self._confirm(tally, suspects)
                suspects = {}
            say_alive()
        self._confirm(tally, suspects)
        tally.add(self._ledger.orphans())
        for drifts in self._rollups.drifts(is_full=begun.is_full, repair=repair, on_step=say_alive):
            tally.add(drifts)

    def _look(self, tally: _Tally, wallet_ids: Sequence[WalletId]) -> dict[WalletId, Suspect]:
        found: dict[WalletId, Suspect] = {}
        self._at_the_cache(tally, wallet_ids, lambda part: found.update(self._cache.look(part)))
        return found

    def _confirm(self, tally: _Tally, suspects: dict[WalletId, Suspect]) -> None:
        self._at_the_cache(
            tally,
            list(suspects),
            lambda part: tally.add(self._cache.confirm({wallet_id: suspects[wallet_id] for wallet_id in part})),
        )

    def _at_the_cache(
        self, tally: _Tally, wallet_ids: Sequence[WalletId], look: Callable[[Sequence[WalletId]], None]
    ) -> None:
        """Look at cached wallets together. If that fails, halve them until the wallet that can't be checked is alone.

        While Redis is away the cache isn't checked; the ledger is checked all the same.
        """
        if not wallet_ids:
            return
        if not (tally.cache_checked and self._redis.is_open):
            tally.cache_checked = False
            return
        try:
            look(wallet_ids)
        except RedisError as error:
            self._redis.close(error)
            tally.cache_checked = False
        except (Unavailable, sa.exc.SQLAlchemyError) as error:
            # Raises Unavailable if Postgres itself is away, rather than only the last statement having failed.
            self._postgres.run(lambda connection: connection.execute(sa.text("SELECT 1")))
            if len(wallet_ids) == 1:
                tally.add([unchecked(wallet_ids[0], error)])
                return
            middle = len(wallet_ids) // 2
            self._at_the_cache(tally, wallet_ids[:middle], look)
            self._at_the_cache(tally, wallet_ids[middle:], look)
