"""Top-ups of many wallets, such as all of a package: first as a dry run, then a few wallets at a time.

The wallets are frozen in one snapshot when the top-up is made. They are topped up in small transactions that also
record each wallet's outcome, so after a process was killed anywhere the next tick goes on where it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import structlog

from app.access.ports import BookKeeping
from app.billing.postings import ANOTHER_BODY
from app.domain.audit import Change
from app.domain.errors import AlreadyApplied, IdempotencyConflict, Invalid, NotFound, WalletNotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import FIRST_ID, NEWEST, Page, page
from app.domain.top_ups import Target, TopUpState
from app.domain.wallets import WalletId
from app.stores.postgres.top_up_schedules import TopUpSchedule
from app.stores.postgres.top_ups import WAITING, BatchWallet, NewBatch, Results, TopUpBatch

log = structlog.get_logger(__name__)

# How many wallets one transaction tops up: they are locked for about a tenth of a second.
WALLETS_PER_STEP = 20
_OF_A_SCHEDULE = re.compile(r"schedule-[0-9]+:")


@dataclass(frozen=True, slots=True)
class TopUpView:
    """A top-up with what became of its wallets so far. `replayed`: an earlier call created it."""

    batch: TopUpBatch
    results: Results
    replayed: bool = False


class Targets(Protocol):
    """Tells whether the target of a top-up exists."""

    def has_package(self, package_id: str) -> bool: ...

    def has_wallet(self, wallet_id: WalletId) -> bool: ...


class Books(Targets, Protocol):
    """Top-ups with their wallets, in one transaction."""

    def freeze(self, new: NewBatch, state: TopUpState) -> TopUpBatch | None: ...

    def find_batch(self, number: int) -> TopUpBatch | None: ...

    def find_batch_by_reference(self, reference: str) -> TopUpBatch | None: ...

    def lock_batch(self, number: int) -> TopUpBatch | None: ...

    def list_batches(self, schedule_id: int | None, before_id: int, limit: int) -> Sequence[TopUpBatch]: ...

    def unfinished_batches(self) -> Sequence[int]: ...

    def start_batch(self, number: int, actor: str) -> None: ...

    def finish_batch(self, number: int) -> bool: ...

    def forget_batch(self, number: int) -> None: ...

    def results(self, number: int) -> Results: ...

    def list_wallets(self, number: int, outcome: str | None, after_id: str, limit: int) -> Sequence[BatchWallet]: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class WalletTopUps(Protocol):
    def top_up(self, batch: TopUpBatch, members: Sequence[BatchWallet]) -> None:
        """Top up each wallet at most once, and record its outcome. Raises Unavailable."""


class TopUpService:
    def __init__(self, *, books: BookKeeping[Books], wallets: WalletTopUps) -> None:
        self._books = books
        self._wallets = wallets
        # The wallet after which the next tick continues each top-up, by the top-up's id. Wallets that stay locked thus
        # don't hold up those behind them tick after tick.
        self._goes_on_after: dict[int, str] = {}

    def create(self, new: NewBatch, *, is_applied: bool = False) -> TopUpView:
        """Make a top-up and freeze its wallets, as a dry run or (`is_applied`) to be applied at once. Idempotent by its
        reference.

        Raises Invalid, NotFound (the package), WalletNotFound, IdempotencyConflict or Unavailable.
        """
        check_reference(new.reference)

        def work(books: Books) -> TopUpView:
            check_target(books, new.target)
            state = TopUpState.APPLYING if is_applied else TopUpState.READY
            made = books.freeze(new, state)
            if made is not None:
                _audit(books, new.caller, "top_up.applied" if is_applied else "top_up.created", made)
                return TopUpView(made, Results())
            known = books.find_batch_by_reference(new.reference)
            if known is None or not _is_repeated(known, new):
                raise IdempotencyConflict(ANOTHER_BODY)
            if is_applied:
                known = _apply(books, known.id, new.caller)
            return _view(books, known, replayed=True)

        return self._books.transaction(work)

    def get(self, number: int) -> TopUpView:
        """Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _view(books, _find(books, number)))

    def list(self, limit: int, before_id: int = NEWEST, *, schedule_id: int | None = None) -> Page[TopUpView, int]:
        """Newest first, all or those of a schedule. Raises Unavailable."""

        def work(books: Books) -> Page[TopUpView, int]:
            found = page(
                lambda count: books.list_batches(schedule_id, before_id, count),
                lambda batch: batch.id,
                limit,
            )
            return Page([_view(books, batch) for batch in found.items], found.next_key)

        return self._books.read(work)

    def wallets(
        self, number: int, limit: int, after_id: str = FIRST_ID, *, outcome: str | None = None
    ) -> Page[BatchWallet, str]:
        """The wallets of a top-up by id, all or those with an outcome. Raises NotFound or Unavailable."""

        def work(books: Books) -> Page[BatchWallet, str]:
            _find(books, number)
            return page(
                lambda count: books.list_wallets(number, outcome, after_id, count),
                lambda member: member.wallet_id,
                limit,
            )

        return self._books.read(work)

    def apply(self, number: int, caller: Caller = SYSTEM) -> TopUpView:
        """Begin to apply a dry run. Idempotent. Raises NotFound or Unavailable."""
        return self._books.transaction(lambda books: _view(books, _apply(books, number, caller)))

    def discard(self, number: int, caller: Caller = SYSTEM) -> TopUpView:
        """Delete a dry run; its reference may be used again. Raises NotFound, AlreadyApplied or Unavailable."""

        def work(books: Books) -> TopUpView:
            batch = _locked(books, number)
            if batch.state is not TopUpState.READY:
                raise AlreadyApplied
            books.forget_batch(number)
            _audit(books, caller, "top_up.discarded", batch)
            return TopUpView(batch, Results())

        return self._books.transaction(work)

    def work_off(self, seconds: float) -> None:
        """Continue the top-ups that are being applied, for about `seconds`. Raises Unavailable."""
        give_up_at = time.monotonic() + seconds
        for number in self._books.read(lambda books: books.unfinished_batches()):
            self.go_on(number, lambda: time.monotonic() < give_up_at)

    def go_on(self, number: int, may_go_on: Callable[[], bool], on_step: Callable[[int], None] | None = None) -> None:
        """Top up the waiting wallets of a top-up until none are left or `may_go_on` returns False. `on_step` is called
        with the number of wallets of each step.

        Raises NotFound or Unavailable.
        """
        batch = self._books.read(lambda books: _find(books, number))
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
        if self._books.read(lambda books: books.finish_batch(number)):
            log.info("topped_up", id=number, reference=batch.reference)

    def _waiting(self, number: int, after_id: str) -> Sequence[BatchWallet]:
        return self._books.read(lambda books: books.list_wallets(number, WAITING, after_id, WALLETS_PER_STEP))


