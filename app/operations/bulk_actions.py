"""Bulk actions: replaying or writing off many failed ends. Drafted, confirmed by count and amount, processed in slices.

A draft freezes the ends that it is about. Each batch has the ends of one wallet, and one transaction both changes them
and records their outcomes, so an action that is killed anywhere resumes where it was. One process at a time works on
bulk actions, for a short slice of time, so that processes take turns.

The outcome of a replay is known only once settlement has tried the end: the ends are replayed first, and their outcomes
are recorded later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol
from uuid import UUID

import structlog

from app.access.doorbell import Doorbell
from app.access.ports import WalletBookKeeping
from app.billing.entries import Changes
from app.domain.amounts import token_number
from app.domain.audit import Change
from app.domain.bulk_actions import BulkKind, BulkOutcome, BulkState, Fate
from app.domain.errors import (
    BulkActionCancelled,
    FiguresDiffer,
    IdempotencyConflict,
    NotFound,
    WalletBusy,
    WalletNotFound,
)
from app.domain.failed_ends import Filter
from app.domain.keys import Caller
from app.domain.pages import NEWEST, Page, page
from app.domain.wallets import Wallet, WalletId
from app.operations import failed_ends as single
from app.operations.write_offs import WriteOff, write_off
from app.stores.postgres.bulk_actions import BulkAction, BulkEnd, BulkFigures, TriedEnd
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.failed_ends import FailedEndRow

log = structlog.get_logger(__name__)

# How many ends of a wallet one transaction handles: it locks the wallet for about ten milliseconds.
ENDS_PER_BATCH = 50
TRIED_PER_BATCH = 500
USERS_TOLD_MAX = 100
DRAFT_DAYS_MAX = 30
PAUSE_SECONDS = 0.2
FIRST_PLACE = ("", UUID(int=0))

_ALREADY = {
    Fate.SETTLED: BulkOutcome.ALREADY_SETTLED,
    Fate.WRITTEN_OFF: BulkOutcome.ALREADY_WRITTEN_OFF,
    Fate.CORRECTED: BulkOutcome.CORRECTED,
    Fate.GONE: BulkOutcome.GONE,
}

Outcomes = dict[UUID, tuple[BulkOutcome, str | None]]


class Books(single.Books, Protocol):
    """Failed ends and bulk actions, in one transaction."""

    def draft(self, **values: Any) -> int | None: ...

    def freeze(self, number: int, matching: Filter) -> None: ...

    def freeze_ends(self, number: int, end_ids: Collection[UUID]) -> None: ...

    def find_action(self, number: int) -> BulkAction | None: ...

    def find_action_by_reference(self, reference: str) -> BulkAction | None: ...

    def lock_action(self, number: int) -> BulkAction | None: ...

    def hold_action(self, number: int) -> BulkAction | None: ...

    def list_actions(self, before_id: int, limit: int) -> Sequence[BulkAction]: ...

    def confirm_action(self, number: int, confirmed_by: str) -> None: ...

    def set_action_state(self, number: int, state: BulkState) -> None: ...

    def unfinished_actions(self) -> Sequence[int]: ...

    def take_turn(self) -> bool: ...

    def figures(self, number: int, users_max: int) -> BulkFigures: ...

    def has_open(self, number: int) -> bool: ...

    def untouched(self, number: int, after: tuple[str, UUID], limit: int) -> Sequence[BulkEnd]: ...

    def claim_items(self, number: int, end_ids: Collection[UUID]) -> Sequence[BulkEnd]: ...

    def mark_replayed(self, number: int, end_ids: Collection[UUID]) -> None: ...

    def tried(self, number: int, limit: int) -> Sequence[TriedEnd]: ...

    def set_outcomes(self, number: int, outcomes: Mapping[UUID, tuple[BulkOutcome, str | None]]) -> None: ...

    def cancel_untouched(self, number: int) -> None: ...

    def fates(self, end_ids: Collection[UUID]) -> Mapping[UUID, Fate]: ...

    def list_items(self, number: int, outcome: BulkOutcome | None, after_id: UUID, limit: int) -> Sequence[BulkEnd]: ...

    def forget_drafts(self, days: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A requested action. `which` selects the ends, by a filter or by ids. `selection` is the same in the API's words,
    stored to be shown later.
    """

    action: BulkKind
    which: Filter | Sequence[UUID]
    selection: Mapping[str, Any]
    reference: str
    reason: str
    caller: Caller


