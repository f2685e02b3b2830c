"""Top-ups of all wallets of a package: first as a dry run, then wallet by wallet.

Which wallets it is about is frozen at once, in one snapshot. Each is topped up in a transaction of its own that also
says that it is done: killed anywhere, the next tick goes on where it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.billing.postings import ANOTHER_BODY
from app.billing.top_up_wallets import WalletTopUp
from app.domain.errors import AlreadyApplied, IdempotencyConflict, Invalid, NotFound, WalletNotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import FIRST_ID, NEWEST, Page, page
from app.domain.top_ups import Target, TopUpState
from app.stores.postgres import audit, catalog, wallets
from app.stores.postgres import top_ups as store
from app.stores.postgres.top_up_schedules import TopUpSchedule
from app.stores.postgres.top_ups import BatchWallet, NewBatch, Results, TopUpBatch

log = structlog.get_logger(__name__)

# In one transaction: a tenth of a second for which they are locked.
WALLETS_PER_STEP = 20
# One statement copies the ids of a package's wallets: some seconds for a million.
FREEZE_SECONDS_MAX = 30.0
_OF_A_SCHEDULE = re.compile(r"schedule-[0-9]+:")


@dataclass(frozen=True, slots=True)
class TopUpView:
    """A top-up with what became of its wallets so far. `replayed`: it was asked for before."""

    batch: TopUpBatch
    results: Results
    replayed: bool = False


class TopUpService:
    def __init__(self, *, postgres: PostgresAccess, wallets: WalletTopUp) -> None:
        self._postgres = postgres
        self._wallets = wallets
        # Where time was up: wallets that somebody keeps locked don't hold up those behind them tick after tick.
        self._goes_on_after: dict[int, str] = {}

    def create(self, new: NewBatch, *, is_applied: bool = False) -> TopUpView:
        """Freeze whom it is about: a dry run, unless it `is_applied` at once. Asked again, the same one.

        Raises Invalid, NotFound (the package), IdempotencyConflict or Unavailable.
        """
        check_reference(new.reference)

        def work(connection: sa.Connection) -> TopUpView:
            check_target(connection, new.target)
            state = TopUpState.APPLYING if is_applied else TopUpState.READY
            made = store.insert(connection, new, state, FREEZE_SECONDS_MAX)
            if made is not None:
                _audit(connection, new.caller, "top_up.applied" if is_applied else "top_up.created", made)
                return TopUpView(made, Results())
            known = store.find_by_reference(connection, new.reference)
            if known is None or not _is_repeated(known, new):
                raise IdempotencyConflict(ANOTHER_BODY)
            if is_applied:
                known = _apply(connection, known.id, new.caller)
            return _view(connection, known, replayed=True)

        return self._postgres.transaction(work)

    def get(self, number: int) -> TopUpView:
        """Raises NotFound or Unavailable."""
        return self._postgres.run(lambda connection: _view(connection, _find(connection, number)))

    def list(self, limit: int, before_id: int = NEWEST, *, schedule_id: int | None = None) -> Page[TopUpView, int]:
        """Newest first, all or those of a schedule. Raises Unavailable."""

        def work(connection: sa.Connection) -> Page[TopUpView, int]:
            found = page(
                lambda count: store.list_newest(connection, schedule_id, before_id, count),
                lambda batch: batch.id,
                limit,
            )
            return Page([_view(connection, batch) for batch in found.items], found.next_key)

        return self._postgres.run(work)

    def wallets(
        self, number: int, limit: int, after_id: str = FIRST_ID, *, outcome: str | None = None
    ) -> Page[BatchWallet, str]:
        """Its wallets by id, all or those with an outcome. Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> Page[BatchWallet, str]:
            _find(connection, number)
            return page(
                lambda count: store.list_wallets(connection, number, outcome, after_id, count),
                lambda member: member.wallet_id,
                limit,
            )

        return self._postgres.run(work)

    def apply(self, number: int, caller: Caller = SYSTEM) -> TopUpView:
        """Have a dry run applied; once is enough. Raises NotFound or Unavailable."""
        return self._postgres.transaction(lambda connection: _view(connection, _apply(connection, number, caller)))

    def discard(self, number: int, caller: Caller = SYSTEM) -> TopUpView:
        """Forget a dry run: its reference may be used again. Raises NotFound, AlreadyApplied or Unavailable."""

        def work(connection: sa.Connection) -> TopUpView:
            batch = _locked(connection, number)
            if batch.state is not TopUpState.READY:
                raise AlreadyApplied
            store.delete(connection, number)
            _audit(connection, caller, "top_up.discarded", batch)
            return TopUpView(batch, Results())

        return self._postgres.transaction(work)

    def work_off(self, seconds: float) -> None:
        """Go on with those that are applied, for about so long. Raises Unavailable."""
        give_up_at = time.monotonic() + seconds
        for number in self._postgres.run(store.unfinished):
            self.go_on(number, lambda: time.monotonic() < give_up_at)

    def go_on(self, number: int, may_go_on: Callable[[], bool], on_step: Callable[[int], None] | None = None) -> None:
        """Top up the wallets that wait, until `may_go_on` says no; `on_step` hears how many each step did.

        Raises NotFound or Unavailable.
        """
        batch = self._postgres.run(lambda connection: _find(connection, number))
        if batch.state is not TopUpState.APPLYING:
            return
        after_id = self._goes_on_after.pop(number, FIRST_ID)
        while waiting := self._waiting(number, after_id):
            if not may_go_on():
                self._goes_on_after[number] = after_id
                return
            self._wallets.top_up(batch, waiting)
            after_id = waiting[-1].wallet_id
            if on_step is not None:
                on_step(len(waiting))
        if self._postgres.run(lambda connection: store.finish(connection, number)):
            log.info("topped_up", id=number, reference=batch.reference)

    def _waiting(self, number: int, after_id: str) -> Sequence[BatchWallet]:
        return self._postgres.run(
            lambda connection: store.list_wallets(connection, number, store.WAITING, after_id, WALLETS_PER_STEP)
        )


