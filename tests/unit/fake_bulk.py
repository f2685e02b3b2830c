"""The books of bulk actions on failed ends, in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar
from uuid import UUID

from app.domain.bulk_actions import BulkOutcome, BulkState, Fate
from app.domain.failed_ends import Filter
from app.domain.reasons import FailureReason
from app.domain.wallets import Wallet
from app.stores.postgres.bulk_actions import BulkAction, BulkEnd, BulkFigures, BulkSum, TriedEnd
from tests.unit.fake_books import FakeBooks
from tests.unit.fakes import NOW

T = TypeVar("T")


class FakeBulkBooks(FakeBooks):
    """The same with bulk actions. `billed` are ends that settlement has taken out of the inbox."""

    LASTING = FakeBooks.LASTING | {"dies_after"}

    def __init__(self, *wallets: Wallet) -> None:
        super().__init__(*wallets)
        self.actions: dict[int, BulkAction] = {}
        self.items: dict[tuple[int, UUID], BulkEnd] = {}
        self.is_taken = False
        self.dies_after: int | None = None

    def draft(self, **values: Any) -> int | None:
        if any(action.reference == values["reference"] for action in self.actions.values()):
            return None
        number = len(self.actions) + 1
        nothing = {field.name: None for field in fields(BulkAction)}
        new = {"id": number, "state": BulkState.DRAFT, "ends": 0, "cost_micros": 0, "created_at": NOW}
        self.actions[number] = BulkAction(**{**nothing, **values, **new})  # type: ignore[arg-type]
        return number

    def freeze(self, number: int, matching: Filter) -> None:
        self.freeze_ends(number, [end.id for end in self.list_failed(matching, UUID(int=0), len(self.failed))])

    def freeze_ends(self, number: int, end_ids: Collection[UUID]) -> None:
        for end in self.claim_failed(end_ids):
            self.items[number, end.id] = BulkEnd(
                end.id, end.wallet_id, end.user_id, end.cost_micros, end.state, end.last_error, None, None, None, None
            )
        frozen = [item for (action, _), item in self.items.items() if action == number]
        self._change(number, ends=len(frozen), cost_micros=sum(item.cost_micros for item in frozen))

    def find_action(self, number: int) -> BulkAction | None:
        return self.actions.get(number)

    lock_action = hold_action = find_action

    def find_action_by_reference(self, reference: str) -> BulkAction | None:
        return next((action for action in self.actions.values() if action.reference == reference), None)

    def list_actions(self, before_id: int, limit: int) -> Sequence[BulkAction]:
        return [action for number, action in reversed(self.actions.items()) if number < before_id][:limit]

    def confirm_action(self, number: int, confirmed_by: str) -> None:
        self._change(number, state=BulkState.RUNNING, confirmed_by=confirmed_by, confirmed_at=NOW)

    def set_action_state(self, number: int, state: BulkState) -> None:
        self._change(number, state=state)

    def unfinished_actions(self) -> Sequence[int]:
        at_work = (BulkState.RUNNING, BulkState.CANCELLING)
        return [number for number, action in self.actions.items() if action.state in at_work]

    def take_turn(self) -> bool:
        return not self.is_taken

    def figures(self, number: int, users_max: int) -> BulkFigures:
        def sums(by: str) -> list[BulkSum]:
            found: dict[Any, list[int]] = {}
            for item in self._of(number):
                found.setdefault(getattr(item, by), []).append(item.cost_micros)
            return [BulkSum(key, len(costs), sum(costs)) for key, costs in found.items()]

        awaited = sum(item.outcome is None and item.replayed_at is not None for item in self._of(number))
        users = sums("user_id")
        return BulkFigures(sums("state"), sums("last_error"), users[:users_max], len(users), sums("outcome"), awaited)

    def has_open(self, number: int) -> bool:
        return any(item.outcome is None for item in self._of(number))

    def untouched(self, number: int, after: tuple[str, UUID], limit: int) -> Sequence[BulkEnd]:
        found = [i for i in self._of(number) if i.outcome is None and i.replayed_at is None]
        ordered = sorted(found, key=lambda item: (item.wallet_id, item.end_id))
        return [item for item in ordered if (item.wallet_id, item.end_id) > after][:limit]

    def claim_items(self, number: int, end_ids: Collection[UUID]) -> Sequence[BulkEnd]:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise KeyboardInterrupt
        return [item for item in self.untouched(number, ("", UUID(int=0)), 10**6) if item.end_id in end_ids]

    def mark_replayed(self, number: int, end_ids: Collection[UUID]) -> None:
        for end_id in end_ids:
            self.items[number, end_id] = replace(self.items[number, end_id], replayed_at=NOW)

    def tried(self, number: int, limit: int) -> Sequence[TriedEnd]:
        found = []
        for item in self._of(number):
            end = self.failed.get(item.end_id)
            if item.outcome is not None or item.replayed_at is None or (end is not None and end.state == "accepted"):
                continue
            is_debt = end is not None and end.last_error == FailureReason.INSUFFICIENT_TOKENS
            if end is None or not is_debt or getattr(end, "is_tried", False):
                found.append(TriedEnd(item.end_id, None if end is None else end.last_error, end is not None))
        return found[:limit]

    def set_outcomes(self, number: int, outcomes: Mapping[UUID, tuple[BulkOutcome, str | None]]) -> None:
        for end_id, (outcome, detail) in outcomes.items():
            item = self.items[number, end_id]
            assert item.outcome is None, "it was said already"
            self.items[number, end_id] = replace(item, outcome=outcome, detail=detail, done_at=NOW)

    def cancel_untouched(self, number: int) -> None:
        for item in self.untouched(number, ("", UUID(int=0)), 10**6):
            self.items[number, item.end_id] = replace(item, outcome=BulkOutcome.CANCELLED)

    def fates(self, end_ids: Collection[UUID]) -> Mapping[UUID, Fate]:
        return {end_id: self._fate(end_id) for end_id in end_ids}

    def list_items(self, number: int, outcome: BulkOutcome | None, after_id: UUID, limit: int) -> Sequence[BulkEnd]:
        found = [i for i in self._of(number) if i.end_id > after_id and outcome in (None, i.outcome)]
        return found[:limit]

    def forget_drafts(self, days: int) -> None:
        self.actions = {n: action for n, action in self.actions.items() if action.state is not BulkState.DRAFT}

    def _fate(self, end_id: UUID) -> Fate:
        if end_id in self.failed:
            return Fate.ACCEPTED if self.failed[end_id].state == "accepted" else Fate.FAILED
        if self.find_write_off(end_id) is not None:
            return Fate.WRITTEN_OFF
        return Fate.SETTLED if self.billed_of([end_id]) else Fate.GONE

    def _of(self, number: int) -> list[BulkEnd]:
        return [item for (action, _), item in self.items.items() if action == number]

    def _change(self, number: int, **values: Any) -> None:
        self.actions[number] = replace(self.actions[number], **values)