@dataclass(frozen=True, slots=True)
class BulkView:
    """An action with the figures of its selection and its progress."""

    action: BulkAction
    figures: BulkFigures


@dataclass(slots=True)
class _Batch:
    """What a committed transaction has done about ends of one wallet, and what to announce about it."""

    ends: int = 0
    wallet: Wallet | None = None
    written_off: Sequence[UUID] = ()
    woken: Sequence[IndebtedWallet] = ()
    replayed: Sequence[FailedEndRow] = ()


class BulkActionService:
    def __init__(self, *, books: WalletBookKeeping[Books], changes: Changes, doorbell: Doorbell) -> None:
        self._books = books
        self._changes = changes
        self._doorbell = doorbell

    def draft(self, asked: Asked) -> tuple[BulkView, bool]:
        """Freeze a selection as a draft, without doing anything about its ends. Returns the draft, and whether an
        earlier call made it.

        Raises IdempotencyConflict (the reference was used with another body) or Unavailable.
        """

        def work(books: Books) -> tuple[int, bool]:
            number = books.draft(
                action=asked.action,
                selection=asked.selection,
                reference=asked.reference,
                reason=asked.reason,
                actor=asked.caller.actor,
                request_id=asked.caller.request_id,
            )
            if number is None:
                return _drafted_before(books, asked).id, True
            if isinstance(asked.which, Filter):
                books.freeze(number, asked.which)
            else:
                books.freeze_ends(number, asked.which)
            _audit(books, asked.caller, "bulk_action.drafted", _find(books.find_action(number)))
            return number, False

        number, is_known = self._books.transaction(work)
        return self.get(number), is_known

    def get(self, number: int) -> BulkView:
        """Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _view(books, _find(books.find_action(number))))

    def list(self, limit: int, before_id: int = NEWEST) -> Page[BulkAction, int]:
        """Newest first. Raises Unavailable."""
        return self._books.read(
            lambda books: page(lambda count: books.list_actions(before_id, count), lambda action: action.id, limit)
        )

    def ends(
        self, number: int, limit: int, after_id: str = single.FIRST_END, *, outcome: BulkOutcome | None = None
    ) -> Page[BulkEnd, str]:
        """The ends of an action and what became of them, oldest first. Raises NotFound or Unavailable."""
        after = UUID(after_id)

        def work(books: Books) -> Page[BulkEnd, str]:
            _find(books.find_action(number))
            return page(
                lambda count: books.list_items(number, outcome, after, count), lambda end: str(end.end_id), limit
            )

        return self._books.read(work)

    def confirm(self, number: int, *, ends: int, cost_micros: int, caller: Caller) -> BulkView:
        """Start a draft. The caller has to state its count and amount. Idempotent.

        Raises NotFound, FiguresDiffer, BulkActionCancelled or Unavailable.
        """

        def work(books: Books) -> bool:
            action = _find(books.lock_action(number))
            _check_figures(action, ends, cost_micros)
            if action.state in (BulkState.CANCELLED, BulkState.CANCELLING):
                raise BulkActionCancelled
            if action.state is not BulkState.DRAFT:
                return False
            books.confirm_action(number, caller.actor)
            _audit(books, caller, "bulk_action.confirmed", action)
            if action.ends == 0:
                books.set_action_state(number, BulkState.DONE)
            return True

        if self._books.transaction(work):
            log.info("bulk_action_confirmed", id=number, ends=ends, micros=cost_micros, actor=caller.actor)
        return self.get(number)

    def cancel(self, number: int, *, caller: Caller) -> BulkView:
        """Cancel an action: its untouched ends are left alone, and the outcomes of replayed ones are still recorded.

        Changes nothing about a finished action. Raises NotFound or Unavailable.
        """

        def work(books: Books) -> bool:
            action = _find(books.lock_action(number))
            if action.state not in (BulkState.DRAFT, BulkState.RUNNING):
                return False
            books.cancel_untouched(number)
            _audit(books, caller, "bulk_action.cancelled", action)
            books.set_action_state(number, BulkState.CANCELLING if books.has_open(number) else BulkState.CANCELLED)
            return True

        if self._books.transaction(work):
            log.info("bulk_action_cancelled", id=number, actor=caller.actor)
        return self.get(number)

    def work_off(self, seconds: float) -> bool:
        """Continue confirmed actions for about `seconds`. Returns whether to go on at once, as there is more to do.

        Raises Unavailable.
        """
        give_up_at = time.monotonic() + seconds
        return self._in_turn(self._books.read(lambda books: books.unfinished_actions()), give_up_at)

    def go_on(self, number: int, on_step: Callable[[BulkView], None] = lambda view: None) -> BulkView:
        """Process one action to its end, taking turns with the workers. `on_step` is called with its progress.

        Raises NotFound or Unavailable.
        """
        while True:
            view = self.get(number)
            on_step(view)
            if view.action.state not in (BulkState.RUNNING, BulkState.CANCELLING):
                return view
            if not self._in_turn([number], time.monotonic() + PAUSE_SECONDS):
                time.sleep(PAUSE_SECONDS)

    def forget_drafts(self) -> None:
        """Delete drafts that weren't confirmed within DRAFT_DAYS_MAX. Raises Unavailable."""
        self._books.transaction(lambda books: books.forget_drafts(DRAFT_DAYS_MAX))

    def _in_turn(self, numbers: Sequence[int], give_up_at: float) -> bool:
        """Process these actions, unless another process is doing so. Returns whether work was done and more is left."""
        if not numbers:
            return False

        def work(turn: Books) -> bool:
            if not turn.take_turn():
                return False
            are_left = [self._slice(number, give_up_at) for number in numbers]
            return any(are_left)

        # This transaction only holds the turn, and releases it however it ends. The work has its own transactions.
        return self._books.transaction(work)

    def _slice(self, number: int, give_up_at: float) -> bool:
        action = self._books.read(lambda books: books.find_action(number))
        if action is None:
            return False
        is_left = action.state is BulkState.RUNNING and self._work(action, give_up_at)
        is_left |= self._look_after(number, give_up_at)
        self._books.transaction(lambda books: _finish(books, number))
        return is_left

    def _work(self, action: BulkAction, give_up_at: float) -> bool:
        """Process untouched ends, wallet by wallet. Returns whether time ran out before all were tried."""
        busy: set[WalletId] = set()
        done = 0
        is_left = False
        for ends in self._untouched(action.id):
            wallet_id = ends[0].wallet_id
            if wallet_id in busy:
                continue
            if is_left := time.monotonic() >= give_up_at:
                break
            try:
                done += self._work_on(action, wallet_id, [end.end_id for end in ends])
            except WalletBusy:
                # Skip this wallet's ends; the next slice tries them again.
                busy.add(wallet_id)
        if done or busy:
            log.info("bulk_action_worked", id=action.id, ends=done, busy_wallets=len(busy))
        return is_left

    def _untouched(self, number: int) -> Iterator[Sequence[BulkEnd]]:
        """Untouched ends, in batches of one wallet each."""
        place = FIRST_PLACE
        while found := self._books.read(lambda books, place=place: books.untouched(number, place, ENDS_PER_BATCH)):  # type: ignore[misc]
            for _, ends in groupby(found, lambda end: end.wallet_id):
                yield list(ends)
            place = (found[-1].wallet_id, found[-1].end_id)

    def _work_on(self, action: BulkAction, wallet_id: WalletId, end_ids: Sequence[UUID]) -> int:
        """Process one batch of a wallet in one transaction. Returns how many ends. Raises WalletBusy or Unavailable."""
        step = _write_off if action.action is BulkKind.WRITE_OFF else _replay

        def work(books: Books) -> _Batch:
            wallet = books.lock(wallet_id)
            held = books.hold_action(action.id)
            if held is None or held.state is not BulkState.RUNNING:
                return _Batch()
            return step(books, held, wallet, books.claim_items(action.id, end_ids))

        batch = self._books.in_turn(wallet_id, work)
        if batch.wallet is not None:
            self._changes.announce(batch.wallet, batch.written_off)
            self._doorbell.collect(batch.woken)
        single.ring(self._doorbell, batch.replayed)
        return batch.ends

    def _look_after(self, number: int, give_up_at: float) -> bool:
        """Record the outcomes of replayed ends, as far as they are known. Returns whether more may be known already."""
        while True:
            found = self._books.transaction(lambda books: _tell(books, number))
            if found < TRIED_PER_BATCH:
                return False
            if time.monotonic() >= give_up_at:
                return True


