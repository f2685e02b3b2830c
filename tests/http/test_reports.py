"""Usage, totals and the ledger over all wallets, by the page."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from app.billing.start import StartRequest
from app.domain.keys import Caller
from tests.http.admin import Admin, assert_invalid, data
from tests.support import FEATURE, PACKAGE, Billing

GROUPS = ("day", "feature_endpoint_id", "model", "user_id", "price_id")


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """Two users' runs of two models, one written off; another package's user; all on their day of settlement."""
    billing.catalog()
    for user in ("ann", "bob"):
        billing.wallet(user, tokens=100)
    container = billing.container
    container.end.end_all(
        [
            billing.usage("ann", model="small"),
            billing.usage("ann", model="large", output_tokens=80),
            billing.usage("bob", model="small", output_tokens=4),
            billing.usage("bob"),
            billing.usage("bob", model="large", output_tokens=4_000),
        ]
    )
    billing.settle_everything()
    [failed] = billing.inbox("bob")
    container.failed_ends.write_off(failed.id, "left", Caller("me"))
    return billing


def today(shop: Billing) -> date:
    with shop.container.engine.connect() as connection:
        found: date = connection.execute(sa.text("SELECT max(day) FROM usage_daily")).scalar_one()
    return found


def usage(admin: Admin, **query: Any) -> list[dict[str, Any]]:
    return admin.items("/usage", **query)


@pytest.mark.usefixtures("shop")
class TestUsage:
    def test_all_of_it(self, admin: Admin) -> None:
        [row] = usage(admin)
        assert (row["runs"], row["input_token"], row["output_token"]) == (5, 50, 4164)
        assert (row["base_cost"], row["profit"], row["cost"]) == (1041, Decimal("104.1"), Decimal("1145.1"))
        assert (row["corrected"], row["written_off"], row["net"]) == (0, 1100, Decimal("45.1"))

    def test_by_model(self, admin: Admin) -> None:
        rows = usage(admin, group_by="model")
        assert [(row["model"], row["runs"], row["net"]) for row in rows] == [
            (None, 1, 11),
            ("large", 2, 22),
            ("small", 2, Decimal("12.1")),
        ]

    def test_by_everything(self, admin: Admin, shop: Billing) -> None:
        day = today(shop).isoformat()
        rows = usage(admin, group_by=",".join(GROUPS))
        assert list(rows[0])[:5] == list(GROUPS)
        assert [tuple(row[name] for name in GROUPS) for row in rows] == [
            (day, FEATURE, None, "bob", None),
            (day, FEATURE, "large", "ann", None),
            (day, FEATURE, "large", "bob", None),
            (day, FEATURE, "small", "ann", None),
            (day, FEATURE, "small", "bob", None),
        ]

    @pytest.mark.parametrize("group_by", ["user_id", "user_id,model", "price_id,user_id,day"])
    def test_pages_are_the_whole(self, admin: Admin, group_by: str) -> None:
        assert [row for page in admin.pages("/usage", group_by=group_by, limit=1) for row in page] == usage(
            admin, group_by=group_by
        )

    @pytest.mark.parametrize(
        ("query", "runs"),
        [
            ({"user_id": "ann"}, 2),
            ({"model": "small"}, 2),
            ({"model": "small", "user_id": "ann"}, 1),
            ({"feature_endpoint_id": FEATURE}, 5),
            ({"feature_endpoint_id": "nothing"}, 0),
            ({"package_id": PACKAGE}, 5),
            ({"package_id": "other"}, 0),
            ({"price_id": "0"}, 5),
            ({"price_id": "7"}, 0),
            ({"kind": "usage"}, 5),
        ],
    )
    def test_filters(self, admin: Admin, query: dict[str, str], runs: int) -> None:
        assert usage(admin, **query)[0]["runs"] == runs

    def test_days(self, admin: Admin, shop: Billing) -> None:
        day = today(shop)
        for since, until, runs in ((0, 1, 5), (1, 2, 0), (-1, 0, 0), (-30, 30, 5)):
            query = {"from": (day + timedelta(since)).isoformat(), "to": (day + timedelta(until)).isoformat()}
            assert usage(admin, **query)[0]["runs"] == runs

    def test_one_kind(self, admin: Admin) -> None:
        [row] = usage(admin, kind="write_off", group_by="user_id")
        assert (row["user_id"], row["runs"], row["cost"], row["written_off"], row["net"]) == ("bob", 0, 0, 1100, -1100)

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"group_by": "day,hour"}, "group_by"),
            ({"group_by": ""}, "group_by"),
            ({"group_by": "day,day"}, "group_by"),
            ({"from": "2030-1-1"}, "from"),
            ({"from": "20300101"}, "from"),
            ({"to": "2030-01-01T00:00:00Z"}, "to"),
            ({"from": "2030-01-02", "to": "2030-01-02"}, "to"),
            ({"kind": "top_up"}, "kind"),
            ({"price_id": "x"}, "price_id"),
            ({"price_id": "-1"}, "price_id"),
            ({"price_id": "9223372036854775808"}, "price_id"),
            ({"user_id": ""}, "user_id"),
            ({"model": "a\x00"}, "model"),
            ({"package_id": "x" * 129}, "package_id"),
            ({"feature_endpoint_id": "\u202e"}, "feature_endpoint_id"),
            ({"limit": "0"}, "limit"),
            ({"cursor": "x"}, "cursor"),
            ({"cursor": "WyJhIl0"}, "cursor"),
            ({"group_by": "day", "cursor": "WyJhIl0"}, "cursor"),
            ({"group_by": "price_id", "cursor": "WyJhIl0"}, "cursor"),
            ({"group_by": "model", "cursor": "WyJcdWQ4MDAiXQ"}, "cursor"),
            ({"groupby": "day"}, "groupby"),
        ],
    )
    def test_bad_parameters(self, admin: Admin, query: dict[str, str], field: str) -> None:
        assert_invalid(admin.get("/usage", **query), field)

    def test_each_bad_parameter_is_told(self, admin: Admin) -> None:
        answer = admin.get("/usage", **{"from": "x", "to": "y", "kind": "z", "group_by": "-"})
        assert set(answer.get_json()["errors"]) == {"from", "to", "kind", "group_by"}


class TestTotals:
    def test_nothing(self, admin: Admin, billing: Billing) -> None:
        found = data(admin.get("/totals"))
        assert found == {
            "wallets": 0,
            "liability_token": 0,
            "overdrawn_token": 0,
            "pending_token": 0,
            "debt_token": 0,
            "held_token": 0,
            "failed_ends": {"retrying": 0, "dead": 0},
        }

    def test_everything(self, admin: Admin, billing: Billing) -> None:
        billing.catalog()
        billing.wallet("ann", tokens=100)
        billing.wallet("bob", tokens=10, overdraft_tokens=10)
        billing.wallet("cid", tokens=5)
        container = billing.container
        container.end.end_all([billing.usage("bob", output_tokens=60), billing.usage("cid", output_tokens=400)])
        billing.settle_everything()
        container.end.end(billing.usage("ann"))
        for hold_micros in (2_000_000, 3_500_000):
            container.start.start(StartRequest("ann", FEATURE, hold_micros=hold_micros))
        found = data(admin.get("/totals"))
        assert found == {
            "wallets": 3,
            "liability_token": 105,
            "overdrawn_token": Decimal("6.5"),
            "pending_token": 11,
            "debt_token": 110,
            "held_token": Decimal("5.5"),
            "failed_ends": {"retrying": 1, "dead": 0},
        }

    def test_holds_that_are_over_or_given_back_dont_count(self, admin: Admin, billing: Billing) -> None:
        billing.catalog()
        billing.wallet("ann")
        container = billing.container
        started = container.start.start(StartRequest("ann", FEATURE, hold_micros=2_000_000))
        container.start.start(StartRequest("ann", FEATURE, hold_micros=1_000_000, hold_seconds=1))
        container.holds.give_back("ann", started.process_id)
        container.redis_client.zadd("tokentill:{ann}:holds", {"x": 0})
        for process in container.redis_client.zrange("tokentill:{ann}:holds", 0, -1):
            container.redis_client.zadd("tokentill:{ann}:holds", {process: 1})
        assert data(admin.get("/totals"))["held_token"] == 0

    def test_takes_no_parameters(self, admin: Admin) -> None:
        assert_invalid(admin.get("/totals", user_id="x"), "user_id")


@pytest.mark.usefixtures("shop")
class TestTransactions:
    def test_over_all_wallets_newest_first(self, admin: Admin) -> None:
        found = admin.items("/transactions")
        assert [row["id"] for row in found] == sorted((row["id"] for row in found), reverse=True)
        assert {row["user_id"] for row in found} == {"ann", "bob"}
        assert [row for page in admin.pages("/transactions", limit=2) for row in page] == found

    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ({}, 8),
            ({"kind": "usage"}, 5),
            ({"kind": "top_up"}, 2),
            ({"kind": "write_off"}, 1),
            ({"kind": "chargeback"}, 0),
            ({"user_id": "ann"}, 3),
            ({"model": "large"}, 3),
            ({"feature_endpoint_id": FEATURE, "user_id": "bob"}, 4),
            ({"package_id": PACKAGE, "kind": "usage"}, 5),
            ({"package_id": "other"}, 0),
            ({"from": "2020-01-01"}, 8),
            ({"to": "2020-01-01T12:00:00Z"}, 0),
            ({"from": "2020-01-01T00:00:00+02:00", "to": "2900-01-01"}, 8),
        ],
    )
    def test_filters(self, admin: Admin, query: dict[str, str], count: int) -> None:
        assert len(admin.items("/transactions", **query)) == count

    def test_filters_of_one_wallet(self, admin: Admin) -> None:
        assert len(admin.items("/wallets/bob/transactions", kind="usage", model="small")) == 1
        assert admin.get("/wallets/nobody/transactions").status_code == 404
        assert_invalid(admin.get("/wallets/bob/transactions", user_id="ann"), "user_id")

    def test_a_moment_between_two_entries(self, admin: Admin, shop: Billing) -> None:
        shop.wallet("cid")
        last = admin.items("/transactions")[0]["id"]
        with shop.container.engine.connect() as connection:
            moment = connection.execute(
                sa.text("SELECT created_at FROM token_transactions WHERE id = :id"), {"id": last}
            ).scalar_one()
        assert [row["id"] for row in admin.items("/transactions", **{"from": moment.isoformat()})] == [last]
        assert last not in [row["id"] for row in admin.items("/transactions", to=moment.isoformat())]

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"from": "yesterday"}, "from"),
            ({"to": "2030-01-01T00:00:00"}, "to"),
            ({"from": "2030-01-01", "to": "2029-01-01"}, "to"),
            ({"kind": "gift"}, "kind"),
            ({"state": "dead"}, "state"),
        ],
    )
    def test_bad_parameters(self, admin: Admin, query: dict[str, str], field: str) -> None:
        assert_invalid(admin.get("/transactions", **query), field)


class TestOtherLists:
    def test_failed_ends(self, admin: Admin, owed: str) -> None:
        matches = (
            {},
            {"model": "large"},
            {"feature_endpoint_id": FEATURE, "package_id": PACKAGE},
            {"from": "2020-01-01", "to": "2900-01-01T00:00:00Z"},
            {"state": "retrying", "user_id": "u", "kind": "usage"},
        )
        for query in matches:
            assert [end["id"] for end in admin.items("/failed-ends", **query)] == [owed], query
        others = ({"model": "small"}, {"feature_endpoint_id": "x"}, {"package_id": "x"}, {"to": "2020-01-01"})
        for query in others:
            assert admin.items("/failed-ends", **query) == [], query
        answer = admin.get("/failed-ends", model="", state="paid", kind="top_up", **{"from": "x", "limit": "x"})
        assert set(answer.get_json()["errors"]) == {"model", "state", "kind", "from"}

    def test_wallets(self, admin: Admin, till: Billing) -> None:
        till.wallet("v")
        admin.patch("/wallets/v", {"status": "suspended", "package_id": None})
        for query, users in (
            ({}, ["u", "v"]),
            ({"status": "suspended"}, ["v"]),
            ({"package_id": PACKAGE}, ["u"]),
            ({"package_id": PACKAGE, "status": "closed"}, []),
        ):
            assert [wallet["user_id"] for wallet in admin.items("/wallets", **query)] == users
        assert_invalid(admin.get("/wallets", status="gone"), "status")

    def test_profit_rules(self, admin: Admin, till: Billing) -> None:
        admin.post("/profit-rules", {"percentage": 20, "feature_endpoint_id": FEATURE, "model": "large"})
        for query, count in (
            ({}, 2),
            ({"model": "large"}, 1),
            ({"feature_endpoint_id": FEATURE}, 1),
            ({"model": "x"}, 0),
        ):
            assert len(admin.items("/profit-rules", **query)) == count
