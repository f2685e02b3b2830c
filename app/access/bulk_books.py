"""A wallet's books together with bulk actions and their failed ends, within one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from app.access.books import Books
from app.domain.bulk_actions import BulkOutcome, BulkState, Fate
from app.domain.failed_ends import Filter
from app.stores.postgres import bulk_actions as store
from app.stores.postgres import failed_ends
from app.stores.postgres.bulk_actions import BulkAction, BulkEnd, BulkFigures, TriedEnd

# One statement copies a selection of hundreds of thousands of ends.
FREEZE_SECONDS_MAX = 30.0


class BulkBooks(Books):
    def draft(self, **values: Any) -> int | None:
        """A new action, still without ends. None where its reference has been used before."""
        return store.insert(self._connection, **values)

    def freeze(self, number: int, matching: Filter) -> None:
        """Store which failed ends match now, and what they cost."""
        store.freeze(self._connection, number, failed_ends.condition(matching), FREEZE_SECONDS_MAX)

    def freeze_ends(self, number: int, end_ids: Collection[UUID]) -> None:
        """Store those of these ends that have failed, and what they cost."""
        store.freeze(self._connection, number, failed_ends.any_of(end_ids), FREEZE_SECONDS_MAX)

    def find_action(self, number: int) -> BulkAction | None:
        return store.find(self._connection, number)

    def find_action_by_reference(self, reference: str) -> BulkAction | None:
        return store.find_by_reference(self._connection, reference)

    def lock_action(self, number: int) -> BulkAction | None:
        """Lock the action until this transaction ends: nobody else changes its state or works off its ends."""
        return store.lock(self._connection, number)

    def hold_action(self, number: int) -> BulkAction | None:
        """Keep the action's state as it is until this transaction ends."""
        return store.hold(self._connection, number)

    def list_actions(self, before_id: int, limit: int) -> Sequence[BulkAction]:
        return store.list_newest(self._connection, before_id, limit)

    def confirm_action(self, number: int, confirmed_by: str) -> None:
        store.confirm(self._connection, number, confirmed_by)

    def set_action_state(self, number: int, state: BulkState) -> None:
        store.set_state(self._connection, number, state)

    def unfinished_actions(self) -> Sequence[int]:
        return store.unfinished(self._connection)

    def take_turn(self) -> bool:
        """Whether this transaction got the turn to work off bulk actions; it keeps the turn until it ends."""
        return store.take_turn(self._connection)

    def figures(self, number: int, users_max: int) -> BulkFigures:
        return store.figures(self._connection, number, users_max)

    def has_open(self, number: int) -> bool:
        return store.has_open(self._connection, number)

    def untouched(self, number: int, after: tuple[str, UUID], limit: int) -> Sequence[BulkEnd]:
        return store.untouched(self._connection, number, after, limit)

    def claim_items(self, number: int, end_ids: Collection[UUID]) -> Sequence[BulkEnd]:
        """Lock and return those of these ends that the action hasn't handled yet."""
        return store.claim(self._connection, number, end_ids)

    def mark_replayed(self, number: int, end_ids: Collection[UUID]) -> None:
        store.mark_replayed(self._connection, number, end_ids)

    def tried(self, number: int, limit: int) -> Sequence[TriedEnd]:
        """Replayed ends whose outcome is known by now."""
        return store.tried(self._connection, number, limit)

    def set_outcomes(self, number: int, outcomes: Mapping[UUID, tuple[BulkOutcome, str | None]]) -> None:
        store.set_outcomes(self._connection, number, outcomes)

    def cancel_untouched(self, number: int) -> None:
        store.cancel_untouched(self._connection, number)

    def fates(self, end_ids: Collection[UUID]) -> Mapping[UUID, Fate]:
        return store.fates(self._connection, end_ids)

    def list_items(self, number: int, outcome: BulkOutcome | None, after_id: UUID, limit: int) -> Sequence[BulkEnd]:
        return store.list_ends(self._connection, number, outcome, after_id, limit)

    def forget_drafts(self, days: int) -> None:
        store.forget_drafts(self._connection, days)
