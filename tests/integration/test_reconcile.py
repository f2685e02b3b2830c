"""Reconciliation finds what is wrong with the ledger and leaves it as it is; how it runs and what it remembers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from redis import Redis
from uuid_utils.compat import uuid7

from app.bootstrap import Container
from app.config import Config
from app.domain.errors import AlreadyExists, NotFound, Unavailable
from app.stores.postgres import balances
from app.stores.postgres import ledger_audit as ledger_store
from app.stores.postgres import reconciliation as store
from app.stores.redis.keys import wallet_keys
from app.upkeep import ledger_audit, reconcile
from app.upkeep.reconcile import TakenForDead
from stack.embedded import ValkeyServer
from tests.emptying import empty_stores
from tests.processes import free_port
from tests.reconciling import Run, only, open_shop, quick, tamper
from tests.support import Billing


@pytest.fixture
def shop(billing: Billing) -> Billing:
    return open_shop(billing)


@pytest.fixture
def run(shop: Billing) -> Run:
    return quick(shop.container).run


def test_nothing_is_wrong(run: Run, shop: Billing) -> None:
    done = run()
    assert (done.state, done.checked, done.drifted_count, done.repaired, done.cache_checked) == ("done", 5, 0, 0, True)
    assert done.adds_up
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.requested_at <= done.started_at <= done.finished_at
    assert quick(shop.container).get(done.id) == done


def test_an_empty_database(billing: Billing) -> None:
    done = quick(billing.container).run()
    assert (done.checked, done.adds_up) == (0, True)


@pytest.fixture(params=[1_000, 1], ids=["at once", "entry by entry"])
def slice_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries are read at a time, the answer is the same."""
    monkeypatch.setattr(ledger_audit, "ENTRIES_SHARED", request.param)
    monkeypatch.setattr(ledger_audit, "ENTRIES_ALONE", request.param)


