"""Daily roll-ups say what the ledger says, whoever writes to it, and are made anew from it where they don't."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from app.bootstrap import Container
from app.domain.errors import WalletBusy
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.domain.wallets import WalletId
from app.stores.postgres import rollups
from tests.reconciling import only, quick, tamper
from tests.support import FEATURE, Billing


def rolled_up(billing: Billing) -> list[Any]:
    with billing.container.engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT * FROM usage_daily ORDER BY day, user_id, model")))


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    for i in range(1, 4):
        billing.wallet(f"user-{i}", tokens=100)
    return billing


def settle(shop: Billing, *requests: Any) -> None:
    shop.container.end.end_all(requests)
    shop.settle_everything()


def test_settling_adds_up_runs_tokens_and_amounts(shop: Billing) -> None:
    settle(shop, shop.usage(model="a"), shop.usage(model="a"), shop.usage(model="b"), shop.usage("user-2"))
    settle(shop, shop.usage(model="a", output_tokens=4))
    found = {(row.user_id, row.model): row for row in rolled_up(shop)}
    assert list(found) == [("user-1", "a"), ("user-1", "b"), ("user-2", "")]
    first = found["user-1", "a"]
    assert (first.wallet_id, first.feature_endpoint_id, first.price_id) == ("user-1", FEATURE, 0)
    assert (first.runs, first.input_tokens, first.output_tokens) == (3, 30, 84)
    assert (first.base_cost_micros, first.profit_micros, first.cost_micros) == (21_000_000, 2_100_000, 23_100_000)


def test_postings_are_no_usage(shop: Billing) -> None:
    shop.container.postings.post(Posting("user-1", PostingKind.ADJUSTMENT, -5, "a"))
    assert rolled_up(shop) == []


def test_a_write_off_stands_beside_its_run(shop: Billing) -> None:
    settle(shop, shop.usage(model="a", output_tokens=4_000))
    assert rolled_up(shop) == []
    [failed] = shop.inbox()
    shop.container.failed_ends.write_off(failed.id, "left", Caller("me"))
    [row] = rolled_up(shop)
    assert (row.model, row.feature_endpoint_id, row.runs) == ("a", FEATURE, 1)
    assert row.cost_micros == row.written_off_micros == 1_100_000_000
    shop.container.failed_ends.write_off(failed.id, "left", Caller("me"))
    assert rolled_up(shop) == [row]


def test_what_is_rolled_back_isnt_counted(shop: Billing) -> None:
    with shop.container.engine.connect() as connection:
        connection.execute(
            sa.text("""
                INSERT INTO token_transactions (wallet_id, user_id, kind, amount_micros, balance_after_micros,
                    base_cost_micros, profit_micros, cost_micros)
                VALUES ('user-1', 'user-1', 'usage', -1, 99999999, 1, 0, 1)
            """)
        )
        connection.rollback()
    assert rolled_up(shop) == []


def test_sums_have_no_bound(shop: Billing) -> None:
    """What stops counting would stop settling."""
    settle(shop, shop.usage())
    shop.execute_in_postgres("UPDATE usage_daily SET cost_micros = 9223372036854775807")
    settle(shop, shop.usage())
    assert rolled_up(shop)[0].cost_micros == 9_223_372_036_854_775_807 + 11_000_000


def test_days_are_utc(shop: Billing) -> None:
    with shop.container.engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL timezone = 'Pacific/Auckland'"))
        connection.execute(
            sa.text("""
                INSERT INTO token_transactions (wallet_id, user_id, kind, amount_micros, balance_after_micros,
                    base_cost_micros, profit_micros, cost_micros, created_at)
                SELECT 'user-1', 'user-1', 'usage', 0, 100000000, 0, 0, 0, moment
                FROM unnest(ARRAY['2030-01-31 23:59:59.999Z', '2030-02-01 00:00Z']::timestamptz[]) AS moment
            """)
        )
    assert [row.day.isoformat() for row in rolled_up(shop)] == ["2030-01-31", "2030-02-01"]


def test_many_workers_settle_the_same_day_feature_and_model(shop: Billing) -> None:
    """Nobody waits for a row of another's wallet, and no two wait for each other."""
    users = [f"user-{i}" for i in range(1, 4)]
    service = shop.container.end
    bells: list[Any] = []
    for _ in range(20):
        service.end_all([shop.usage(user, output_tokens=4, model="a") for user in users])
        bells.append([row.id for user in users for row in shop.inbox(user)])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shop.container.settlement.settle, bells))
    shop.settle_everything()
    assert [(row.user_id, row.runs) for row in rolled_up(shop)] == [(user, 20) for user in users]
    assert quick(shop.container).run(is_full=True).adds_up


