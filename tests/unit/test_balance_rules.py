"""Balance rules over fake books: whose they may be, what is written down of them, and looking after what was asked."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from typing import Any
from uuid import UUID

import pytest

from app.domain.audit import Change
from app.domain.balance_rules import AutoTopUp, LowBalance, Owner, RequestState
from app.domain.errors import Invalid, NotFound, WalletBusy, WalletNotFound
from app.domain.keys import Caller
from app.domain.wallets import wallet_of
from app.stores.postgres.top_up_requests import RequestFilter, Standing
from app.webhooks.balance_rules import WALLETS_AT_ONCE, BalanceRules, TopUpRequests, WalletRules
from tests.unit.fake_balance_rules import FakeBalanceRuleBooks
from tests.unit.fakes import ALICE, NOW, PACKAGE, TOKEN

ANN = Caller("ann")
ALICES, BASIC = Owner(user_id="alice"), Owner(package_id=PACKAGE)
OWNERS = [(ALICES, "wallet", ALICE), (BASIC, "package", PACKAGE)]
LOW, LOWER = LowBalance(below_micros=5 * TOKEN), LowBalance(below_basis_points=1_000)
TOP_UP = AutoTopUp(
    below_micros=5 * TOKEN,
    amount_micros=50 * TOKEN,
    requests_per_month=10,
    micros_per_month=200 * TOKEN,
    failures_max=3,
    answer_seconds=86_400,
)
STOPPED = Standing(failed_requests=3, next_request_at=NOW, stopped_at=NOW, stopped_reason="no card")


class World:
    def __init__(self) -> None:
        self.books = FakeBalanceRuleBooks()
        self.rules = BalanceRules(books=self.books)
        self.requests = TopUpRequests(books=self.books)

    def begin(self) -> None:
        self.books.steps.clear()
        self.books.audited.clear()

    def refuses(self, error: type[Exception], call: Callable[[], object]) -> Any:
        """With all as it was."""
        before = deepcopy(self.books.kept)
        self.begin()
        with pytest.raises(error) as refused:
            call()
        assert (self.books.kept, self.books.audited) == (before, [])
        assert "committed" not in self.books.steps
        return refused.value

    @property
    def audited(self) -> list[Change]:
        return self.books.changes_by("ann")


@pytest.fixture
def world() -> World:
    return World()


class TestOwners:
    @pytest.mark.parametrize("values", [{}, {"user_id": "alice", "package_id": PACKAGE}])
    def test_either_a_wallet_or_a_package(self, values: dict[str, str]) -> None:
        with pytest.raises(Invalid) as refused:
            Owner(**values)
        assert list(refused.value.errors) == ["user_id", "package_id"]

    def test_that_there_are(self, world: World) -> None:
        nobody, nothing = Owner(user_id="bob"), Owner(package_id="pro")
        world.refuses(WalletNotFound, lambda: world.rules.set_low_balance(nobody, LOW, ANN))
        world.refuses(WalletNotFound, lambda: world.rules.set_auto_top_up(nobody, TOP_UP, ANN))
        for call in (
            lambda: world.rules.set_low_balance(nothing, LOW, ANN),
            lambda: world.rules.set_auto_top_up(nothing, None, ANN),
        ):
            assert world.refuses(NotFound, call).errors == {"package_id": ["Unknown package: pro"]}


@pytest.mark.parametrize(("owner", "kind", "subject_id"), OWNERS)
class TestLowBalance:
    def test_set_in_place_of_what_was(self, world: World, owner: Owner, kind: str, subject_id: str) -> None:
        first = world.rules.set_low_balance(owner, LOW, ANN)
        second = world.rules.set_low_balance(owner, LOWER, ANN)
        assert ((first.owner, first.low_balance), second.low_balance) == ((owner, LOW), LOWER)
        assert world.books.kept.low_balance == {owner: second}
        assert world.audited == [
            Change("low_balance_rule.set", kind, subject_id, None, asdict(LOW)),
            Change("low_balance_rule.set", kind, subject_id, asdict(LOW), asdict(LOWER)),
        ]
        assert world.books.steps == ["committed"] * 2

    def test_again_the_same_is_not_written_down(self, world: World, owner: Owner, kind: str, subject_id: str) -> None:
        for _ in range(2):
            world.rules.set_low_balance(owner, LOW, ANN)
        assert [(change.subject_kind, change.subject_id) for change in world.audited] == [(kind, subject_id)]

    def test_removed(self, world: World, owner: Owner, kind: str, subject_id: str) -> None:
        world.rules.set_low_balance(owner, LOW, ANN)
        world.begin()
        world.rules.remove_low_balance(owner, ANN)
        assert world.books.kept.low_balance == {}
        assert world.audited == [Change("low_balance_rule.removed", kind, subject_id, asdict(LOW), None)]
        error = world.refuses(NotFound, lambda: world.rules.remove_low_balance(owner, ANN))
        assert error.message == "Low balance rule not found"


@pytest.mark.parametrize(("owner", "kind", "subject_id"), OWNERS)
class TestAutoTopUp:
    def test_set_in_place_of_what_was(self, world: World, owner: Owner, kind: str, subject_id: str) -> None:
        first = world.rules.set_auto_top_up(owner, TOP_UP, ANN)
        # Never: something else than no rule, as then the package's holds.
        second = world.rules.set_auto_top_up(owner, None, ANN)
        assert ((first.owner, first.auto_top_up), second.auto_top_up) == ((owner, TOP_UP), None)
        assert world.books.kept.auto_top_up == {owner: second}
        assert world.audited == [
            Change("auto_top_up_rule.set", kind, subject_id, None, asdict(TOP_UP)),
            Change("auto_top_up_rule.set", kind, subject_id, asdict(TOP_UP), {}),
        ]
        assert world.books.steps == ["committed"] * 2

    @pytest.mark.parametrize("auto_top_up", [TOP_UP, None])
    def test_again_the_same_is_not_written_down(
        self, world: World, owner: Owner, kind: str, subject_id: str, auto_top_up: AutoTopUp | None
    ) -> None:
        for _ in range(2):
            world.rules.set_auto_top_up(owner, auto_top_up, ANN)
        assert [(change.subject_kind, change.subject_id) for change in world.audited] == [(kind, subject_id)]

    def test_removed(self, world: World, owner: Owner, kind: str, subject_id: str) -> None:
        for auto_top_up, told in ((TOP_UP, asdict(TOP_UP)), (None, {})):
            world.rules.set_auto_top_up(owner, auto_top_up, ANN)
            world.begin()
            world.rules.remove_auto_top_up(owner, ANN)
            assert world.books.kept.auto_top_up == {}
            assert world.audited == [Change("auto_top_up_rule.removed", kind, subject_id, told, None)]
        error = world.refuses(NotFound, lambda: world.rules.remove_auto_top_up(owner, ANN))
        assert error.message == "Auto top-up rule not found"

    def test_what_was_asked_for_stays(self, world: World, owner: Owner, kind: str, subject_id: str) -> None:
        world.rules.set_auto_top_up(owner, TOP_UP, ANN)
        request = world.requests.get(world.books.ask())
        world.rules.remove_auto_top_up(owner, ANN)
        assert world.requests.get(request.id) == request
        assert (world.audited[-1].subject_kind, world.audited[-1].subject_id) == (kind, subject_id)


class TestLooking:
    def test_what_holds_for_a_wallet(self, world: World) -> None:
        assert world.rules.of_wallet("alice") == WalletRules(None, None, Standing())
        theirs = world.rules.set_low_balance(BASIC, LOW), world.rules.set_auto_top_up(BASIC, TOP_UP)
        world.books.kept.standings[ALICE] = STOPPED
        assert world.rules.of_wallet("alice") == WalletRules(*theirs, STOPPED)
        own = world.rules.set_low_balance(ALICES, LOWER), world.rules.set_auto_top_up(ALICES, None)
        assert world.rules.of_wallet("alice") == WalletRules(*own, STOPPED)
        world.refuses(WalletNotFound, lambda: world.rules.of_wallet("bob"))

    def test_the_last_made_first(self, world: World) -> None:
        low = [world.rules.set_low_balance(owner, LOW) for owner in (BASIC, ALICES)]
        first = world.rules.low_balance_rules(1)
        assert (first.items, first.next_key) == ([low[1]], low[1].id)
        assert world.rules.low_balance_rules(9, low[1].id).items == [low[0]]
        top_ups = [world.rules.set_auto_top_up(owner, TOP_UP) for owner in (BASIC, ALICES)]
        last = world.rules.auto_top_up_rules(1)
        assert (last.items, last.next_key) == ([top_ups[1]], top_ups[1].id)
        assert world.rules.auto_top_up_rules(9, top_ups[1].id).items == [top_ups[0]]

    def test_requests_newest_first(self, world: World) -> None:
        old, new = world.books.ask(state=RequestState.ANSWERED), world.books.ask()
        page = world.requests.list(1)
        assert ([each.id for each in page.items], page.next_key) == ([new], str(new))
        assert [each.id for each in world.requests.list(9, str(new)).items] == [old]
        answered = RequestFilter(state=RequestState.ANSWERED)
        assert [each.id for each in world.requests.list(9, matching=answered).items] == [old]
        world.refuses(NotFound, lambda: world.requests.get(UUID(int=99)))


class TestDeclining:
    @pytest.mark.parametrize("state", [RequestState.OPEN, RequestState.UNANSWERED])
    def test_in_its_wallets_turn_and_told(self, world: World, state: RequestState) -> None:
        request_id = world.books.ask(state=state)
        declined = world.requests.decline(request_id, "no card", ANN)
        assert declined == world.requests.get(request_id)
        assert (declined.state, declined.reason) == (RequestState.DECLINED, "no card")
        after = {"state": RequestState.DECLINED, "request_id": request_id, "reason": "no card"}
        assert world.audited == [Change("top_up_request.declined", "wallet", ALICE, {"state": state}, after)]
        assert world.books.steps == [f"turn of {ALICE}", "committed"]

    def test_the_next_one_waits(self, world: World) -> None:
        world.requests.decline(world.books.ask(), "no card", ANN)
        standing = world.rules.of_wallet("alice").standing
        assert standing.failed_requests == 1
        assert standing.next_request_at is not None

    @pytest.mark.parametrize("state", [RequestState.ANSWERED, RequestState.DECLINED])
    def test_what_is_closed_stays_as_it_is(self, world: World, state: RequestState) -> None:
        request = world.requests.get(world.books.ask(state=state))
        assert world.requests.decline(request.id, "no card", ANN) == request
        assert world.audited == []

    def test_one_that_there_is_not(self, world: World) -> None:
        world.refuses(NotFound, lambda: world.requests.decline(UUID(int=99), "no card", ANN))
        assert world.books.steps == []

    def test_not_while_somebody_else_has_the_wallet(self, world: World) -> None:
        request_id = world.books.ask()
        world.books.busy.add(ALICE)
        world.refuses(WalletBusy, lambda: world.requests.decline(request_id, "no card", ANN))


class TestResuming:
    def test_failures_are_forgotten_and_it_asks_again(self, world: World) -> None:
        world.books.kept.standings[ALICE] = STOPPED
        world.books.wanting.add(ALICE)
        assert world.requests.resume("alice", ANN) == Standing()
        [request] = world.requests.list(9).items
        assert (request.user_id, request.state) == ("alice", RequestState.OPEN)
        before = {"failed_requests": 3, "stopped_reason": "no card"}
        assert world.audited == [Change("auto_top_up.resumed", "wallet", ALICE, before, None)]
        assert world.books.steps == [f"turn of {ALICE}", "committed"]

    def test_nothing_to_forget_is_nothing_to_write_down(self, world: World) -> None:
        world.books.wanting.add(ALICE)
        assert world.requests.resume("alice", ANN) == Standing()
        assert len(world.requests.list(9).items) == 1
        assert world.audited == []

    def test_what_is_open_stays_alone(self, world: World) -> None:
        world.books.wanting.add(ALICE)
        request_id = world.books.ask()
        world.requests.resume("alice", ANN)
        assert [each.id for each in world.requests.list(9).items] == [request_id]

    def test_only_of_a_wallet_that_there_is_and_nobody_else_has(self, world: World) -> None:
        world.refuses(WalletNotFound, lambda: world.requests.resume("bob", ANN))
        world.books.kept.standings[ALICE] = STOPPED
        world.books.busy.add(ALICE)
        world.refuses(WalletBusy, lambda: world.requests.resume("alice", ANN))


class TestLookingAfter:
    def test_what_is_over_first_and_then_what_is_wanted(self, world: World) -> None:
        # So that a wallet whose request has just run out is asked for again at once.
        world.books.expiring, world.books.wanting = [ALICE], {ALICE}
        world.requests.look_after()
        assert world.books.steps == ["expires 1", "committed", "asks for 1", "committed"]

    def test_in_parts(self, world: World) -> None:
        many = [wallet_of(f"user-{number}") for number in range(2 * WALLETS_AT_ONCE + 1)]
        world.books.expiring, world.books.wanting = many[:WALLETS_AT_ONCE], set(many)
        world.requests.look_after()
        looked = [step for step in world.books.steps if step != "committed"]
        parts = [WALLETS_AT_ONCE, WALLETS_AT_ONCE, 1]
        assert looked == [f"expires {WALLETS_AT_ONCE}", "expires 0", *(f"asks for {part}" for part in parts)]
        # Each in a transaction of its own.
        assert world.books.steps.count("committed") == len(looked)
