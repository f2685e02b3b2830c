"""Reconciliation finds what is wrong with the ledger and leaves it as it is; how it runs and what it remembers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from app.bootstrap import Container
from app.config import Config
from app.domain.errors import AlreadyExists, NotFound, Unavailable
from app.services import reconcile
from app.stores.postgres import reconciliation as store
from stack.embedded import ValkeyServer
from tests.conftest import empty_stores
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
    assert done.finished_at is not None
    assert done.started_at <= done.finished_at
    assert quick(shop.container).get(done.id) == done


def test_an_empty_database(billing: Billing) -> None:
    done = quick(billing.container).run()
    assert (done.checked, done.adds_up) == (0, True)


class TestLedger:
    """Drifts are told with their amounts and never touched."""

    def test_a_balance_that_is_not_the_sum(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.flushall()
        tamper(shop, "UPDATE wallets SET posted_micros = posted_micros + 7500000 WHERE user_id = 'user-3'")
        drift = only(done := run())
        assert (drift.user_id, drift.kind, drift.repaired) == ("user-3", "ledger_sum", False)
        assert (drift.expected_micros, drift.found_micros) == (100_000_000, 107_500_000)
        assert (done.repaired, done.adds_up) == (0, False)
        assert only(run()) == drift
        assert shop.balance("user-3").posted_micros == 107_500_000

    def test_an_entry_that_was_changed(self, run: Run, shop: Billing) -> None:
        before = shop.ledger("user-1")
        tamper(shop, f"UPDATE token_transactions SET balance_after_micros = 1 WHERE id = {before[0].id}")
        drift = only(run())
        assert (drift.user_id, drift.kind) == ("user-1", "ledger_chain")
        assert (drift.expected_micros, drift.found_micros) == (100_000_000, 1)
        # The one after it doesn't follow either.
        assert drift.detail == f"entry {before[0].id} does not follow from the one before; 2 such entries"

    def test_an_entry_that_was_removed(self, run: Run, shop: Billing) -> None:
        tamper(shop, "DELETE FROM token_transactions WHERE user_id = 'user-1' AND kind = 'top_up'")
        done = run()
        assert [(drift.user_id, drift.kind) for drift in done.drifted] == [
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
        kinds = [(drift.user_id, drift.kind) for drift in run().drifted]
        assert kinds == [("user-1", "ledger_sum"), ("user-1", "ledger_chain"), ("user-2", "ledger_sum")]

    def test_below_the_limit(self, run: Run, shop: Billing) -> None:
        shop.container.redis_client.flushall()
        tamper(shop, "UPDATE wallets SET posted_micros = -3000000, overdraft_limit_micros = 1000000 "
                     "WHERE user_id = 'user-2'")  # fmt: skip
        tamper(shop, "UPDATE token_transactions SET amount_micros = -3000000, balance_after_micros = -3000000 "
                     "WHERE user_id = 'user-2'")  # fmt: skip
        drift = only(run())
        assert (drift.user_id, drift.kind) == ("user-2", "below_limit")
        assert (drift.expected_micros, drift.found_micros) == (-1_000_000, -3_000_000)

    def test_ends_of_nobody(self, run: Run, shop: Billing) -> None:
        shop.execute("UPDATE end_inbox SET user_id = 'nobody'")
        drift = only(run())
        assert (drift.user_id, drift.kind) == ("nobody", "wallet_missing")
        assert (drift.expected_micros, drift.found_micros) == (-121_000_000, 0)
        assert drift.detail.startswith("2 unsettled ends")


class TestRunning:
    def test_one_at_a_time(self, run: Run, shop: Billing) -> None:
        with shop.container.engine.connect() as connection:
            assert store.try_lock(connection)
            with pytest.raises(AlreadyExists, match="running already"):
                run()
            store.unlock(connection)
        assert run().adds_up

    def test_one_that_died_is_marked_by_the_next(self, run: Run, shop: Billing) -> None:
        with shop.container.engine.begin() as connection:
            died = store.begin(connection)
        assert quick(shop.container).get(died).state == "running"
        run()
        found = quick(shop.container).get(died)
        assert (found.state, found.adds_up) == ("failed", False)
        assert found.finished_at is not None

    def test_one_that_breaks_off_says_so(self, run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_: object) -> None:
            raise Unavailable

        monkeypatch.setattr(store, "orphans", away)
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
        assert [(drift.user_id, drift.kind) for drift in done.drifted] == [
            ("user-4", "ledger_sum"),
            ("user-5", "ledger_sum"),
            ("user-4", "cache"),
        ]
        assert (done.drifted_count, done.repaired) == (4, 2)

    def test_without_redis(self, config: Config, redis_client: Redis, tmp_path: Path) -> None:
        with ValkeyServer(tmp_path / "redis", port=free_port()) as own_redis:
            container = Container(replace(config, redis_url=own_redis.url, redis_timeout_ms=300), is_watched=True)
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
            container.engine.dispose()
            container.redis_client.close()


def test_two_at_once(shop: Billing, run: Run) -> None:
    """One of them runs, and the other is told so; or they come one after the other."""

    def attempt(_: int) -> bool:
        try:
            return run().adds_up
        except AlreadyExists:
            return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(attempt, range(8)))
