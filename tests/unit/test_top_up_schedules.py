"""Scheduled top-ups over fake books: each period that falls due is one top-up, whoever looks however often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from app.billing.top_up_schedules import DATES_TOLD, Outlook, ScheduleView, TopUpScheduleService
from app.domain.audit import Change
from app.domain.errors import IdempotencyConflict, Invalid, NotFound, ScheduleEnded, WalletNotFound
from app.domain.keys import Caller
from app.domain.top_ups import (
    Calendar,
    CatchUp,
    Period,
    Rhythm,
    ScheduleState,
    Target,
    TopUpAmount,
    TopUpMode,
    TopUpState,
)
from app.stores.postgres.top_up_schedules import NewSchedule
from app.stores.postgres.top_ups import Plan
from tests.unit.fake_top_up_batches import FakeTopUpBatchBooks
from tests.unit.fakes import PACKAGE, TOKEN

ANN, BEN = Caller("ann", person="maria", request_id="r1"), Caller("ben")
DAILY = Rhythm(Calendar(Period.DAILY))
NEW = NewSchedule("gift", Target(PACKAGE), TopUpAmount(TopUpMode.FILL, 5 * TOKEN), DAILY, None, "Gift", ANN)
TODAY = date(2026, 1, 1)
DAY = timedelta(days=1)


class World:
    """Two wallets of one package, on the first of January."""

    def __init__(self) -> None:
        self.books = FakeTopUpBatchBooks("ann", "bob")
        self.books.on = TODAY
        self.service = TopUpScheduleService(books=self.books)

    def create(self, **values: Any) -> ScheduleView:
        return self.service.create(replace(NEW, **values))

    def work_off(self, days: int = 0) -> None:
        self.books.on += days * DAY
        self.service.work_off(60)

    def refuses(self, error: type[Exception], call: Callable[[], object]) -> Any:
        """With all as it was."""
        before = (dict(self.books.schedules), dict(self.books.batches), list(self.books.audited))
        with pytest.raises(error) as refused:
            call()
        assert (self.books.schedules, self.books.batches, self.books.audited) == before
        return refused.value

    @property
    def made(self) -> list[str]:
        return [batch.reference for batch in self.books.batches.values()]

    @property
    def next_on(self) -> date | None:
        return self.books.schedules[1].next_on


@pytest.fixture
def world() -> World:
    return World()


class TestMaking:
    def test_from_today_on(self, world: World) -> None:
        view = world.create()
        assert (view.schedule.state, view.schedule.starts_on, view.schedule.next_on) == ("active", TODAY, TODAY)
        assert (view.schedule.actor, view.replayed) == ("ann/maria", False)
        dates = [TODAY + number * DAY for number in range(DATES_TOLD)]
        assert view.outlook == Outlook(dates, Plan(2, 10 * TOKEN))
        after = {"reference": "gift", "reason": "Gift", "package_id": PACKAGE, "fill_micros": 5 * TOKEN}
        change = Change("top_up_schedule.created", "top_up_schedule", "1", after=after)
        assert world.books.audited == [("ann/maria", change)]
        assert world.books.batches == {}

    def test_asked_again_it_is_the_same(self, world: World) -> None:
        first = world.create(starts_on=TODAY + DAY)
        world.books.on += 9 * DAY
        for starts_on in (TODAY + DAY, None):
            again = world.create(starts_on=starts_on, caller=BEN)
            assert (again.schedule, again.replayed) == (first.schedule, True)
        assert len(world.books.audited) == 1

    def test_also_when_two_ask_at_once(self, world: World) -> None:
        world.books.meanwhile = [lambda: world.books.add_schedule(NEW, TODAY, TODAY)]
        assert world.create().replayed
        assert (len(world.books.schedules), world.books.audited) == (1, [])

    @pytest.mark.parametrize(
        "other",
        [
            {"reason": "Other"},
            {"target": Target(user_id="ann")},
            {"amount": TopUpAmount(TopUpMode.ADD, 5 * TOKEN)},
            {"rhythm": replace(DAILY, catch_up=CatchUp.LATEST)},
            {"starts_on": TODAY + DAY},
        ],
    )
    def test_another_body_under_its_reference(self, world: World, other: dict[str, Any]) -> None:
        world.create()
        world.refuses(IdempotencyConflict, lambda: world.create(**other))

    def test_dry_run_keeps_nothing(self, world: World) -> None:
        outlook = world.service.dry_run(replace(NEW, rhythm=Rhythm(Calendar(Period.MONTHLY, 31), date(2026, 3, 1))))
        assert outlook == Outlook([date(2026, 1, 31), date(2026, 2, 28)], Plan(2, 10 * TOKEN))
        assert (world.books.schedules, world.books.audited) == ({}, [])

    def test_refused(self, world: World) -> None:
        for values, error, field in (
            ({"starts_on": TODAY - DAY}, Invalid, "starts_on"),
            ({"rhythm": replace(DAILY, ends_on=TODAY), "starts_on": TODAY + DAY}, Invalid, "ends_on"),
            ({"target": Target("pro")}, NotFound, "package_id"),
        ):
            new = replace(NEW, **values)
            for call in (world.service.create, world.service.dry_run):
                refused = world.refuses(error, lambda call=call, new=new: call(new))
                assert list(refused.errors) == [field]
        world.refuses(WalletNotFound, lambda: world.create(target=Target(user_id="cleo")))
        world.refuses(NotFound, lambda: world.service.get(9))


class TestFallingDue:
    def test_makes_a_top_up_that_is_applied(self, world: World) -> None:
        world.create()
        world.work_off()
        [batch] = world.books.batches.values()
        assert (batch.reference, batch.state, batch.schedule_id) == ("schedule-1:2026-01-01", TopUpState.APPLYING, 1)
        assert (batch.due_on, batch.target, batch.amount, batch.reason) == (TODAY, NEW.target, NEW.amount, "Gift")
        # Whoever made the schedule stands for what it does.
        assert (batch.actor, batch.request_id) == ("ann/maria", "r1")
        assert world.next_on == TODAY + DAY

    def test_each_period_once(self, world: World) -> None:
        world.create()
        for _ in range(3):
            world.work_off()
        world.work_off(days=1)
        assert world.made == ["schedule-1:2026-01-01", "schedule-1:2026-01-02"]

    def test_a_period_that_has_its_top_up_gets_no_other(self, world: World) -> None:
        world.create()
        world.work_off()
        world.books.update_schedule(1, next_on=TODAY)
        world.work_off()
        assert (len(world.made), world.next_on) == (1, TODAY + DAY)

    def test_what_was_missed_is_made_up_for(self, world: World) -> None:
        world.create()
        world.work_off(days=2)
        assert world.made == [f"schedule-1:2026-01-0{day}" for day in (1, 2, 3)]

    def test_or_only_the_last_of_it(self, world: World) -> None:
        world.create(rhythm=replace(DAILY, catch_up=CatchUp.LATEST))
        world.work_off(days=2)
        assert (world.made, world.next_on) == (["schedule-1:2026-01-03"], TODAY + 3 * DAY)

    def test_ends_after_its_last_day(self, world: World) -> None:
        world.create(rhythm=replace(DAILY, ends_on=TODAY + DAY))
        world.work_off(days=9)
        assert world.made == ["schedule-1:2026-01-01", "schedule-1:2026-01-02"]
        view = world.service.get(1)
        assert (view.schedule.state, view.schedule.next_on, view.outlook) == ("ended", None, Outlook())

    def test_nothing_before_its_day(self, world: World) -> None:
        world.create(starts_on=TODAY + DAY)
        world.work_off()
        assert world.made == []

    @pytest.mark.parametrize("trouble", ["busy", "slow"])
    def test_one_that_can_not_be_worked_on_holds_up_no_other(self, world: World, trouble: str) -> None:
        world.create()
        world.create(reference="other")
        setattr(world.books, trouble, {1})
        world.work_off()
        assert (world.made, world.next_on) == (["schedule-2:2026-01-01"], TODAY)
        setattr(world.books, trouble, set())
        world.work_off()
        assert world.made[1:] == ["schedule-1:2026-01-01"]

    def test_without_time_nothing_is_made(self, world: World) -> None:
        world.create()
        world.service.work_off(0)
        assert world.made == []


class TestStates:
    def test_paused_it_does_not_fall_due(self, world: World) -> None:
        world.create()
        view = world.service.pause(1, reason="too much", caller=BEN)
        assert view.schedule.state is ScheduleState.PAUSED
        world.work_off(days=3)
        assert world.made == []
        before, after = {"state": "active", "next_on": TODAY}, {"state": "paused", "next_on": TODAY}
        change = Change("top_up_schedule.paused", "top_up_schedule", "1", before, {**after, "reason": "too much"})
        assert world.books.audited[1:] == [("ben", change)]

    def test_resumed_it_leaves_out_what_fell_due_meanwhile(self, world: World) -> None:
        world.create()
        world.service.pause(1, reason="too much")
        world.books.on += 3 * DAY
        view = world.service.resume(1, reason="again", caller=BEN)
        assert (view.schedule.state, view.schedule.next_on) == ("active", TODAY + 3 * DAY)
        change = world.books.audited[-1][1]
        assert (change.action, change.before, change.after) == (
            "top_up_schedule.resumed",
            {"state": "paused", "next_on": TODAY},
            {"state": "active", "next_on": TODAY + 3 * DAY, "reason": "again"},
        )
        world.work_off()
        assert world.made == ["schedule-1:2026-01-04"]

    def test_resumed_after_its_last_day_it_has_ended(self, world: World) -> None:
        world.create(rhythm=replace(DAILY, ends_on=TODAY + DAY))
        world.service.pause(1, reason="too much")
        world.books.on += 3 * DAY
        view = world.service.resume(1, reason="again")
        assert (view.schedule.state, view.schedule.next_on) == ("ended", None)
        assert world.books.audited[-1][1].action == "top_up_schedule.ended"

    def test_ended_it_never_falls_due_again(self, world: World) -> None:
        world.create()
        view = world.service.end(1, reason="over", caller=BEN)
        assert (view.schedule.state, view.schedule.next_on, view.outlook) == ("ended", None, Outlook())
        world.work_off(days=3)
        assert world.made == []
        for change in (world.service.pause, world.service.resume):
            world.refuses(ScheduleEnded, lambda change=change: change(1, reason="again"))

    def test_what_it_is_already_is_written_down_once(self, world: World) -> None:
        world.create()
        world.service.resume(1, reason="again")
        for change in (world.service.pause, world.service.end):
            before = len(world.books.audited)
            for _ in range(2):
                change(1, reason="enough")
            assert len(world.books.audited) == before + 1

    def test_of_what_there_is_not(self, world: World) -> None:
        world.refuses(NotFound, lambda: world.service.pause(9, reason="x"))


def test_newest_first(world: World) -> None:
    for reference in ("a", "b", "c"):
        world.create(reference=reference)
    page = world.service.list(2)
    assert ([schedule.reference for schedule in page.items], page.next_key) == (["c", "b"], 2)
    assert [schedule.reference for schedule in world.service.list(2, 2).items] == ["a"]
