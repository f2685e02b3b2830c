"""Books for top-ups of many wallets and the schedules that make them, within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa

from app.domain.audit import Change
from app.domain.keys import Caller
from app.domain.top_ups import Target, TopUpAmount, TopUpState
from app.domain.wallets import WalletId
from app.stores.postgres import audit, catalog, top_up_schedules, top_ups, wallets
from app.stores.postgres.top_up_schedules import NewSchedule, TopUpSchedule
from app.stores.postgres.top_ups import BatchWallet, NewBatch, Plan, Results, TopUpBatch

# One statement copies the ids of a package's wallets, which takes some seconds for a million.
FREEZE_SECONDS_MAX = 30.0


class TopUpBatchBooks:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        """Write this transaction's changes to the audit log."""
        audit.write_all(self._connection, caller, changes)

    def has_package(self, package_id: str) -> bool:
        return catalog.find_package(self._connection, package_id) is not None

    def has_wallet(self, wallet_id: WalletId) -> bool:
        return wallets.exists(self._connection, wallet_id)

    def freeze(self, new: NewBatch, state: TopUpState) -> TopUpBatch | None:
        """A top-up of the wallets that match now. None where there is one with this reference, or for this period."""
        return top_ups.insert(self._connection, new, state, FREEZE_SECONDS_MAX)

    def plan(self, target: Target, amount: TopUpAmount) -> Plan:
        """What such a top-up would do now. Nothing is stored."""
        return top_ups.plan(self._connection, target, amount, FREEZE_SECONDS_MAX)

    def find_batch(self, number: int) -> TopUpBatch | None:
        return top_ups.find(self._connection, number)

    def find_batch_by_reference(self, reference: str) -> TopUpBatch | None:
        """The top-up that an operator requested under this reference."""
        return top_ups.find_by_reference(self._connection, reference)

    def lock_batch(self, number: int) -> TopUpBatch | None:
        return top_ups.lock(self._connection, number)

    def list_batches(self, schedule_id: int | None, before_id: int, limit: int) -> Sequence[TopUpBatch]:
        return top_ups.list_newest(self._connection, schedule_id, before_id, limit)

    def unfinished_batches(self) -> Sequence[int]:
        """Top-ups being applied, oldest first."""
        return top_ups.unfinished(self._connection)

    def start_batch(self, number: int, actor: str) -> None:
        """Have a locked dry run applied."""
        top_ups.start(self._connection, number, actor)

    def finish_batch(self, number: int) -> bool:
        """Mark a top-up as done. False where it was done before, or one of its wallets is still waiting."""
        return top_ups.finish(self._connection, number)

    def forget_batch(self, number: int) -> None:
        """Delete a locked dry run."""
        top_ups.delete(self._connection, number)

    def results(self, number: int) -> Results:
        """Its wallets so far, by outcome."""
        return top_ups.results(self._connection, number)

    def list_wallets(self, number: int, outcome: str | None, after_id: str, limit: int) -> Sequence[BatchWallet]:
        """In the order of their ids. `outcome` WAITING selects those that are not handled yet."""
        return top_ups.list_wallets(self._connection, number, outcome, after_id, limit)


class ScheduleBooks(TopUpBatchBooks):
    def today(self) -> date:
        """Today in UTC, by Postgres's clock."""
        return top_up_schedules.today(self._connection)

    def add_schedule(self, new: NewSchedule, starts_on: date, next_on: date) -> TopUpSchedule | None:
        """None where there is a schedule with this reference."""
        return top_up_schedules.insert(self._connection, new, starts_on, next_on)

    def find_schedule(self, number: int) -> TopUpSchedule | None:
        return top_up_schedules.find(self._connection, number)

    def find_schedule_by_reference(self, reference: str) -> TopUpSchedule | None:
        return top_up_schedules.find_by_reference(self._connection, reference)

    def lock_schedule(self, number: int) -> TopUpSchedule | None:
        return top_up_schedules.lock(self._connection, number)

    def list_schedules(self, before_id: int, limit: int) -> Sequence[TopUpSchedule]:
        return top_up_schedules.list_newest(self._connection, before_id, limit)

    def due_schedules(self) -> Sequence[int]:
        """Schedules that are due, the longest overdue first."""
        return top_up_schedules.due(self._connection)

    def lock_due_schedule(self, number: int) -> tuple[TopUpSchedule, date, date] | None:
        """A schedule that is due, the day it was due, and today. None where it is no longer due, or another transaction
        has locked it.
        """
        return top_up_schedules.lock_due(self._connection, number)

    def update_schedule(self, number: int, **changes: Any) -> TopUpSchedule:
        """Change a locked schedule. Returns it as it is then."""
        return top_up_schedules.update(self._connection, number, **changes)
