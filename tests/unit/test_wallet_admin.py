"""Wallets over fake books: what opening and changing them is refused, and who is told of it once it is committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.domain.audit import Change
from app.domain.errors import AlreadyExists, BalanceOutOfRange, NotFound, Unavailable, WalletBusy, WalletNotFound
from app.domain.keys import Caller
from app.domain.reports import Wallets
from app.domain.wallets import WalletStatus, wallet_of
from app.operations.wallets import WalletAdmin
from app.stores.postgres.debts import IndebtedWallet
from tests.unit.fake_wallets import FakeOpenHolds, FakeWalletBooks
from tests.unit.fakes import ALICE, PACKAGE, TOKEN, FakeChanges, FakeDoorbell, row

ANN = Caller("ann")
BOB, CLEO, DORA = wallet_of("bob"), wallet_of("cleo"), wallet_of("dora")


class World:
    """Alice has 5 tokens."""

    def __init__(self) -> None:
        self.books = FakeWalletBooks(row(ALICE, tokens=5))
        self.holds = FakeOpenHolds()
        self.changes = FakeChanges()
        self.bell = FakeDoorbell()
        self.admin = WalletAdmin(books=self.books, holds=self.holds, changes=self.changes, doorbell=self.bell)

    def update(self, changes: dict[str, Any], **values: Any) -> None:
        self.admin.update("alice", changes, ANN, **values)

    def refuses(self, error: type[Exception], call: Callable[[], object]) -> Any:
        """With all as it was, and nobody told."""
        before = dict(self.books.wallets)
        with pytest.raises(error) as refused:
            call()
        assert self.books.wallets == before
        assert (self.books.audited, self.changes.applied, self.bell.collected) == ([], [], [])
        return refused.value

    @property
    def audited(self) -> list[Change]:
        return self.books.changes_by("ann")


@pytest.fixture
def world() -> World:
    return World()


class TestOpening:
    def test_empty_and_cached_at_once(self, world: World) -> None:
        opened = world.admin.create("bob", PACKAGE, caller=ANN)
        assert opened.wallet == world.books.wallets[BOB]
        assert (opened.wallet.posted_micros, opened.wallet.status, opened.wallet.package_id) == (0, "active", PACKAGE)
        assert [change.wallet for change in world.changes.applied] == [opened.wallet]
        after = {"status": "active", "package_id": PACKAGE, "overdraft_limit_micros": 0}
        assert world.audited == [Change("wallet.created", "wallet", "bob", after=after)]

    def test_as_it_is_asked_for(self, world: World) -> None:
        wallet = world.admin.create("bob", None, status="suspended", overdraft_limit_micros=7, caller=ANN).wallet
        assert (wallet.package_id, wallet.status, wallet.overdraft_limit_micros) == (None, WalletStatus.SUSPENDED, 7)

    def test_one_that_there_is_stays_as_it_is(self, world: World) -> None:
        world.refuses(AlreadyExists, lambda: world.admin.create("alice", None, overdraft_limit_micros=7))

    def test_unknown_package(self, world: World) -> None:
        error = world.refuses(NotFound, lambda: world.admin.create("bob", "pro"))
        assert error.errors == {"package_id": ["Unknown package: pro"]}


class TestChanging:
    def test_in_its_turn_and_told(self, world: World) -> None:
        changed = world.admin.update("alice", {"overdraft_limit_micros": 7}, ANN)
        assert (changed.wallet, changed.wallet.overdraft_limit_micros) == (world.books.wallets[ALICE], 7)
        assert world.books.turns == [ALICE]
        assert [change.wallet for change in world.changes.applied] == [changed.wallet]
        before, after = {"overdraft_limit_micros": 0}, {"overdraft_limit_micros": 7}
        assert world.audited == [Change("wallet.updated", "wallet", "alice", before, after)]

    @pytest.mark.parametrize(
        ("status", "action"),
        [("suspended", "wallet.suspended"), ("closed", "wallet.closed"), ("active", "wallet.activated")],
    )
    def test_a_status_has_its_own_word(self, world: World, status: str, action: str) -> None:
        other = WalletStatus.ACTIVE if status != "active" else WalletStatus.CLOSED
        world.books.update(ALICE, {"status": other})
        world.update({"status": WalletStatus(status), "package_id": None}, reason="asked for")
        before, after = {"status": other, "package_id": PACKAGE}, {"status": status, "package_id": None}
        assert world.audited == [Change(action, "wallet", "alice", before, {**after, "reason": "asked for"})]

    def test_to_what_it_is_writes_nothing_down(self, world: World) -> None:
        world.update({"status": WalletStatus.ACTIVE, "package_id": PACKAGE}, reason="asked for")
        assert world.audited == []

    def test_nothing_given_touches_nothing(self, world: World) -> None:
        before = dict(world.books.wallets)
        world.update({}, reason="asked for")
        assert (world.books.wallets, world.books.turns, world.changes.applied) == (before, [], [])

    def test_a_limit_below_what_is_overdrawn(self, world: World) -> None:
        world.books.update(ALICE, {"posted_micros": -5, "overdraft_limit_micros": 9})
        world.refuses(BalanceOutOfRange, lambda: world.update({"overdraft_limit_micros": 4}))
        world.update({"overdraft_limit_micros": 5})
        assert world.books.wallets[ALICE].overdraft_limit_micros == 5

    def test_a_higher_limit_has_debt_collected(self, world: World) -> None:
        world.books.update(ALICE, {"debt_micros": 11 * TOKEN})
        world.update({"overdraft_limit_micros": 6 * TOKEN})
        assert world.bell.collected == [IndebtedWallet(ALICE, 11 * TOKEN)]

    @pytest.mark.parametrize("changes", [{"overdraft_limit_micros": 6 * TOKEN}, {"package_id": None}])
    def test_without_more_room_nobody_is_woken(self, world: World, changes: dict[str, Any]) -> None:
        world.books.update(ALICE, {"debt_micros": 11 * TOKEN, "overdraft_limit_micros": 6 * TOKEN})
        world.update(changes)
        assert world.bell.collected == []

    def test_unknown(self, world: World) -> None:
        error = world.refuses(NotFound, lambda: world.update({"status": "closed", "package_id": "pro"}))
        assert error.errors == {"package_id": ["Unknown package: pro"]}
        world.refuses(WalletNotFound, lambda: world.admin.update("bob", {"status": WalletStatus.CLOSED}))
        world.refuses(WalletNotFound, lambda: world.admin.update("bob", {}))

    def test_one_that_somebody_has_locked(self, world: World) -> None:
        world.books.busy = {ALICE}
        world.refuses(WalletBusy, lambda: world.update({"package_id": None}))


class TestLooking:
    def test_with_what_its_holds_reserve(self, world: World) -> None:
        world.holds.held = {ALICE: 2 * TOKEN}
        assert world.admin.get("alice").balance.spendable_micros == 3 * TOKEN

    def test_without_redis_nothing_is_held(self, world: World) -> None:
        world.holds.held = {ALICE: 2 * TOKEN}
        world.holds.calls_left = 0
        assert world.admin.get("alice").balance.spendable_micros == 5 * TOKEN
        assert [found.user_id for found in world.admin.list(9).items] == ["alice"]

    def test_unknown(self, world: World) -> None:
        with pytest.raises(WalletNotFound):
            world.admin.get("bob")


class TestLists:
    @pytest.fixture(autouse=True)
    def several(self, world: World) -> None:
        """Bob and Dora have holds, Cleo had one."""
        for wallet_id in (BOB, CLEO, DORA):
            world.books.wallets[wallet_id] = row(wallet_id)
        world.holds.held = {BOB: 1, DORA: 2}
        world.holds.noted = {CLEO}

    def test_all_with_what_their_holds_reserve(self, world: World) -> None:
        page = world.admin.list(3)
        assert [(found.user_id, found.balance.held_micros) for found in page.items] == [
            ("alice", 0),
            ("bob", 1),
            ("cleo", 0),
        ]
        assert page.next_key == "cleo"
        assert [found.user_id for found in world.admin.list(3, "cleo").items] == ["dora"]

    def test_those_with_holds_are_looked_for_among_the_few_that_may_have_some(self, world: World) -> None:
        page = world.admin.list(9, wanted=Wallets(with_holds=True))
        assert ([found.user_id for found in page.items], page.next_key) == (["bob", "dora"], None)
        assert world.books.pages == [(10, {BOB, CLEO, DORA})]

    def test_those_without_among_all(self, world: World) -> None:
        page = world.admin.list(9, wanted=Wallets(with_holds=False))
        assert ([found.user_id for found in page.items], page.next_key) == (["alice", "cleo"], None)
        assert world.books.pages == [(10, None)]

    @pytest.mark.parametrize(("with_holds", "users"), [(True, ["bob", "dora"]), (False, ["alice", "cleo"])])
    def test_pages_are_full_and_follow_each_other(self, world: World, with_holds: bool, users: list[str]) -> None:
        wanted, found, after = Wallets(with_holds=with_holds), [], ""
        for _ in users:
            page = world.admin.list(1, after, wanted)
            found += [wallet.user_id for wallet in page.items]
            assert page.next_key == found[-1]
            after = page.next_key
        assert found == users
        assert world.admin.list(1, after, wanted).items == []

    @pytest.mark.parametrize("calls_left", [0, 1])
    @pytest.mark.parametrize("with_holds", [True, False])
    def test_without_redis_nobody_can_tell(self, world: World, with_holds: bool, calls_left: int) -> None:
        world.holds.calls_left = calls_left
        with pytest.raises(Unavailable):
            world.admin.list(9, wanted=Wallets(with_holds=with_holds))
