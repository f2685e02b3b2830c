"""Books for the story of an end: its row, entries, attempts and corrections, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.rates import RateCard
from app.domain.wallets import WalletId
from app.stores.postgres import bulk_actions, corrections, debts, end_stories, ledger, prices
from app.stores.postgres.bulk_actions import BulkAction, BulkEnd
from app.stores.postgres.corrections import Correction
from app.stores.postgres.debts import Room
from app.stores.postgres.end_stories import Attempt, FirstAnswer
from app.stores.postgres.ledger import LedgerEntry


class StoryBooks:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def find_open(self, end_id: UUID) -> Any | None:
        return end_stories.find_open(self._connection, end_id)

    def entries(self, end_id: UUID) -> Sequence[LedgerEntry]:
        return end_stories.entries(self._connection, end_id)

    def first_answer(self, end_id: UUID, key: str | None, process_id: str | None) -> FirstAnswer | None:
        return end_stories.first_answer(self._connection, end_id, key, process_id)

    def attempts(self, end_id: UUID) -> Sequence[Attempt]:
        return end_stories.attempts(self._connection, end_id)

    def corrections(self, end_id: UUID) -> Sequence[Correction]:
        return corrections.list_of_end(self._connection, end_id)

    def find_entries(self, numbers: Sequence[int]) -> Sequence[LedgerEntry]:
        return ledger.find_entries(self._connection, numbers)

    def open_charges(self, end_id: UUID) -> Sequence[Any]:
        return end_stories.open_charges(self._connection, end_id)

    def bulk_actions(self, end_id: UUID) -> Sequence[tuple[BulkAction, BulkEnd]]:
        return bulk_actions.actions_of_end(self._connection, end_id)

    def card(self, number: int) -> RateCard:
        """The rate card with this id. It exists, because something was billed by it."""
        return prices.by_ids(self._connection, [number])[number]

    def room(self, wallet_id: WalletId) -> Room | None:
        return debts.rooms(self._connection, [wallet_id]).get(wallet_id)

    def ahead(self, wallet_id: WalletId, end_id: UUID) -> tuple[int, int]:
        return end_stories.ahead(self._connection, wallet_id, end_id)
