"""What the cached wallets promise, for any server that is given as the fixture `cache`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis, RedisError
from uuid_utils.compat import uuid7

from app.domain.pricing import Price
from app.domain.wallets import Access, Balance, Deduction, UntoldEnd, Wallet, WalletId, WalletStatus, access, deduction
from app.stores.redis.in_flight import InFlight
from app.stores.redis.leases import WalletLeases
from app.stores.redis.records import Records
from app.stores.redis.scripts import WalletScript, WalletScripts
from app.stores.redis.wallet_cache import WalletCache
from app.stores.redis.wallet_calls import (
    EndMark,
    EndReply,
    Fill,
    StartCall,
    StartReply,
    WalletChange,
)
from app.stores.redis.wallet_holds import WalletHolds

PACKAGES = ("basic",)


class Cached(WalletCache):
    """The cached wallets, with all that works on them."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.scripts = WalletScripts(client)
        self.records = Records(client, seconds=60)
        self.leases = WalletLeases(client, self.scripts, self.records)
        self.in_flight = InFlight(client)
        self.holds = WalletHolds(self.scripts)
        super().__init__(client, self.scripts, self.records)


def row(
    version: int = 1, posted: int = 0, overdraft: int = 0, status: str = "active", debt: int = 0, user_id: str = "u"
) -> Wallet:
    return Wallet(WalletId(user_id), "basic", WalletStatus(status), posted, debt, overdraft, version)


def load(
    cache: Cached,
    user_id: str,
    *,
    version: int = 1,
    posted: int = 0,
    overdraft: int = 0,
    status: str = "active",
    marks: Mapping[UUID, UntoldEnd] | None = None,
    epoch: int = 1,
    debt: int = 0,
) -> bool:
    [lease] = cache.leases.take([user_id])
    [filled] = cache.leases.fill(
        [Fill(lease, epoch, row(version, posted, overdraft, status, debt, user_id), marks or {})]
    )
    return filled


def start(
    cache: Cached,
    user_id: str = "u",
    *,
    least: int = 0,
    hold: int = 0,
    hold_seconds: float = 60,
    epoch: int = 1,
) -> StartReply:
    [reply] = cache.start([StartCall(user_id, user_id, least, PACKAGES, str(uuid4()), hold, hold_seconds)], epoch)
    assert reply is not None
    return reply


def end(
    cache: Cached,
    user_id: str = "u",
    *,
    cost: int,
    end_id: UUID | None = None,
    key: str | None = None,
    process_id: str | None = None,
    body: str = "body",
) -> EndReply:
    mark = EndMark(user_id, end_id or uuid7(), Price(cost - 1, 1, price_id=3, profit_rule_id=7), body, key, process_id)
    [reply] = cache.end([mark], 1)
    assert reply is not None
    return reply


def spendable(cache: Cached, user_id: str = "u") -> int | None:
    found = cache.holds.release(WalletId(user_id), "", 0)
    return None if found is None else found.spendable_micros


def settled(version: int, posted: int, *ids: UUID, debt: int = 0) -> WalletChange:
    return WalletChange(row(version, posted, debt=debt), ids)


