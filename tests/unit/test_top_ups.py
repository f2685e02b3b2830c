"""Top-ups of many wallets over fake books: frozen, applied once, worked off in steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app.billing import top_ups
from app.billing.top_ups import TopUpService, TopUpView
from app.domain.audit import Change
from app.domain.errors import AlreadyApplied, IdempotencyConflict, Invalid, NotFound, WalletNotFound
from app.domain.keys import Caller
from app.domain.top_ups import Target, TopUpAmount, TopUpMode, TopUpOutcome, TopUpState
from app.stores.postgres.top_ups import WAITING, NewBatch, Plan, Results
from tests.unit.fake_top_up_batches import FakeTopUpBatchBooks, FakeWalletTopUps
from tests.unit.fakes import PACKAGE, TOKEN

ANN, BEN = Caller("ann", request_id="r1"), Caller("ben")
NEW = NewBatch("spring", Target(PACKAGE, status="active"), TopUpAmount(TopUpMode.ADD, 5 * TOKEN), "Gift", ANN)
TOLD = {
    "reference": "spring",
    "reason": "Gift",
    "wallets": 3,
    "package_id": PACKAGE,
    "status": "active",
    "add_micros": 5 * TOKEN,
}


class World:
    """Three wallets of one package, of which two go into a step."""

    def __init__(self) -> None:
        self.books = FakeTopUpBatchBooks("ann", "bob", "cleo")
        self.wallets = FakeWalletTopUps(self.books)
        self.service = TopUpService(books=self.books, wallets=self.wallets)

    def create(self, *, is_applied: bool = False, **values: Any) -> TopUpView:
        return self.service.create(replace(NEW, **values), is_applied=is_applied)

    def refuses(self, error: type[Exception], call: Callable[[], object]) -> Any:
        """With all as it was."""
        before = (dict(self.books.batches), dict(self.books.members), list(self.books.audited))
        with pytest.raises(error) as refused:
            call()
        assert (self.books.batches, self.books.members, self.books.audited) == before
        return refused.value

    @property
    def audited(self) -> list[tuple[str, str]]:
        return [(actor, change.action) for actor, change in self.books.audited]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(top_ups, "WALLETS_PER_STEP", 2)
    return World()


class TestMaking:
    def test_a_dry_run_freezes_whom_it_is_about(self, world: World) -> None:
        view = world.create()
        assert (view.batch.state, view.batch.planned, view.replayed) == ("ready", Plan(3, 15 * TOKEN), False)
        world.books.users.append("dora")
        assert [member.user_id for member in world.service.wallets(1, 9).items] == ["ann", "bob", "cleo"]
        world.service.work_off(60)
        world.service.go_on(1, lambda: True)
        assert (world.wallets.given, world.service.get(1).results) == ([], Results())
        assert world.books.audited == [("ann", Change("top_up.created", "top_up", "1", after=TOLD))]

    def test_or_it_is_applied_at_once(self, world: World) -> None:
        assert world.create(is_applied=True).batch.state is TopUpState.APPLYING
        assert world.books.audited == [("ann", Change("top_up.applied", "top_up", "1", after=TOLD))]

    def test_asked_again_it_is_the_same(self, world: World) -> None:
        first = world.create()
        again = world.create(caller=BEN)
        assert (again.batch, again.replayed, world.audited) == (first.batch, True, [("ann", "top_up.created")])

    def test_asked_again_to_be_applied_it_is(self, world: World) -> None:
        world.create()
        again = world.create(is_applied=True, caller=BEN)
        assert (again.batch.state, again.batch.applied_by, again.replayed) == ("applying", "ben", True)
        world.create(is_applied=True, caller=ANN)
        assert world.audited == [("ann", "top_up.created"), ("ben", "top_up.applied")]

    @pytest.mark.parametrize(
        "other",
        [{"reason": "Other"}, {"target": Target(PACKAGE)}, {"amount": TopUpAmount(TopUpMode.FILL, 5 * TOKEN)}],
    )
    def test_another_body_under_its_reference(self, world: World, other: dict[str, Any]) -> None:
        world.create()
        world.refuses(IdempotencyConflict, lambda: world.create(is_applied=True, **other))

    def test_what_there_is_not(self, world: World) -> None:
        error = world.refuses(NotFound, lambda: world.create(target=Target("pro")))
        assert error.errors == {"package_id": ["Unknown package: pro"]}
        world.refuses(WalletNotFound, lambda: world.create(target=Target(user_id="dora")))
        for call in (world.service.get, world.service.apply, world.service.discard):
            world.refuses(NotFound, lambda call=call: call(9))
        world.refuses(NotFound, lambda: world.service.wallets(9, 1))
        world.refuses(NotFound, lambda: world.service.go_on(9, lambda: True))

    def test_references_of_schedules_are_theirs(self, world: World) -> None:
        error = world.refuses(Invalid, lambda: world.create(reference="schedule-7:2026-01"))
        assert list(error.errors) == ["reference"]
        assert world.create(reference="schedule-of-mine").batch.id == 1


class TestApplying:
    def test_once_is_enough(self, world: World) -> None:
        world.create()
        assert world.service.apply(1, BEN).batch.applied_by == "ben"
        assert world.service.apply(1, ANN).batch.applied_by == "ben"
        assert world.books.audited[1:] == [("ben", Change("top_up.applied", "top_up", "1", after=TOLD))]

    def test_of_what_is_done_nothing_is_done_again(self, world: World) -> None:
        world.create(is_applied=True)
        world.service.work_off(60)
        given = list(world.wallets.given)
        assert world.service.apply(1, BEN).batch.state is TopUpState.DONE
        world.service.work_off(60)
        assert (world.wallets.given, world.audited) == (given, [("ann", "top_up.applied")])

    def test_one_that_is_discarded_is_forgotten(self, world: World) -> None:
        world.create()
        assert world.service.discard(1, BEN).batch.id == 1
        assert (world.books.batches, world.books.members) == ({}, {})
        assert world.books.audited[1:] == [("ben", Change("top_up.discarded", "top_up", "1", after=TOLD))]
        # Its reference may be used again.
        assert world.create(reason="Other").batch.reason == "Other"

    def test_one_that_is_applied_can_not_be(self, world: World) -> None:
        world.create(is_applied=True)
        world.refuses(AlreadyApplied, lambda: world.service.discard(1))


class TestWorkingOff:
    def test_each_wallet_once_in_steps(self, world: World) -> None:
        world.create(is_applied=True)
        steps: list[int] = []
        world.service.go_on(1, lambda: True, steps.append)
        assert (world.wallets.given, steps) == ([["ann", "bob"], ["cleo"]], [2, 1])
        view = world.service.get(1)
        assert (view.batch.state, view.results) == ("done", Results(3, 0, 0, 15 * TOKEN))

    def test_what_became_of_it_so_far(self, world: World) -> None:
        world.create(is_applied=True)
        world.wallets.busy = {"bob"}
        world.service.work_off(60)
        view = world.service.get(1)
        assert (view.batch.state, view.results) == ("applying", Results(2, 0, 0, 10 * TOKEN))
        assert [each.user_id for each in world.service.wallets(1, 9, outcome=WAITING).items] == ["bob"]
        done = world.service.wallets(1, 1, outcome=TopUpOutcome.TOPPED_UP)
        assert ([each.user_id for each in done.items], done.next_key) == (["ann"], "ann")

    def test_busy_ones_are_tried_again_later(self, world: World) -> None:
        world.create(is_applied=True)
        world.wallets.busy = {"bob"}
        world.service.work_off(60)
        world.wallets.busy = set()
        world.service.work_off(60)
        assert world.wallets.given == [["ann", "bob"], ["cleo"], ["bob"]]
        assert world.service.get(1).batch.state is TopUpState.DONE

    def test_where_time_was_up_it_goes_on_behind_busy_ones(self, world: World) -> None:
        world.create(is_applied=True)
        world.wallets.busy = {"ann", "bob"}
        turns = iter([True, False])
        world.service.go_on(1, lambda: next(turns))
        world.service.go_on(1, lambda: True)
        assert world.wallets.given == [["ann", "bob"], ["cleo"]]
        # Then from the first on.
        world.service.go_on(1, lambda: True)
        assert world.wallets.given[2:] == [["ann", "bob"]]

    def test_without_time_nothing_is_done(self, world: World) -> None:
        world.create(is_applied=True)
        world.service.work_off(0)
        assert (world.wallets.given, world.service.get(1).batch.state) == ([], "applying")


def test_newest_first_and_those_of_a_schedule(world: World) -> None:
    for number in range(1, 4):
        world.books.freeze(replace(NEW, reference=f"r{number}", schedule_id=number % 2 or None), TopUpState.READY)
    assert [view.batch.id for view in world.service.list(2).items] == [3, 2]
    assert world.service.list(2).next_key == 2
    assert [view.batch.id for view in world.service.list(2, 2).items] == [1]
    assert [view.batch.id for view in world.service.list(9, schedule_id=1).items] == [3, 1]
