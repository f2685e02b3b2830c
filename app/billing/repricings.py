"""Repricing: past runs of a filter are billed by another rate card, first as a dry run, then as amendments.

Which runs it is about, and what they cost then and later, is frozen batch by batch. Each run is amended in a
transaction of its own that also says that it is done: killed anywhere it goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.access.changes import WalletChanges
from app.access.doorbell import Doorbell
from app.access.postgres import PostgresAccess
from app.billing.run_account import Told, correct, quote
from app.domain.corrections import CorrectionKind, CorrectionRequest
from app.domain.errors import AlreadyWrittenOff, BalanceOutOfRange, DomainError, NotFound, NotReady, WalletBusy
from app.domain.keys import SYSTEM, Caller, caller_again
from app.domain.pages import NEWEST, Page, page
from app.domain.repricings import RepricingFilter, RepricingOutcome, RepricingState
from app.stores.postgres import audit, catalog, prices, wallets
from app.stores.postgres import corrections as corrections_store
from app.stores.postgres import repricings as store
from app.stores.postgres.repricings import RepricedEnd, Repricing, RepricingGroup, RepricingSums
from app.stores.postgres.settlement import RetryPolicy

log = structlog.get_logger(__name__)

ENDS_PER_BATCH = 500
BATCH_SECONDS_MAX = 30.0
GROUPS_TOLD_MAX = 1_000
BEFORE_ALL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class RepricingView:
    repricing: Repricing
    sums: RepricingSums
    groups: Sequence[RepricingGroup]


class RepricingService:
    def __init__(
        self, *, postgres: PostgresAccess, changes: WalletChanges, doorbell: Doorbell, policy: RetryPolicy
    ) -> None:
        self._postgres = postgres
        self._changes = changes
        self._doorbell = doorbell
        self._policy = policy

    def create(
        self,
        price_id: int,
        filter: RepricingFilter,
        *,
        reason: str,
        caller: Caller = SYSTEM,
    ) -> RepricingView:
        """Ask for a dry run. Raises NotFound (the price or the feature endpoint) or Unavailable."""

        def work(connection: sa.Connection) -> Repricing:
            if price_id not in prices.by_ids(connection, [price_id]):
                raise NotFound("Price not found", errors={"price_id": ["Unknown price."]})
            feature_id = filter.feature_endpoint_id
            if feature_id is not None and catalog.find_feature(connection, feature_id) is None:
                reasons = [f"Unknown feature endpoint: {feature_id}"]
                raise NotFound("Feature endpoint not found", errors={"feature_endpoint_id": reasons})
            made = store.insert(
                connection,
                filter,
                price_id=price_id,
                reason=reason,
                actor=caller.actor,
                request_id=caller.request_id,
            )
            after = {"price_id": price_id, "reason": reason, **asdict(filter)}
            audit.write(connection, caller, "repricing.created", ("repricing", made.id), after=after)
            return made

        return self.get(self._postgres.transaction(work).id)

    def get(self, number: int) -> RepricingView:
        """Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> RepricingView:
            found = _find(connection, number)
            sums = store.sums(connection, number)
            return RepricingView(found, sums, store.groups(connection, number, GROUPS_TOLD_MAX))

        return self._postgres.run(work)

    def list(self, limit: int, before_id: int = NEWEST) -> Page[RepricingView, int]:
        """Newest first, without what they do to whom. Raises Unavailable."""

        def work(connection: sa.Connection) -> Page[RepricingView, int]:
            found = page(
                lambda count: store.list_newest(connection, before_id, count), lambda repricing: repricing.id, limit
            )
            views = [RepricingView(each, store.sums(connection, each.id), ()) for each in found.items]
            return Page(views, found.next_key)

        return self._postgres.run(work)

    def apply(self, number: int, caller: Caller = SYSTEM) -> RepricingView:
        """Have it applied; once is enough. Raises NotFound, NotReady (it is selecting) or Unavailable."""

        def work(connection: sa.Connection) -> None:
            if _find(connection, number).state is RepricingState.SELECTING:
                raise NotReady
            if store.set_state(connection, number, RepricingState.READY, RepricingState.APPLYING):
                sums = store.sums(connection, number)
                after = {"state": RepricingState.APPLYING, "runs": sums.runs, "cost_micros": sums.new_cost_micros}
                before = {"state": RepricingState.READY, "cost_micros": sums.old_cost_micros}
                audit.write(connection, caller, "repricing.applied", ("repricing", number), before=before, after=after)

        self._postgres.transaction(work)
        return self.get(number)

    def work_off(self, seconds: float) -> None:
        """Go on with those that are selecting or applying, for about so long. Raises Unavailable."""
        give_up_at = time.monotonic() + seconds
        for number in self._postgres.run(store.unfinished):
            self.go_on(number, lambda: time.monotonic() < give_up_at)

    def go_on(self, number: int, may_go_on: Callable[[], bool], on_step: Callable[[int], None] | None = None) -> None:
        """Select for one repricing, or apply it, to its end or until `may_go_on` says no; `on_step` hears how many runs
        each step did. Raises NotFound or Unavailable.
        """
        state = self._postgres.run(lambda connection: _find(connection, number)).state
        step = on_step or (lambda runs: None)
        if state is RepricingState.SELECTING:
            while may_go_on() and (looked_at := self._postgres.transaction(lambda c: self._select(c, number))):
                step(looked_at)
        elif state is RepricingState.APPLYING:
            self._apply(number, may_go_on, step)

    def _select(self, connection: sa.Connection, number: int) -> int:
        """Look at the next batch of ends; how many. None are left, or somebody else is at it: 0."""
        repricing = store.lock(connection, number)
        if repricing is None or repricing.state is not RepricingState.SELECTING:
            return 0
        ids = store.next_ends(connection, repricing, ENDS_PER_BATCH, BATCH_SECONDS_MAX)
        if not ids:
            store.set_state(connection, number, RepricingState.SELECTING, RepricingState.READY)
            return 0
        priced = [self._priced(connection, repricing, end_id) for end_id in ids]
        store.add_ends(connection, number, [end for end in priced if end is not None], ids[-1])
        return len(ids)

    def _priced(self, connection: sa.Connection, repricing: Repricing, end_id: UUID) -> RepricedEnd | None:
        """What it does to a run. None: nothing."""
        run = corrections_store.find_run(connection, end_id)
        wallet_id = corrections_store.wallet_of(connection, end_id)
        if run is None or wallet_id is None or run.is_written_off:
            return None
        before, after = quote(connection, run, _request(repricing, end_id))
        if before == after:
            return None
        return RepricedEnd(end_id, wallet_id, run.user_id, run.model, before.cost_micros, after.cost_micros)

    def _apply(self, number: int, may_go_on: Callable[[], bool], on_step: Callable[[int], None]) -> None:
        repricing = self._postgres.run(lambda connection: _find(connection, number))
        after_id = BEFORE_ALL
        is_complete = True
        while ends := self._open_ends(number, after_id):
            for end in ends:
                if not may_go_on():
                    return
                is_complete &= self._amend(repricing, end)
            after_id = ends[-1].end_id
            on_step(len(ends))
        if is_complete:
            self._postgres.run(lambda c: store.set_state(c, number, RepricingState.APPLYING, RepricingState.DONE))
            log.info("repriced", id=number)

    def _open_ends(self, number: int, after_id: UUID) -> Sequence[RepricedEnd]:
        return self._postgres.run(lambda connection: store.open_ends(connection, number, after_id, ENDS_PER_BATCH))

    def _amend(self, repricing: Repricing, end: RepricedEnd) -> bool:
        """Amend a run, or say why not. False: its wallet is busy, which has to be tried again."""

        def work(connection: sa.Connection) -> Told | None:
            wallet = wallets.lock(connection, end.wallet_id)
            if not store.claim(connection, repricing.id, end.end_id):
                return None
            run = corrections_store.find_run(connection, end.end_id)
            if wallet is None or run is None:
                raise NotFound
            request = _request(repricing, end.end_id)
            before, after = quote(connection, run, request)
            if before == after:
                store.set_outcome(connection, repricing.id, end.end_id, RepricingOutcome.UNCHANGED)
                return None
            _, told = correct(connection, wallet, run, request, self._policy)
            store.set_outcome(connection, repricing.id, end.end_id, RepricingOutcome.AMENDED)
            return told

        try:
            told = self._postgres.wallet_transaction(end.wallet_id, work)
        except WalletBusy:
            return False
        except (AlreadyWrittenOff, BalanceOutOfRange, NotFound) as error:
            self._refused(repricing, end, error)
            return True
        if told is not None:
            told.tell(self._changes, self._doorbell)
        return True

    def _refused(self, repricing: Repricing, end: RepricedEnd, error: DomainError) -> None:
        log.warning("repricing_refused", id=repricing.id, end_id=str(end.end_id), code=error.code)
        self._postgres.run(lambda c: store.set_outcome(c, repricing.id, end.end_id, error.code))


def _find(connection: sa.Connection, number: int) -> Repricing:
    found = store.find(connection, number)
    if found is None:
        raise NotFound("Repricing not found")
    return found


def _request(repricing: Repricing, end_id: UUID) -> CorrectionRequest:
    return CorrectionRequest(
        end_id=end_id,
        kind=CorrectionKind.AMENDMENT,
        reference=repricing.reference,
        reason=repricing.reason,
        usage=None,
        price_id=repricing.price_id,
        caller=caller_again(repricing.actor, repricing.request_id),
    )