def _audit(books: Books, caller: Caller, action: str, bulk: BulkAction) -> None:
    """Write one audit entry for the whole action: the outcome of each end is stored with the action."""
    after = {
        "action": bulk.action,
        "reference": bulk.reference,
        "reason": bulk.reason,
        "ends": bulk.ends,
        "cost_micros": bulk.cost_micros,
    }
    books.audit(caller, [Change(action, "bulk_action", str(bulk.id), after=after)])


def _find(action: BulkAction | None) -> BulkAction:
    if action is None:
        raise NotFound("Bulk action not found")
    return action


def _drafted_before(books: Books, asked: Asked) -> BulkAction:
    known = _find(books.find_action_by_reference(asked.reference))
    if (known.action, known.selection, known.reason) != (asked.action, asked.selection, asked.reason):
        raise IdempotencyConflict("This reference was used with another body")
    return known


def _view(books: Books, action: BulkAction) -> BulkView:
    return BulkView(action, books.figures(action.id, USERS_TOLD_MAX))


def _check_figures(action: BulkAction, ends: int, cost_micros: int) -> None:
    errors = {}
    if ends != action.ends:
        errors["ends"] = [f"It is about {action.ends}."]
    if cost_micros != action.cost_micros:
        errors["cost"] = [f"They cost {token_number(action.cost_micros)}."]
    if errors:
        raise FiguresDiffer(errors=errors)


