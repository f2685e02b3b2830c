"""Repricing: past runs that match a filter are billed by another rate card, first as a dry run, then as amendments.

The runs are selected and frozen batch by batch, with their old and new costs. Each run is amended in a transaction of
its own that also records the outcome, so a repricing that is killed anywhere resumes where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from uuid import UUID

import structlog

from app.access.ports import WalletBookKeeping
from app.billing.entries import Bell, Changes
from app.billing.run_account import RunBooks, Told, correct, quote
from app.domain.audit import Change
from app.domain.catalog import FeatureEndpoint
from app.domain.corrections import CorrectionKind, CorrectionRequest
from app.domain.errors import AlreadyWrittenOff, BalanceOutOfRange, DomainError, NotFound, NotReady, WalletBusy
from app.domain.keys import SYSTEM, Caller, caller_again
from app.domain.pages import NEWEST, Page, page
from app.domain.repricings import RepricingFilter, RepricingOutcome, RepricingState
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres.corrections import Run
from app.stores.postgres.repricings import RepricedEnd, Repricing, RepricingGroup, RepricingSums

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


class RepricingBooks(RunBooks, Protocol):
    def lock(self, wallet_id: WalletId) -> Wallet | None: ...

    def find_run(self, end_id: UUID) -> Run | None: ...

    def wallet_of_run(self, end_id: UUID) -> WalletId | None: ...

    def is_price(self, number: int) -> bool: ...

    def feature(self, feature_endpoint_id: str) -> FeatureEndpoint | None: ...

    def create(self, filter: RepricingFilter, **values: Any) -> Repricing: ...

    def find(self, number: int) -> Repricing | None: ...

    def lock_repricing(self, number: int) -> Repricing | None:
        """Lock a repricing while selecting its runs. None if another transaction has locked it."""

    def list_newest(self, before_id: int, limit: int) -> Sequence[Repricing]: ...

    def unfinished(self) -> Sequence[int]:
        """The repricings that are selecting or applying, oldest first."""

    def set_state(self, number: int, before: RepricingState, state: RepricingState) -> bool:
        """Change the state of a repricing. False if it wasn't in the state `before`."""

    def sums(self, number: int) -> RepricingSums: ...

    def groups(self, number: int, limit: int) -> Sequence[RepricingGroup]: ...

    def next_ends(self, repricing: Repricing, limit: int, seconds: float) -> Sequence[UUID]:
        """The next ends that weren't looked at yet, in the order of their ids."""

    def add_ends(self, number: int, ends: Sequence[RepricedEnd], up_to: UUID) -> None:
        """Freeze these runs, and record that all ends up to `up_to` were looked at."""

    def open_ends(self, number: int, after_id: UUID, limit: int) -> Sequence[RepricedEnd]:
        """The runs of a repricing that have no outcome yet, in the order of their ids."""

    def claim_run(self, number: int, end_id: UUID) -> bool:
        """Lock one run of a repricing. False if it has got an outcome meanwhile."""

    def set_outcome(self, number: int, end_id: UUID, outcome: RepricingOutcome | str) -> None: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class RepricingService:
    def __init__(self, *, books: WalletBookKeeping[RepricingBooks], changes: Changes, doorbell: Bell) -> None:
        self._books = books
        self._changes = changes
        self._doorbell = doorbell

    def create(
        self,
        price_id: int,
        filter: RepricingFilter,
        *,
        reason: str,
        caller: Caller = SYSTEM,
    ) -> RepricingView:
        """Ask for a dry run. Raises NotFound (the price or the feature endpoint) or Unavailable."""

        def work(books: RepricingBooks) -> Repricing:
            if not books.is_price(price_id):
                raise NotFound("Price not found", errors={"price_id": ["Unknown price."]})
            feature_id = filter.feature_endpoint_id
            if feature_id is not None and books.feature(feature_id) is None:
                reasons = [f"Unknown feature endpoint: {feature_id}"]
                raise NotFound("Feature endpoint not found", errors={"feature_endpoint_id": reasons})
            made = books.create(
                filter,
                price_id=price_id,
                reason=reason,
                actor=caller.actor,
                request_id=caller.request_id,
            )
            after = {"price_id": price_id, "reason": reason, **asdict(filter)}
            books.audit(caller, [Change("repricing.created", "repricing", str(made.id), after=after)])
            return made

        return self.get(self._books.transaction(work).id)

    def get(self, number: int) -> RepricingView:
        """Raises NotFound or Unavailable."""

        def work(books: RepricingBooks) -> RepricingView:
            found = _find(books, number)
            sums = books.sums(number)
            return RepricingView(found, sums, books.groups(number, GROUPS_TOLD_MAX))

        return self._books.read(work)

    def list(self, limit: int, before_id: int = NEWEST) -> Page[RepricingView, int]:
        """Newest first, without their groups. Raises Unavailable."""

        def work(books: RepricingBooks) -> Page[RepricingView, int]:
            found = page(lambda count: books.list_newest(before_id, count), lambda repricing: repricing.id, limit)
            views = [RepricingView(each, books.sums(each.id), ()) for each in found.items]
            return Page(views, found.next_key)

        return self._books.read(work)

    def apply(self, number: int, caller: Caller = SYSTEM) -> RepricingView:
        """Begin to apply a repricing. Idempotent. Raises NotFound, NotReady (it is still selecting) or Unavailable."""

        def work(books: RepricingBooks) -> None:
            if _find(books, number).state is RepricingState.SELECTING:
                raise NotReady
            if books.set_state(number, RepricingState.READY, RepricingState.APPLYING):
                sums = books.sums(number)
                after = {"state": RepricingState.APPLYING, "runs": sums.runs, "cost_micros": sums.new_cost_micros}
                before = {"state": RepricingState.READY, "cost_micros": sums.old_cost_micros}
                books.audit(caller, [Change("repricing.applied", "repricing", str(number), before, after)])

        self._books.transaction(work)
        return self.get(number)

    def work_off(self, seconds: float) -> None:
        """Continue the repricings that are selecting or applying, for about `seconds`. Raises Unavailable."""
        give_up_at = time.monotonic() + seconds
        for number in self._books.read(lambda books: books.unfinished()):
            self.go_on(number, lambda: time.monotonic() < give_up_at)

    def go_on(self, number: int, may_go_on: Callable[[], bool], on_step: Callable[[int], None] | None = None) -> None:
        """Select the runs of one repricing, or apply it, until that is finished or `may_go_on` returns False.
        `on_step` is called with the number of runs of each step. Raises NotFound or Unavailable.
        """
        state = self._books.read(lambda books: _find(books, number)).state
        step = on_step or (lambda runs: None)
        if state is RepricingState.SELECTING:
            while may_go_on() and (looked_at := self._books.transaction(lambda books: self._select(books, number))):
                step(looked_at)
        elif state is RepricingState.APPLYING:
            self._apply(number, may_go_on, step)

    def _select(self, books: RepricingBooks, number: int) -> int:
        """Look at the next batch of ends. Returns how many: 0 if none are left, or if another process is selecting."""
        repricing = books.lock_repricing(number)
        if repricing is None or repricing.state is not RepricingState.SELECTING:
            return 0
        ids = books.next_ends(repricing, ENDS_PER_BATCH, BATCH_SECONDS_MAX)
        if not ids:
            books.set_state(number, RepricingState.SELECTING, RepricingState.READY)
            return 0
        priced = [self._priced(books, repricing, end_id) for end_id in ids]
        books.add_ends(number, [end for end in priced if end is not None], ids[-1])
        return len(ids)

    def _priced(self, books: RepricingBooks, repricing: Repricing, end_id: UUID) -> RepricedEnd | None:
        """What a repricing would change about a run. None if nothing."""
        run = books.find_run(end_id)
        wallet_id = books.wallet_of_run(end_id)
        if run is None or wallet_id is None or run.is_written_off:
            return None
        before, after = quote(books, run, _request(repricing, end_id))
        if before == after:
            return None
        return RepricedEnd(end_id, wallet_id, run.user_id, run.model, before.cost_micros, after.cost_micros)

    def _apply(self, number: int, may_go_on: Callable[[], bool], on_step: Callable[[int], None]) -> None:
        repricing = self._books.read(lambda books: _find(books, number))
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
            self._books.read(lambda books: books.set_state(number, RepricingState.APPLYING, RepricingState.DONE))
            log.info("repriced", id=number)

    def _open_ends(self, number: int, after_id: UUID) -> Sequence[RepricedEnd]:
        return self._books.read(lambda books: books.open_ends(number, after_id, ENDS_PER_BATCH))

    def _amend(self, repricing: Repricing, end: RepricedEnd) -> bool:
        """Amend a run, or record why it can't be. False if its wallet is busy and the run has to be tried again."""

        def work(books: RepricingBooks) -> Told | None:
            wallet = books.lock(end.wallet_id)
            if not books.claim_run(repricing.id, end.end_id):
                return None
            run = books.find_run(end.end_id)
            if wallet is None or run is None:
                raise NotFound
            request = _request(repricing, end.end_id)
            before, after = quote(books, run, request)
            if before == after:
                books.set_outcome(repricing.id, end.end_id, RepricingOutcome.UNCHANGED)
                return None
            _, told = correct(books, wallet, run, request)
            books.set_outcome(repricing.id, end.end_id, RepricingOutcome.AMENDED)
            return told

        try:
            told = self._books.in_turn(end.wallet_id, work)
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
        self._books.read(lambda books: books.set_outcome(repricing.id, end.end_id, error.code))


def _find(books: RepricingBooks, number: int) -> Repricing:
    found = books.find(number)
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