class TestDecisions:
    @given(
        posted=st.integers(-100, 1_000),
        ends=st.lists(st.integers(0, 500), max_size=4),
        holds=st.lists(st.integers(1, 300), max_size=3),
        overdraft=st.integers(0, 200),
        least=st.integers(0, 1_000),
        cost=st.integers(0, 1_500),
        own_hold=st.integers(0, 300),
    )
    @settings(
        max_examples=80,
        deadline=None,
        # Users are new for each example, and running the same on two servers is the point.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    def test_lua_decides_as_the_domain_does(
        self,
        cache: Cached,
        posted: int,
        ends: list[int],
        holds: list[int],
        overdraft: int,
        least: int,
        cost: int,
        own_hold: int,
    ) -> None:
        user = uuid4().hex
        load(cache, user, posted=posted, overdraft=overdraft)
        balance = Balance(posted, overdraft_limit_micros=overdraft)
        if own_hold:
            [own] = cache.start([StartCall(user, user, 0, PACKAGES, "own", own_hold, 60_000)], 1)
            assert own is not None
            own_hold = own_hold if own.outcome == "granted" else 0
            balance = Balance(posted, 0, 0, own_hold, overdraft)
        for amount in ends:
            reply = end(cache, user, cost=amount)
            assert reply.deduction is deduction(balance, amount)
            pending, debt = balance.pending_micros, balance.debt_micros
            if reply.deduction is Deduction.COVERED:
                pending += amount
            else:
                debt += amount
            balance = Balance(posted, pending, debt, own_hold, overdraft)
        for amount in holds:
            granted = start(cache, user, least=0, hold=amount)
            assert (granted.outcome == "granted") == (access(balance, 0, amount) is Access.GRANTED)
            if granted.outcome == "granted":
                balance = replace(balance, held_micros=balance.held_micros + amount)
            assert granted.spendable_micros == balance.spendable_micros
        assert (start(cache, user, least=least).outcome == "granted") == (access(balance, least) is Access.GRANTED)
        last = end(cache, user, cost=cost, process_id="own")
        assert last.deduction is deduction(balance, cost, own_hold)
        assert last.spendable_micros == balance.spendable_micros + own_hold - cost

    def test_large_amounts_stay_exact(self, cache: Cached) -> None:
        load(cache, "u", posted=4 * 10**15)
        for _ in range(5):
            end(cache, cost=2_525_000_000_000_001)
        assert spendable(cache) == 4 * 10**15 - 5 * 2_525_000_000_000_001

    @pytest.mark.parametrize(
        ("status", "packages", "outcome"),
        [("suspended", ("basic",), "wallet"), ("active", ("other",), "feature"), ("active", (), "feature")],
    )
    def test_wallet_before_feature_before_balance(
        self, cache: Cached, status: str, packages: tuple[str, ...], outcome: str
    ) -> None:
        load(cache, "u", status=status)
        [reply] = cache.start([StartCall("u", "u", 1, packages, "p")], 1)
        assert reply is not None
        assert reply.outcome == outcome

    @pytest.mark.parametrize("user_id", ["{", "}", "{}", "a}b", "ключ", "a b", "%7B", "x" * 128])
    def test_any_user_id_is_a_key_of_its_own(self, cache: Cached, user_id: str) -> None:
        load(cache, user_id, posted=5)
        assert spendable(cache, user_id) == 5
        assert spendable(cache, "u") is None