def check_reference(reference: str) -> None:
    """Raises Invalid for one of those that schedules give."""
    if _OF_A_SCHEDULE.match(reference):
        raise Invalid(errors={"reference": ["Such references are given by schedules."]})


def check_target(connection: sa.Connection, target: Target) -> None:
    """Raises NotFound (the package) or WalletNotFound."""
    package_id = target.package_id
    if package_id is not None and catalog.find_package(connection, package_id) is None:
        raise NotFound(f"Package not found: {package_id}", errors={"package_id": [f"Unknown package: {package_id}"]})
    if target.wallet_id is not None and not wallets.exists(connection, target.wallet_id):
        raise WalletNotFound


def _find(connection: sa.Connection, number: int) -> TopUpBatch:
    found = store.find(connection, number)
    if found is None:
        raise NotFound("Top-up not found")
    return found


def _locked(connection: sa.Connection, number: int) -> TopUpBatch:
    found = store.lock(connection, number)
    if found is None:
        raise NotFound("Top-up not found")
    return found


def _apply(connection: sa.Connection, number: int, caller: Caller) -> TopUpBatch:
    batch = _locked(connection, number)
    if batch.state is TopUpState.READY:
        store.start(connection, number, caller.actor)
        _audit(connection, caller, "top_up.applied", batch)
    return _find(connection, number)


def _audit(connection: sa.Connection, caller: Caller, action: str, batch: TopUpBatch) -> None:
    """One entry for all its wallets: what became of each stands with it, and in the ledger."""
    after = {"reference": batch.reference, "reason": batch.reason, "wallets": batch.planned.wallets, **told(batch)}
    audit.write(connection, caller, action, ("top_up", batch.id), after=after)


def told(asked: TopUpBatch | TopUpSchedule) -> dict[str, Any]:
    """What the audit log tells of whose wallets are topped up, and by how much."""
    return {
        **{name: value for name, value in asdict(asked.target).items() if value is not None},
        f"{asked.amount.mode}_micros": asked.amount.micros,
    }


def _view(connection: sa.Connection, batch: TopUpBatch, *, replayed: bool = False) -> TopUpView:
    results = batch.results
    if results is None:
        results = store.results(connection, batch.id) if batch.state is TopUpState.APPLYING else Results()
    return TopUpView(batch, results, replayed)


def _is_repeated(known: TopUpBatch, new: NewBatch) -> bool:
    return (known.target, known.amount, known.reason) == (new.target, new.amount, new.reason)