@pytest.mark.usefixtures("slice_size")
class TestLedger:
    """Drifts are told with their amounts and never touched."""

    def test_a_balance_that_is_not_the_sum(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.flushall()
        tamper(shop, "UPDATE wallets SET posted_micros = posted_micros + 7500000 WHERE user_id = 'user-3'")
        drift = only(done := run())
        assert (drift.wallet_id, drift.kind, drift.repaired) == ("user-3", "ledger_sum", False)
        assert (drift.expected_micros, drift.found_micros) == (100_000_000, 107_500_000)
        assert (done.repaired, done.adds_up) == (0, False)
        assert only(run()) == drift
        assert shop.balance("user-3").posted_micros == 107_500_000

    def test_an_entry_that_was_changed(self, run: Run, shop: Billing) -> None:
        before = shop.ledger("user-1")
        tamper(shop, f"UPDATE token_transactions SET balance_after_micros = 1 WHERE id = {before[0].id}")
        drift = only(run())
        assert (drift.wallet_id, drift.kind) == ("user-1", "ledger_chain")
        assert (drift.expected_micros, drift.found_micros) == (100_000_000, 1)
        # The one after it doesn't follow either.
        assert drift.detail == f"entry {before[0].id} does not follow from the one before; 2 such entries"

    def test_an_entry_that_was_removed(self, run: Run, shop: Billing) -> None:
        tamper(shop, "DELETE FROM token_transactions WHERE user_id = 'user-1' AND kind = 'top_up'")
        done = run()
        assert [(drift.wallet_id, drift.kind) for drift in done.drifted] == [
            ("user-1", "ledger_sum"),
            ("user-1", "ledger_chain"),
        ]
        assert [(drift.expected_micros, drift.found_micros) for drift in done.drifted] == [
            (-11_000_000, 89_000_000),
            (-11_000_000, 89_000_000),
        ]

    def test_a_wallet_without_any_entry(self, run: Run, shop: Billing) -> None:
        tamper(shop, "DELETE FROM token_transactions WHERE user_id = 'user-5'")
        drift = only(run())
        assert (drift.kind, drift.expected_micros, drift.found_micros) == ("ledger_sum", 0, 100_000_000)

    def test_amounts_beyond_all_bounds(self, run: Run, shop: Billing) -> None:
        tamper(
            shop,
            "UPDATE token_transactions SET amount_micros = 9223372036854775807,"
            " balance_after_micros = 9223372036854775807 WHERE kind = 'top_up' AND user_id < 'user-3'",
        )
        kinds = [(drift.wallet_id, drift.kind) for drift in run().drifted]
        assert kinds == [("user-1", "ledger_sum"), ("user-1", "ledger_chain"), ("user-2", "ledger_sum")]

    def test_below_the_limit(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.flushall()
        tamper(shop, "UPDATE wallets SET posted_micros = -3000000, overdraft_limit_micros = 1000000 "
                     "WHERE user_id = 'user-2'")  # fmt: skip
        tamper(shop, "UPDATE token_transactions SET amount_micros = -3000000, balance_after_micros = -3000000 "
                     "WHERE user_id = 'user-2'")  # fmt: skip
        drift = only(run())
        assert (drift.wallet_id, drift.kind) == ("user-2", "below_limit")
        assert (drift.expected_micros, drift.found_micros) == (-1_000_000, -3_000_000)

    def test_a_replayed_dead_letter_is_debt_until_it_is_settled(self, run: Run, shop: Billing) -> None:
        shop.container.end.end(shop.usage("user-2"))
        tamper(shop, "UPDATE end_inbox SET profit_micros = profit_micros + 1 WHERE user_id = 'user-2'")
        shop.settle_everything()
        [dead] = shop.inbox("user-2")
        assert (dead.state, dead.is_debt) == ("dead", True)
        shop.container.failed_ends.replay(dead.id)
        assert run().adds_up

    def test_a_debt_that_is_not_the_sum(self, run: Run, shop: Billing) -> None:
        shop.settle_everything()
        assert run().adds_up
        shop.container.redis_client.flushall()
        tamper(shop, "UPDATE wallets SET debt_micros = debt_micros - 1000000 WHERE user_id = 'user-1'")
        drift = only(run())
        assert (drift.wallet_id, drift.kind, drift.repaired) == ("user-1", "debt_sum", False)
        assert (drift.expected_micros, drift.found_micros) == (110_000_000, 109_000_000)

    def test_ends_of_nobody(self, run: Run, shop: Billing) -> None:
        shop.execute("UPDATE end_inbox SET wallet_id = 'nobody'")
        drift = only(run())
        assert (drift.wallet_id, drift.kind) == ("nobody", "wallet_missing")
        assert (drift.expected_micros, drift.found_micros) == (-121_000_000, 0)
        assert drift.detail.startswith("2 unsettled ends")


class TestCheckpoints:
    """What was found right is not read again."""

    def spend(self, shop: Billing, times: int) -> None:
        shop.wallet("user-9", tokens=1_000)
        for _ in range(times):
            shop.container.end.end(shop.usage("user-9"))
            shop.settle_everything()

    def test_goes_on_behind_the_last_one(self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[int] = []
        slices = ledger_store.slices

        def counted(*arguments: Any) -> Any:
            found = slices(*arguments)
            read.extend(part.entries for part in found)
            return found

        monkeypatch.setattr(ledger_store, "slices", counted)
        self.spend(shop, 3)
        totals = []
        for _ in range(2):
            assert run().adds_up
            totals.append(sum(read))
            read.clear()
        shop.container.end.end(shop.usage("user-9"))
        shop.settle_everything()
        assert run().adds_up
        # Six top-ups, two ends of user-1 and three of user-9; nothing; the one that is new.
        assert (totals, sum(read)) == ([11, 0], 1)
        read.clear()
        assert quick(shop.container).run(is_full=True).adds_up
        assert sum(read) == 12

    def test_what_is_wrong_in_front_of_it_a_full_one_finds_for_good(self, run: Run, shop: Billing) -> None:
        self.spend(shop, 3)
        assert run().adds_up
        second = shop.ledger("user-9")[1]
        tamper(shop, f"UPDATE token_transactions SET balance_after_micros = 1 WHERE id = {second.id}")
        assert run().adds_up
        full = only(quick(shop.container).run(is_full=True))
        assert (full.wallet_id, full.kind) == ("user-9", "ledger_chain")
        # Known once, it is not forgotten.
        assert only(run()) == full
        tamper(shop, f"UPDATE token_transactions SET balance_after_micros = 989000000 WHERE id = {second.id}")
        assert run().adds_up

    def test_a_wrong_balance_is_told_each_time(self, run: Run, shop: Billing) -> None:
        assert run().adds_up
        shop.container.redis_client.flushall()
        tamper(shop, "UPDATE wallets SET posted_micros = posted_micros + 1 WHERE user_id = 'user-3'")
        first = only(run())
        assert (first.kind, first.expected_micros, first.found_micros) == ("ledger_sum", 100_000_000, 100_000_001)
        assert only(run()) == first

    @pytest.mark.parametrize("change", ["balance_after_micros = 7", "wallet_id = 'user-1'"])
    def test_one_whose_entry_is_another_begins_anew(self, run: Run, shop: Billing, change: str) -> None:
        self.spend(shop, 2)
        assert run().adds_up
        tamper(shop, f"UPDATE token_transactions SET {change} WHERE id = {shop.ledger('user-9')[-1].id}")
        assert "user-9" in {drift.wallet_id for drift in run().drifted}

    def test_a_run_that_broke_off_has_not_read_in_vain(
        self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_audit, "ENTRIES_SHARED", 1)
        monkeypatch.setattr(ledger_audit, "ENTRIES_ALONE", 1)
        self.spend(shop, 3)
        slices, calls = ledger_store.slices, 0

        def breaking(connection: sa.Connection, positions: Any, *arguments: Any) -> Any:
            nonlocal calls
            calls += positions[-1].wallet_id == "user-9"
            if calls == 3:
                raise KeyboardInterrupt
            return slices(connection, positions, *arguments)

        monkeypatch.setattr(ledger_store, "slices", breaking)
        with pytest.raises(KeyboardInterrupt):
            run()
        with shop.container.engine.connect() as connection:
            [position] = ledger_store.positions_after(connection, "user-8", 10, is_full=False)
        assert position.balance_micros == 989_000_000


class TestOneSickWallet:
    """It is told of, and the others are checked."""

    def test_its_ledger_can_not_be_read(self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        slices, sizes = ledger_store.slices, []

        def slow(connection: sa.Connection, positions: Any, entries_max: int, seconds: float) -> Any:
            if any(position.wallet_id == "user-3" for position in positions):
                sizes.append(entries_max)
                connection.execute(sa.text("SET LOCAL statement_timeout = 5"))
                connection.execute(sa.text("SELECT pg_sleep(10)"))
            return slices(connection, positions, entries_max, seconds)

        monkeypatch.setattr(ledger_store, "slices", slow)
        tamper(shop, "UPDATE token_transactions SET balance_after_micros = 1 WHERE user_id IN ('user-2', 'user-4')")
        done = run()
        assert [(drift.wallet_id, drift.kind) for drift in done.drifted] == [
            ("user-2", "ledger_chain"),
            ("user-3", "unchecked"),
            ("user-4", "ledger_chain"),
        ]
        assert done.drifted[1].detail == "could not be read: OperationalError"
        assert (done.state, done.checked, done.adds_up, done.cache_checked) == ("done", 5, False, True)
        # In ever smaller slices.
        assert sizes == sorted(sizes, key=lambda size: (size != ledger_audit.ENTRIES_SHARED, -size))
        assert sizes[-1] <= ledger_audit.ENTRIES_LEAST

    def test_its_inbox_can_not_be_read(self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        load = balances.load

        def slow(connection: sa.Connection, user_ids: Any, *arguments: Any) -> Any:
            if "user-3" in user_ids:
                connection.execute(sa.text("SELECT 1 / 0"))
            return load(connection, user_ids, *arguments)

        monkeypatch.setattr(balances, "load", slow)
        shop.container.redis_client.hset(wallet_keys("user-4")[0], "available", "1")
        done = run()
        assert [(drift.wallet_id, drift.kind, drift.repaired) for drift in done.drifted] == [
            ("user-3", "unchecked", False),
            ("user-4", "cache", True),
        ]
        assert done.checked == 5

    def test_its_cached_copy_can_not_be_counted(self, run: Run, shop: Billing) -> None:
        """More than Redis can add up."""
        for user_id in ("user-3", "user-4"):
            shop.container.redis_client.hset(wallet_keys(user_id)[0], "available", "1")
        most = "p" + str(2**63 - 1)
        ends = {f"p:{uuid7()}": most for _ in range(2)}
        shop.container.redis_client.hset(wallet_keys("user-3")[0], mapping=ends)
        done = run()
        assert [(drift.wallet_id, drift.kind, drift.repaired) for drift in done.drifted] == [
            ("user-3", "cache", True),
            ("user-4", "cache", True),
        ]
        assert run().drifted_count == 0

    def test_many_orphans_of_one_user(self, run: Run, shop: Billing) -> None:
        shop.execute("UPDATE end_inbox SET wallet_id = 'a-nobody'")
        shop.execute(
            "INSERT INTO end_inbox (id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens,"
            " base_cost_micros, profit_micros, cost_micros, state)"
            " SELECT gen_random_uuid(), 'z-nobody', 'z-nobody', 'f', 0, 0, 1, 0, 1, 'dead'"
            " FROM generate_series(1, 3000)"
        )
        found = [(drift.wallet_id, drift.detail.split()[0]) for drift in run().drifted]
        assert found == [("a-nobody", "2"), ("z-nobody", "3000")]


class TestRunning:
    def test_one_at_a_time(self, run: Run, shop: Billing) -> None:
        with shop.container.engine.begin() as connection:
            other = store.begin(connection, is_full=False)
            assert other is not None
        with pytest.raises(AlreadyExists, match="running already"):
            run()
        with pytest.raises(AlreadyExists, match="running already"):
            quick(shop.container).request()
        assert quick(shop.container).run_requested() is None
        silence(shop)
        assert run().adds_up

    def test_one_that_died_is_marked_by_the_next(self, run: Run, shop: Billing) -> None:
        with shop.container.engine.begin() as connection:
            died = store.begin(connection, is_full=False)
            assert died is not None
        assert quick(shop.container).get(died.id).state == "running"
        silence(shop)
        run()
        found = quick(shop.container).get(died.id)
        assert (found.state, found.adds_up) == ("failed", False)
        assert found.finished_at is not None

    def test_one_that_was_taken_for_dead_leaves_the_field(self, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        """It was paused for minutes, and another has begun."""
        slices = ledger_store.slices

        def paused(*arguments: Any) -> Any:
            monkeypatch.setattr(ledger_store, "slices", slices)
            silence(shop)
            assert quick(shop.container).run().adds_up
            return slices(*arguments)

        monkeypatch.setattr(ledger_store, "slices", paused)
        with pytest.raises(TakenForDead):
            quick(shop.container).run()
        assert [quick(shop.container).get(number).state for number in (1, 2)] == ["failed", "done"]

    def test_one_that_was_asked_for(self, shop: Billing) -> None:
        service = quick(shop.container)
        assert service.run_requested() is None
        asked = service.request(is_full=True)
        assert (asked.state, asked.is_full, asked.started_at) == ("requested", True, None)
        with pytest.raises(AlreadyExists):
            service.request()
        done = service.run_requested()
        assert done is not None
        assert (done.id, done.state, done.is_full, done.checked) == (asked.id, "done", True, 5)
        assert service.run_requested() is None

    def test_by_the_clock_the_one_that_was_asked_for_comes_first(self, run: Run, shop: Billing) -> None:
        asked = quick(shop.container).request(is_full=True)
        done = run()
        assert (done.id, done.is_full) == (asked.id, True)
        assert run().id == asked.id + 1

    def test_one_that_breaks_off_says_so(self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_: object) -> None:
            raise Unavailable

        monkeypatch.setattr(ledger_store, "orphans", away)
        with pytest.raises(Unavailable):
            run()
        found = quick(shop.container).get(1)
        assert (found.state, found.checked, found.adds_up) == ("failed", 5, False)

    def test_unknown(self, shop: Billing) -> None:
        with pytest.raises(NotFound):
            quick(shop.container).get(12)

    def test_old_ones_are_forgotten(self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store, "KEPT_MAX", 2)
        first, second, third = run(), run(), run()
        with pytest.raises(NotFound):
            quick(shop.container).get(first.id)
        assert [quick(shop.container).get(done.id) for done in (second, third)] == [second, third]

    def test_so_many_are_told(self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reconcile, "DRIFTS_TOLD_MAX", 3)
        # And looked at again in parts.
        monkeypatch.setattr(reconcile, "SUSPECTS_MAX", 2)
        tamper(shop, "UPDATE wallets SET posted_micros = posted_micros + 1 WHERE user_id > 'user-3'")
        done = run()
        assert [(drift.wallet_id, drift.kind) for drift in done.drifted] == [
            ("user-4", "ledger_sum"),
            ("user-5", "ledger_sum"),
            ("user-4", "cache"),
        ]
        assert (done.drifted_count, done.repaired) == (4, 2)

    def test_without_redis(self, config: Config, redis_client: Redis, tmp_path: Path) -> None:
        with ValkeyServer(tmp_path / "redis", port=free_port()) as own_redis:
            container = Container(replace(config, redis_url=own_redis.url, redis_timeout_seconds=0.3), is_watched=True)
            empty_stores(config, container.redis_client)
            billing = Billing(container)
            billing.catalog()
            billing.wallet("user-1")
            tamper(billing, "UPDATE wallets SET posted_micros = 0")
            own_redis.kill()
            for _ in range(2):
                done = quick(container).run()
                assert only(done).kind == "ledger_sum"
                assert (done.cache_checked, done.state, done.checked) == (False, "done", 1)
            container.close()


def silence(shop: Billing) -> None:
    """Whatever runs has not been heard of for long."""
    shop.execute_in_postgres("UPDATE reconciliations SET alive_at = alive_at - interval '1 hour'")


def test_two_at_once(shop: Billing, run: Run) -> None:
    """One of them runs, and the other is told so; or they come one after the other."""

    def attempt(_: int) -> bool:
        try:
            return run().adds_up
        except AlreadyExists:
            return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(attempt, range(8)))