class TestFilling:
    def test_nothing_is_known_before_it_is_loaded(self, cache: Cached) -> None:
        assert cache.start([StartCall("u", "u", 0, PACKAGES, "p")], 1) == [None]
        assert cache.end([EndMark("u", uuid7(), Price(1, 0), "b")], 1) == [None]
        assert spendable(cache) is None

    def test_a_change_committed_during_the_load_refuses_the_fill(self, cache: Cached) -> None:
        [lease] = cache.leases.take(["u"])
        cache.apply([settled(2, 50)])
        assert cache.leases.fill([Fill(lease, 1, row(1, 100))]) == [False]
        assert spendable(cache) is None
        assert load(cache, "u", version=2, posted=50)

    def test_a_flush_during_the_load_refuses_the_fill(self, cache: Cached) -> None:
        [lease] = cache.leases.take(["u"])
        cache.client.flushall()
        assert cache.leases.fill([Fill(lease, 1, row(1, 100))]) == [False]

    def test_a_fill_cannot_go_back(self, cache: Cached) -> None:
        load(cache, "u", version=5, posted=50)
        assert not load(cache, "u", version=4, posted=60)
        assert spendable(cache) == 50

    def test_a_lease_fills_once(self, cache: Cached) -> None:
        [lease] = cache.leases.take(["u"])
        assert cache.leases.fill([Fill(lease, 1, row(1, 100))]) == [True]
        assert cache.leases.fill([Fill(lease, 1, row(1, 100))]) == [False]

    def test_an_older_epoch_is_loaded_anew_and_keeps_marks_and_holds(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        start(cache, hold=30)
        marked = end(cache, cost=10).end_id
        assert cache.start([StartCall("u", "u", 0, PACKAGES, "p")], 2) == [None]
        [lease] = cache.leases.take(["u"])
        assert (lease.epoch, lease.marked) == (1, {marked})
        elsewhere = uuid7()
        cache.leases.fill([Fill(lease, 2, row(1, 100), {elsewhere: UntoldEnd(5, is_failed=False)})])
        assert start(cache, epoch=2).spendable_micros == 100 - 30 - 10 - 5

    def test_a_refresh_forgets_what_is_settled_and_learns_what_is_debt(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        gone, owed = end(cache, cost=10).end_id, end(cache, cost=20).end_id
        [lease] = cache.leases.take(["u"])
        cache.leases.fill([Fill(lease, 1, row(2, 90), {owed: UntoldEnd(20, is_failed=True)}, [gone])])
        assert spendable(cache) == 70
        assert start(cache).outcome == "denied"


class TestApplying:
    def test_settling_moves_pending_to_posted(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        first, second = end(cache, cost=10).end_id, end(cache, cost=20).end_id
        cache.apply([settled(2, 90, first)])
        assert spendable(cache) == 70
        cache.apply([settled(3, 70, second)])
        assert spendable(cache) == 70

    def test_any_order_and_any_number_of_times_ends_right(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        first, second = end(cache, cost=10).end_id, end(cache, cost=20).end_id
        changes = [settled(2, 90, first), settled(3, 70, second)]
        for change in [*reversed(changes), *changes, *changes]:
            cache.apply([change])
        assert spendable(cache) == 70

    def test_many_ends_of_a_wallet_at_once(self, cache: Cached) -> None:
        posted = 3 * 10**15
        load(cache, "u", posted=posted)
        # Some of more than a double holds, some of them more than there is, and one twice.
        costs = [1, 9_999_999_999_999, 10_000_000_000_000, 2**53 + 1, 2**57 + 3, 7] * 20
        ends = [end(cache, cost=cost).end_id for cost in costs]
        cache.apply([settled(2, posted - sum(costs[:-5]), *ends[:-5], ends[3], uuid7())])
        assert spendable(cache) == posted - sum(costs)
        cache.apply([settled(3, posted - sum(costs), *ends)])
        assert spendable(cache) == posted - sum(costs)
        fields: set[str] = set(cache.client.hkeys("tokentill:{u}:wallet"))
        assert not {name for name in fields if name.startswith("p:")}
        assert cache.client.hget("tokentill:{u}:wallet", "debt") == "0"

    def test_a_mark_that_is_no_amount_drops_the_copy(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        marked = end(cache, cost=10).end_id
        cache.client.hset("tokentill:{u}:wallet", f"p:{marked}", "p1e1")
        cache.apply([settled(2, 90, marked)])
        assert spendable(cache) is None

    def test_a_failed_end_becomes_debt_until_it_is_settled(self, cache: Cached) -> None:
        load(cache, "u", posted=5)
        owed = end(cache, cost=4).end_id
        cache.apply([settled(2, 5, owed, debt=4)])
        assert start(cache).outcome == "denied"
        assert spendable(cache) == 1
        cache.apply([settled(3, 1)])
        assert start(cache).outcome == "granted"
        assert spendable(cache) == 1

    def test_a_debt_that_was_recorded_past_the_cache_is_learned_once(self, cache: Cached) -> None:
        load(cache, "u", posted=5)
        owed = uuid7()
        cache.apply([settled(2, 5, owed, debt=9)])
        assert spendable(cache) == -4
        cache.apply([settled(3, 0)])
        cache.apply([settled(2, 5, owed, debt=9)])
        assert spendable(cache) == 0


class TestSickWallets:
    """What is wrong with one copy is that wallet's trouble: its neighbours in the same call are answered."""

    @pytest.fixture(autouse=True)
    def _wallets(self, cache: Cached) -> None:
        for user in ("before", "sick", "behind"):
            load(cache, user, posted=100)

    @pytest.fixture(params=["not a number", "overflow", "another type", "no such field"])
    def sickness(self, request: pytest.FixtureRequest, cache: Cached) -> str:
        client, key = cache.client, "tokentill:{sick}:wallet"
        match request.param:
            case "not a number":
                client.hset(key, mapping={"available": "many", "debt": "x", "held": "y", "posted": "z"})
            case "overflow":
                client.hset(key, mapping={"available": -(2**63), "posted": 2**63 - 1, "held": "nothing"})
            case "another type":
                client.delete(key)
                client.set(key, "a string")
            case "no such field":
                client.hdel(key, "available", "overdraft", "held", "posted")
        return str(request.param)

    def test_starts(self, cache: Cached, sickness: str) -> None:
        calls = [StartCall(user, user, 1, PACKAGES, user, hold_micros=1) for user in ("before", "sick", "behind")]
        before, sick, behind = cache.start(calls, 1)
        assert sick is None
        assert [reply.outcome for reply in (before, behind) if reply is not None] == ["granted", "granted"]
        self.heals(cache)

    def test_ends(self, cache: Cached, sickness: str) -> None:
        marks = [EndMark(user, uuid7(), Price(10, 0), "b", user) for user in ("before", "sick", "behind")]
        before, sick, behind = cache.end(marks, 1)
        assert sick is None
        assert [reply.spendable_micros for reply in (before, behind) if reply is not None] == [90, 90]
        assert cache.in_flight.land([(mark.end_id, mark.wallet_id) for mark in marks]) == {"sick"}
        self.heals(cache)

    def test_everything_else(self, cache: Cached, sickness: str) -> None:
        cache.apply([WalletChange(row(2, 50, user_id=user), [uuid7()]) for user in ("before", "sick", "behind")])
        leases = cache.leases.take(["before", "sick", "behind"])
        assert [lease.epoch for lease in leases] in ([1, None, 1], [1, 1, 1])
        assert cache.leases.fill([Fill(lease, 1, row(2, 50)) for lease in leases]) == [True, True, True]
        assert cache.holds.held(["before", "sick", "behind"]) == [0, 0, 0]
        assert spendable(cache, "behind") == 50
        self.heals(cache, version=2, posted=50)

    def test_a_load_that_began_before_the_copy_was_dropped_cannot_bring_an_old_one_back(
        self, cache: Cached, sickness: str
    ) -> None:
        leases = cache.leases.take(["sick"])
        cache.apply([WalletChange(row(2, 50, user_id="sick"), [uuid7()])])
        assert cache.leases.fill([Fill(leases[0], 1, row(1, 100))]) in ([False], [True])
        assert spendable(cache, "sick") in (None, 50)

    @staticmethod
    def heals(cache: Cached, *, version: int = 1, posted: int = 100) -> None:
        for _ in range(2):
            load(cache, "sick", version=version, posted=posted)
        assert spendable(cache, "sick") == posted


class TestLargeWallets:
    """However many ends of a wallet wait, no script works on more than a slice of them."""

    def test_many_marks_are_loaded_and_forgotten_in_slices(self, cache: Cached) -> None:
        ends = {uuid7(): UntoldEnd(1, is_failed=False) for _ in range(1_700)}
        assert load(cache, "u", posted=2_000, marks=ends)
        assert spendable(cache) == 300
        [lease] = cache.leases.take(["u"])
        assert lease.marked == ends.keys()
        gone = list(ends)[:1_650]
        left = {end_id: ends[end_id] for end_id in list(ends)[1_650:]}
        assert cache.leases.fill([Fill(lease, 1, row(2, 350), left, gone)]) == [True]
        assert spendable(cache) == 300
        cache.apply([settled(3, 300, *left)])
        assert spendable(cache) == 300
        assert cache.client.hlen("tokentill:{u}:wallet") < 12

    def test_a_load_broken_off_half_way_promises_nothing(self, cache: Cached) -> None:
        ends = {uuid7(): UntoldEnd(1, is_failed=False) for _ in range(1_200)}
        load(cache, "taught", posted=2_000, marks=ends)
        load(cache, "u", posted=2_000)
        [lease] = cache.leases.take(["u"])
        send = cache.scripts.send

        def die(script: WalletScript, calls: Any, before: Any = None) -> list[Any]:
            send(script, calls[:1])
            raise RedisError("killed after the first slice")

        cache.scripts.send = die  # type: ignore[method-assign]
        with pytest.raises(RedisError):
            cache.leases.fill([Fill(lease, 1, row(1, 2_000), ends)])
        cache.scripts.send = send  # type: ignore[method-assign]
        assert spendable(cache) is None
        assert load(cache, "u", posted=2_000, marks=ends)
        assert spendable(cache) == 800


class TestKeys:
    @pytest.mark.parametrize("by", ["key", "process_id"])
    def test_a_key_is_marked_once(self, cache: Cached, by: str) -> None:
        load(cache, "u", posted=100)
        first = end(cache, cost=10, **{by: "k"})  # type: ignore[arg-type]
        again = end(cache, cost=99, body="other", **{by: "k"})  # type: ignore[arg-type]
        assert (first.seen, again.seen) == (False, True)
        assert (again.end_id, again.spendable_micros, again.price, again.payload_hash) == (
            first.end_id,
            90,
            Price(9, 1, price_id=3, profit_rule_id=7),
            "body",
        )
        assert spendable(cache) == 90

    @pytest.mark.parametrize("is_given_back", [False, True])
    def test_a_key_is_free_again_only_if_nobody_records_its_end(self, cache: Cached, is_given_back: bool) -> None:
        load(cache, "u", posted=100)
        first = end(cache, cost=10, key="k").end_id
        [lease] = cache.leases.take(["u"])
        given_back = [first] if is_given_back else []
        assert cache.leases.fill([Fill(lease, 1, row(2, 90), {}, [first], given_back)]) == [True]
        assert end(cache, cost=10, key="k").seen is not is_given_back

    def test_an_unmarked_key_is_free_again(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        mark = EndMark("u", uuid7(), Price(10, 0), "body", "k", "p")
        cache.end([mark], 1)
        cache.unmark([mark])
        assert spendable(cache) == 100
        assert not end(cache, cost=10, key="k").seen


class TestHolds:
    def test_holds_never_exceed_what_there_is(self, cache: Cached) -> None:
        load(cache, "u", posted=1_000)
        outcomes = [start(cache, hold=10).outcome for _ in range(200)]
        assert outcomes.count("granted") == 100

    def test_a_hold_expires_by_itself(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        assert start(cache, hold=100, hold_seconds=0.03).spendable_micros == 0
        time.sleep(0.05)
        assert spendable(cache) == 100
        assert cache.holds.held(["u", "unknown"]) == [0, 0]

    def test_an_end_releases_its_hold_and_a_second_release_does_nothing(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        cache.start([StartCall("u", "u", 0, PACKAGES, "run", 60, 60_000)], 1)
        assert cache.holds.held(["u"]) == [60]
        assert end(cache, cost=10, process_id="run").spendable_micros == 90
        released = cache.holds.release(WalletId("u"), "run", 1)
        assert released is not None
        assert released.spendable_micros == 90

    def test_an_end_is_covered_by_money_that_others_hold(self, cache: Cached) -> None:
        load(cache, "u", posted=100)
        start(cache, hold=90)
        reply = end(cache, cost=50)
        assert (reply.deduction, reply.spendable_micros) == (Deduction.COVERED, -40)