def _write_off(books: Books, action: BulkAction, wallet: Wallet | None, items: Sequence[BulkEnd]) -> _Batch:
    if wallet is None:
        # Refused, as for a single end: without a wallet there is no ledger for the write-off.
        refused = (BulkOutcome.REFUSED, WalletNotFound.code)
        books.set_outcomes(action.id, {item.end_id: refused for item in items})
        return _Batch(ends=len(items))
    selected = {item.end_id: item.cost_micros for item in items}
    failed = {end.id: end for end in books.claim_failed(selected)}
    outcomes = _of_the_rest(books, selected.keys() - failed.keys())
    outcomes |= dict.fromkeys(books.billed_of(list(failed)), (BulkOutcome.ALREADY_SETTLED, None))
    outcomes |= {
        end_id: (BulkOutcome.CHANGED, None)
        for end_id, end in failed.items()
        if end_id not in outcomes and end.cost_micros != selected[end_id]
    }
    ends = [end for end_id, end in failed.items() if end_id not in outcomes]
    batch = _Batch(ends=len(items))
    if ends:
        actor = action.confirmed_by or action.actor
        given = WriteOff(action.reason, actor, action.request_id, action.reference)
        _, batch.wallet = write_off(books, wallet, ends, given)
        batch.written_off = [end.id for end in ends]
        # The wallet may now be able to pay the debts behind these ends.
        batch.woken = books.wake(wallet.id)
        outcomes |= dict.fromkeys(batch.written_off, (BulkOutcome.WRITTEN_OFF, None))
    books.set_outcomes(action.id, outcomes)
    return batch


def _replay(books: Books, action: BulkAction, wallet: Wallet | None, items: Sequence[BulkEnd]) -> _Batch:
    ids = [item.end_id for item in items]
    replayed = books.replay(ids)
    books.mark_replayed(action.id, [end.id for end in replayed])
    books.set_outcomes(action.id, _of_the_rest(books, set(ids) - {end.id for end in replayed}))
    return _Batch(ends=len(items), replayed=replayed)


def _of_the_rest(books: Books, end_ids: Collection[UUID]) -> Outcomes:
    """The outcomes of ends that aren't failed any more, without those of ends that still wait for a worker."""
    fates = books.fates(end_ids) if end_ids else {}
    return {end_id: (_ALREADY[fate], None) for end_id, fate in fates.items() if fate in _ALREADY}


def _tell(books: Books, number: int) -> int:
    """Record the outcomes of a batch of replayed ends that were tried since. Returns how many."""
    tried = books.tried(number, TRIED_PER_BATCH)
    outcomes: Outcomes = {end.end_id: (BulkOutcome.FAILED_AGAIN, end.last_error) for end in tried if end.has_failed}
    outcomes |= _of_the_rest(books, [end.end_id for end in tried if not end.has_failed])
    for end_id, (outcome, _) in outcomes.items():
        if outcome is BulkOutcome.ALREADY_SETTLED:
            # Assume that the replay settled it.
            outcomes[end_id] = (BulkOutcome.SETTLED, None)
    books.set_outcomes(number, outcomes)
    return len(outcomes)


def _finish(books: Books, number: int) -> None:
    action = books.lock_action(number)
    if action is None or books.has_open(number):
        return
    if action.state is BulkState.RUNNING:
        books.set_action_state(number, BulkState.DONE)
        log.info("bulk_action_done", id=number)
    elif action.state is BulkState.CANCELLING:
        books.set_action_state(number, BulkState.CANCELLED)
