"""The books of top-ups of many wallets and of their schedules, in memory, and somebody who tops wallets up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import date
from typing import Any, TypeVar

from app.domain.errors import WalletBusy
from app.domain.top_ups import ScheduleState, Target, TopUpAmount, TopUpOutcome, TopUpState
from app.domain.wallets import WalletId, wallet_of
from app.stores.postgres.top_up_schedules import NewSchedule, TopUpSchedule
from app.stores.postgres.top_ups import WAITING, BatchWallet, NewBatch, Plan, Results, TopUpBatch
from tests.unit.fake_bookkeeping import FakeBookKeeping
from tests.unit.fakes import NOW, PACKAGE

T = TypeVar("T")


class FakeTopUpBatchBooks(FakeBookKeeping):
    """Users whose wallets have the one package. A transaction that raises leaves all as it was."""

    def __init__(self, *users: str) -> None:
        super().__init__()
        self.users = list(users)
        self.batches: dict[int, TopUpBatch] = {}
        self.members: dict[tuple[int, str], BatchWallet] = {}
        self.schedules: dict[int, TopUpSchedule] = {}
        self.on = NOW.date()
        # Schedules that somebody else is at, and those whose wallets take too long to be listed.
        self.busy: set[int] = set()
        self.slow: set[int] = set()
        # What somebody else does between a look and a change.
        self.meanwhile: list[Callable[[], object]] = []

    def has_package(self, package_id: str) -> bool:
        return package_id == PACKAGE

    def has_wallet(self, wallet_id: WalletId) -> bool:
        return wallet_id in self.users

    def plan(self, target: Target, amount: TopUpAmount) -> Plan:
        meant = self._meant(target)
        return Plan(len(meant), len(meant) * amount.micros)

    def freeze(self, new: NewBatch, state: TopUpState) -> TopUpBatch | None:
        if new.schedule_id in self.slow:
            raise WalletBusy
        key = (new.reference, new.schedule_id)
        if any((batch.reference, batch.schedule_id) == key for batch in self.batches.values()):
            return None
        number = len(self.batches) + 1
        nothing = dict.fromkeys((field.name for field in fields(TopUpBatch)), None)
        names = ("reference", "target", "amount", "reason", "schedule_id", "due_on")
        given = {name: getattr(new, name) for name in names}
        kept = {"id": number, "state": state, "actor": new.caller.actor, "created_at": NOW}
        kept |= {"request_id": new.caller.request_id, "planned": self.plan(new.target, new.amount)}
        self.batches[number] = TopUpBatch(**{**nothing, **given, **kept})  # type: ignore[arg-type]
        for user in self._meant(new.target):
            self.members[number, user] = BatchWallet(wallet_of(user), user, new.amount.micros, None, 0, None)
        return self.batches[number]

    def find_batch(self, number: int) -> TopUpBatch | None:
        return self.batches.get(number)

    lock_batch = find_batch

    def find_batch_by_reference(self, reference: str) -> TopUpBatch | None:
        mine = (batch for batch in self.batches.values() if batch.schedule_id is None)
        return next((batch for batch in mine if batch.reference == reference), None)

    def list_batches(self, schedule_id: int | None, before_id: int, limit: int) -> Sequence[TopUpBatch]:
        newest = [self.batches[number] for number in sorted(self.batches, reverse=True) if number < before_id]
        return [batch for batch in newest if schedule_id in (None, batch.schedule_id)][:limit]

    def unfinished_batches(self) -> Sequence[int]:
        return [number for number, batch in self.batches.items() if batch.state is TopUpState.APPLYING]

    def start_batch(self, number: int, actor: str) -> None:
        changed = replace(self.batches[number], state=TopUpState.APPLYING, applied_by=actor, applied_at=NOW)
        self.batches[number] = changed

    def finish_batch(self, number: int) -> bool:
        batch = self.batches[number]
        if batch.state is not TopUpState.APPLYING or self.list_wallets(number, WAITING, "", 1):
            return False
        self.batches[number] = replace(batch, state=TopUpState.DONE, results=self.results(number), finished_at=NOW)
        return True

    def forget_batch(self, number: int) -> None:
        del self.batches[number]
        self.members = {key: member for key, member in self.members.items() if key[0] != number}

    def results(self, number: int) -> Results:
        done = [member for key, member in self.members.items() if key[0] == number and member.outcome is not None]
        return Results(len(done), 0, 0, sum(member.posted_micros for member in done))

    def list_wallets(self, number: int, outcome: str | None, after_id: str, limit: int) -> Sequence[BatchWallet]:
        wanted = {None: lambda _: True, WAITING: lambda found: found is None}.get(
            outcome, lambda found: found == outcome
        )
        members = [self.members[key] for key in sorted(self.members) if key[0] == number and key[1] > after_id]
        return [member for member in members if wanted(member.outcome)][:limit]

    def today(self) -> date:
        return self.on

    def add_schedule(self, new: NewSchedule, starts_on: date, next_on: date) -> TopUpSchedule | None:
        while self.meanwhile:
            self.meanwhile.pop()()
        if self.find_schedule_by_reference(new.reference) is not None:
            return None
        number = len(self.schedules) + 1
        names = ("reference", "target", "amount", "rhythm", "reason")
        given = {name: getattr(new, name) for name in names}
        caller = {"actor": new.caller.actor, "request_id": new.caller.request_id, "created_at": NOW}
        self.schedules[number] = TopUpSchedule(
            id=number, state=ScheduleState.ACTIVE, starts_on=starts_on, next_on=next_on, **given, **caller
        )
        return self.schedules[number]

    def find_schedule(self, number: int) -> TopUpSchedule | None:
        return self.schedules.get(number)

    lock_schedule = find_schedule

    def find_schedule_by_reference(self, reference: str) -> TopUpSchedule | None:
        return next((each for each in self.schedules.values() if each.reference == reference), None)

    def list_schedules(self, before_id: int, limit: int) -> Sequence[TopUpSchedule]:
        return [self.schedules[number] for number in sorted(self.schedules, reverse=True) if number < before_id][:limit]

    def due_schedules(self) -> Sequence[int]:
        return [number for number in self.schedules if self._since(number) is not None]

    def lock_due_schedule(self, number: int) -> tuple[TopUpSchedule, date, date] | None:
        since = self._since(number)
        return None if since is None or number in self.busy else (self.schedules[number], since, self.on)

    def update_schedule(self, number: int, **changes: Any) -> TopUpSchedule:
        self.schedules[number] = replace(self.schedules[number], **changes)
        return self.schedules[number]

    def _since(self, number: int) -> date | None:
        schedule = self.schedules[number]
        is_due = schedule.state is ScheduleState.ACTIVE and schedule.next_on is not None and schedule.next_on <= self.on
        return schedule.next_on if is_due else None

    def _meant(self, target: Target) -> list[str]:
        return [user for user in self.users if target.user_id in (None, user)]


class FakeWalletTopUps:
    """Tops up every wallet that it is given, except those that are busy."""

    def __init__(self, books: FakeTopUpBatchBooks) -> None:
        self._books = books
        self.busy: set[str] = set()
        self.given: list[list[str]] = []

    def top_up(self, batch: TopUpBatch, members: Sequence[BatchWallet]) -> None:
        self.given.append([member.user_id for member in members])
        for member in members:
            assert member.outcome is None, "something was done about it already"
            if member.user_id not in self.busy:
                done = replace(member, outcome=TopUpOutcome.TOPPED_UP, posted_micros=batch.amount.micros)
                self._books.members[batch.id, member.user_id] = done