class TestAudit:
    def test_a_row_that_was_changed(self, shop: Billing) -> None:
        settle(shop, shop.usage(model="a"), shop.usage("user-2"))
        assert quick(shop.container).run().adds_up
        tamper(shop, "UPDATE usage_daily SET runs = 2, cost_micros = 12000000 WHERE user_id = 'user-1'")
        drift = only(done := quick(shop.container).run())
        assert (drift.wallet_id, drift.kind, drift.repaired) == ("user-1", "roll_up", False)
        assert (drift.expected_micros, drift.found_micros) == (11_000_000, 12_000_000)
        assert drift.detail.endswith(f"(user-1, {FEATURE}, a) is not the sum of its entries: 2 runs of 1")
        assert not done.adds_up

    @pytest.mark.parametrize(
        "damage",
        [
            "DELETE FROM usage_daily WHERE user_id = 'user-1'",
            "UPDATE usage_daily SET input_tokens = 0 WHERE user_id = 'user-1'",
            "UPDATE usage_daily SET model = 'other' WHERE user_id = 'user-1'",
            "INSERT INTO usage_daily SELECT day, wallet_id, user_id, 'nothing', model, price_id, 1, 0, 0, 0, 0, 0,"
            " 0, 0, 0, 0, 0, 0, 0 FROM usage_daily WHERE user_id = 'user-1'",
        ],
    )
    def test_is_repaired_where_that_is_asked_for(self, shop: Billing, damage: str) -> None:
        settle(shop, shop.usage(model="a"), shop.usage("user-2"))
        before = rolled_up(shop)
        tamper(shop, damage)
        assert not quick(shop.container).run().adds_up
        done = quick(shop.container).run(repair=True)
        assert done.adds_up
        assert {(drift.wallet_id, drift.repaired) for drift in done.drifted} == {("user-1", True)}
        assert rolled_up(shop) == before
        assert quick(shop.container).run(is_full=True).drifted_count == 0

    def test_old_days_are_for_a_full_one(self, shop: Billing) -> None:
        tamper(
            shop,
            "INSERT INTO usage_daily SELECT CAST('2020-01-01' AS date), 'user-1', 'user-1', 'f', '', 0,"
            " 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0",
        )
        assert quick(shop.container).run().adds_up
        assert only(quick(shop.container).run(is_full=True)).kind == "roll_up"
        assert quick(shop.container).run(is_full=True, repair=True).adds_up
        assert rolled_up(shop) == []


def test_a_roll_up_that_somebody_keeps_delays_no_other_wallet(shop: Billing, container: Container) -> None:
    settle(shop, shop.usage(), shop.usage("user-2"))
    container.end.end_all([shop.usage(), shop.usage("user-2")])
    with container.engine.begin() as keeper:
        keeper.execute(sa.text("SELECT * FROM usage_daily WHERE user_id = 'user-1' FOR UPDATE"))
        with container.engine.begin() as connection:
            kept = rollups.kept_by_others(connection, [WalletId("user-1"), WalletId("user-2")])
        assert kept == {"user-1"}
        try:
            shop.settle_everything()
        except WalletBusy:
            pytest.fail("a kept roll-up stops its neighbours")
        assert [len(shop.inbox(user)) for user in ("user-1", "user-2")] == [1, 0]
    shop.settle_everything()
    assert shop.inbox_size() == 0