def check_reference(reference: str) -> None:
    """Raises Invalid for a reference of the kind that schedules give."""
    if _OF_A_SCHEDULE.match(reference):
        raise Invalid(errors={"reference": ["Such references are given by schedules."]})


def check_target(books: Targets, target: Target) -> None:
    """Raises NotFound (the package) or WalletNotFound."""
    package_id = target.package_id
    if package_id is not None and not books.has_package(package_id):
        raise NotFound(f"Package not found: {package_id}", errors={"package_id": [f"Unknown package: {package_id}"]})
    if target.wallet_id is not None and not books.has_wallet(target.wallet_id):
        raise WalletNotFound


def _find(books: Books, number: int) -> TopUpBatch:
    found = books.find_batch(number)
    if found is None:
        raise NotFound("Top-up not found")
    return found


def _locked(books: Books, number: int) -> TopUpBatch:
    found = books.lock_batch(number)
    if found is None:
        raise NotFound("Top-up not found")
    return found


def _apply(books: Books, number: int, caller: Caller) -> TopUpBatch:
    batch = _locked(books, number)
    if batch.state is TopUpState.READY:
        books.start_batch(number, caller.actor)
        _audit(books, caller, "top_up.applied", batch)
    return _find(books, number)


def _audit(books: Books, caller: Caller, action: str, batch: TopUpBatch) -> None:
    """Write one audit entry for the whole top-up. The outcome of each wallet is in the top-up itself and the ledger."""
    after = {"reference": batch.reference, "reason": batch.reason, "wallets": batch.planned.wallets, **told(batch)}
    books.audit(caller, [Change(action, "top_up", str(batch.id), after=after)])


def told(asked: TopUpBatch | TopUpSchedule) -> dict[str, Any]:
    """The target and the amount of a top-up or a schedule, as the audit log has them."""
    return {
        **{name: value for name, value in asdict(asked.target).items() if value is not None},
        f"{asked.amount.mode}_micros": asked.amount.micros,
    }


def _view(books: Books, batch: TopUpBatch, *, replayed: bool = False) -> TopUpView:
    results = batch.results
    if results is None:
        results = books.results(batch.id) if batch.state is TopUpState.APPLYING else Results()
    return TopUpView(batch, results, replayed)


def _is_repeated(known: TopUpBatch, new: NewBatch) -> bool:
    return (known.target, known.amount, known.reason) == (new.target, new.amount, new.reason)
