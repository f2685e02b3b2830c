"""Prices over the admin API: made, listed, refused, and what runs cost by them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from app.bootstrap import Container
from app.stores.postgres import system
from tests.http.admin import NOT_AMOUNTS, Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing

GPT = {"input_per_million": 2, "output_per_million": 8}
FULL = {
    "feature_endpoint_id": FEATURE,
    "model": "gpt-4.1*",
    "effective_from": "2026-01-01T00:00:00.000Z",
    "input_per_million": 2,
    "output_per_million": 8,
    "cached_input_per_million": Decimal("0.5"),
    "cache_write_per_million": Decimal("2.5"),
    "reasoning_per_million": 9,
    "per_request": Decimal("0.01"),
    "tiers": [{"above_input_token": 200_000, "input_per_million": 4, "output_per_million": 12}],
}
NOTHING = {
    "feature_endpoint_id": None,
    "model": None,
    "cached_input_per_million": None,
    "cache_write_per_million": None,
    "reasoning_per_million": None,
    "per_request": None,
    "tiers": [],
}


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog(basis_points=1_000)
    billing.wallet("user-1", tokens=1_000)
    return billing


def add(admin: Admin, **price: Any) -> dict[str, Any]:
    return data(admin.post("/prices", {**GPT, **price}), 201)


class TestCreate:
    def test_whole(self, admin: Admin, shop: Billing) -> None:
        created = data(admin.post("/prices", FULL), 201)
        assert created == {"id": created["id"], **FULL}
        assert admin.items("/prices") == [created]

    def test_least(self, admin: Admin) -> None:
        created = add(admin)
        assert created.pop("effective_from").startswith("20")
        assert created == {"id": created["id"], **NOTHING, **GPT}

    def test_tiers_stand_in_the_order_of_their_input(self, admin: Admin) -> None:
        tiers = [{"above_input_token": above, "input_per_million": 5} for above in (300, 100, 200)]
        assert [tier["above_input_token"] for tier in add(admin, tiers=tiers)["tiers"]] == [100, 200, 300]

    def test_of_two_for_the_same_from_the_same_moment_the_second_is_refused(self, admin: Admin, shop: Billing) -> None:
        moment = {"effective_from": "2030-01-01T00:00:00Z"}
        for scope in (
            {},
            {"model": "m"},
            {"feature_endpoint_id": FEATURE},
            {"feature_endpoint_id": FEATURE, "model": "m"},
        ):
            add(admin, **scope, **moment)
            again = admin.post("/prices", {**GPT, **scope, "effective_from": "2030-01-01T01:00:00+01:00"})
            assert list(failure(again, 409, "already_exists")["errors"]) == ["effective_from"]
        add(admin, effective_from="2030-01-01T00:00:00.001Z")
        assert len(admin.items("/prices")) == 5

    def test_unknown_feature(self, admin: Admin) -> None:
        refused = failure(admin.post("/prices", {**GPT, "feature_endpoint_id": "none"}), 404, "not_found")
        assert list(refused["errors"]) == ["feature_endpoint_id"]

    def test_every_bad_field_is_named(self, admin: Admin) -> None:
        body = {
            "feature_endpoint_id": 5,
            "model": "gpt-*-mini",
            "effective_from": "soon",
            "input_per_million": -1,
            "cached_input_per_million": True,
            "cache_write_per_million": "1",
            "reasoning_per_million": Decimal("0.0000001"),
            "per_request": 40_001,
            "tiers": [
                {"above_input_token": 1, "input_per_million": -1},
                {"output_per_million": 1},
                7,
            ],
        }
        assert_invalid(
            admin.post("/prices", body),
            *(name for name in body if name != "tiers"),
            "output_per_million",
            "tiers.0.input_per_million",
            "tiers.1.above_input_token",
            "tiers.2",
        )

    @pytest.mark.parametrize("field", ["input_per_million", "cached_input_per_million", "per_request"])
    @pytest.mark.parametrize("amount", [*(text for text in NOT_AMOUNTS if text != "null"), "-0.000001", "40000000.1"])
    def test_bad_rate(self, admin: Admin, field: str, amount: str) -> None:
        others = {"input_per_million": 1, "output_per_million": 1}
        others.pop(field, None)
        named = "".join(f',"{name}":{value}' for name, value in others.items())
        assert_invalid(admin.post("/prices", f'{{"{field}":{amount}{named}}}'), field)

    @pytest.mark.parametrize(
        "tiers", [{}, "none", [[]], [{"above_input_token": -1}], [{"above_input_token": 10**8 + 1}]]
    )
    def test_bad_tiers(self, admin: Admin, tiers: Any) -> None:
        body = failure(admin.post("/prices", {**GPT, "tiers": tiers}), 400, "validation_failed")
        assert all(name.startswith("tiers") for name in body["errors"])

    def test_each_tier_is_above_another_input(self, admin: Admin) -> None:
        tiers = [{"above_input_token": 5, "input_per_million": number} for number in (1, 2)]
        assert_invalid(
            admin.post("/prices", {**GPT, "tiers": tiers}), "tiers.0.above_input_token", "tiers.1.above_input_token"
        )
        many = [{"above_input_token": number} for number in range(11)]
        assert_invalid(admin.post("/prices", {**GPT, "tiers": many}), "tiers")


class TestBounds:
    """No run may cost more than a wallet can hold: with that, amounts stay within what Redis counts exactly."""

    def test_rates_that_fit_each_but_not_together(self, admin: Admin) -> None:
        add(admin, input_per_million=20_000_000, output_per_million=20_000_000)
        body = {"input_per_million": 20_000_000, "output_per_million": Decimal("20000000.000001")}
        assert_invalid(admin.post("/prices", body), "output_per_million")
        assert_invalid(admin.post("/prices", {**body, "input_per_million": 30_000_000}), "input_per_million")
        tier = [{"above_input_token": 5, "per_request": 40_000}]
        assert_invalid(admin.post("/prices", {**GPT, "tiers": tier}), "per_request")

    def test_a_price_that_does_not_fit_a_profit_rule(self, admin: Admin, shop: Billing) -> None:
        data(admin.post("/profit-rules", {"percentage": 10_000, "feature_endpoint_id": FEATURE}), 201)
        dear = {"input_per_million": 1, "output_per_million": 500_000}
        assert_invalid(admin.post("/prices", dear), "output_per_million")
        # Where the two can't meet, they stand beside each other.
        data(admin.post("/feature-endpoints", {"id": "other", "name": "Other"}), 201)
        add(admin, **dear, feature_endpoint_id="other")
        # What was followed counts no more.
        data(admin.post("/profit-rules", {"percentage": 10, "feature_endpoint_id": FEATURE}), 201)
        add(admin, **dear)

    def test_a_profit_rule_that_does_not_fit_a_price(self, admin: Admin) -> None:
        dear = {"input_per_million": 1, "output_per_million": 500_000}
        add(admin, **dear, model="o1-*")
        assert_invalid(admin.post("/profit-rules", {"percentage": 10_000}), "percentage")
        assert_invalid(admin.post("/profit-rules", {"percentage": 10_000, "model": "o1-pro"}), "percentage")
        data(admin.post("/profit-rules", {"percentage": 10_000, "model": "gpt"}), 201)
        data(admin.post("/profit-rules", {"percentage": 500}), 201)


class TestList:
    def test_pages_newest_first_and_filters(self, admin: Admin, shop: Billing) -> None:
        ids = [add(admin, model=model)["id"] for model in ("a", "b*", "c")]
        of_feature = add(admin, model="a", feature_endpoint_id=FEATURE)["id"]
        assert [item["id"] for item in admin.items("/prices", limit=2)] == [of_feature, *reversed(ids)]
        assert [item["id"] for item in admin.items("/prices", model="a", limit=1)] == [of_feature, ids[0]]
        assert [item["id"] for item in admin.items("/prices", model="b*")] == [ids[1]]
        assert [item["id"] for item in admin.items("/prices", feature_endpoint_id=FEATURE)] == [of_feature]
        assert admin.items("/prices", model="none") == []

    def test_bad_queries(self, admin: Admin) -> None:
        assert_invalid(admin.get("/prices", model="", feature_endpoint_id="x" * 129), "model", "feature_endpoint_id")
        assert_invalid(admin.get("/prices", price=1), "price")


def test_a_price_is_never_changed_or_taken_away(admin: Admin, container: Container) -> None:
    add(admin)
    for statement in ("UPDATE prices SET model = 'm'", "DELETE FROM prices", "TRUNCATE prices CASCADE"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), container.engine.begin() as connection:
            connection.execute(sa.text(statement))


def test_another_process_prices_by_it_within_a_second(admin: Admin, shop: Billing, make_container: Any) -> None:
    other: Container = make_container()
    price_id = add(admin)["id"]
    other.watcher.look_at_postgres()
    assert [card.id for card in other.catalog.current.rate_cards] == [price_id]


class TestBilling:
    END = "/api/token-process/end"

    def end(self, client: FlaskClient, headers: dict[str, str], **fields: Any) -> Any:
        body = {
            "user_id": "user-1",
            "feature_endpoint_id": FEATURE,
            "input_token": 1_000,
            "output_token": 500,
            **fields,
        }
        return client.post(self.END, json=body, headers=headers)

    def test_a_run_by_kind_and_what_the_ledger_says_of_it(
        self, admin: Admin, shop: Billing, client: FlaskClient, server_headers: dict[str, str]
    ) -> None:
        price_id = data(admin.post("/prices", FULL), 201)["id"]
        kinds = {"cached_input_token": 300, "cache_write_token": 100, "reasoning_token": 200, "requests": 2}
        ended = data(self.end(client, server_headers, model="gpt-4.1-mini", **kinds))
        # 600 * 2 + 300 * 0.5 + 100 * 2.5 + 300 * 8 + 200 * 9 = 5,800 millionths of a token, and two requests.
        base = Decimal("0.0058") + Decimal("0.02")
        profit = Decimal("0.00258")
        assert ended["cost"] == base + profit
        shop.settle_everything()
        entry = admin.items("/wallets/user-1/transactions")[0]
        assert {name: entry[name] for name in kinds} == kinds
        assert (entry["price_id"], entry["model"], entry["base_cost"], entry["profit"]) == (
            price_id,
            "gpt-4.1-mini",
            base,
            profit,
        )
        assert entry["parts"] == {
            "input_token": Decimal("0.0012"),
            "cached_input_token": Decimal("0.00015"),
            "cache_write_token": Decimal("0.00025"),
            "output_token": Decimal("0.0024"),
            "reasoning_token": Decimal("0.0018"),
            "requests": Decimal("0.02"),
        }

    def test_without_a_price_the_guides_rule_holds_whatever_the_kinds(
        self, admin: Admin, shop: Billing, client: FlaskClient, server_headers: dict[str, str]
    ) -> None:
        add(admin, model="other")
        ended = data(self.end(client, server_headers, output_token=40, cached_input_token=1_000, reasoning_token=40))
        assert ended["cost"] == 11
        shop.settle_everything()
        entry = admin.items("/wallets/user-1/transactions")[0]
        assert (entry["price_id"], entry["parts"]["output_token"], entry["parts"]["input_token"]) == (None, 10, 0)
        # Of what is no run there are none.
        assert admin.items("/wallets/user-1/transactions")[1]["parts"] is None

    def test_the_price_is_pinned_at_acceptance(
        self, admin: Admin, shop: Billing, client: FlaskClient, server_headers: dict[str, str]
    ) -> None:
        first = add(admin, input_per_million=0, output_per_million=1_000_000)["id"]
        for key in ("a", "b"):
            assert data(self.end(client, {**server_headers, "Idempotency-Key": key}))["cost"] == 550
        add(admin, input_per_million=0, output_per_million=2_000_000)
        again = self.end(client, {**server_headers, "Idempotency-Key": "a"})
        assert (data(again)["cost"], again.headers["Idempotent-Replayed"]) == (550, "true")
        data(admin.post("/wallets/user-1/top-ups", {"token": 1_000, "reference": "r"}), 201)
        shop.settle_everything()
        runs = [item for item in admin.items("/wallets/user-1/transactions") if item["kind"] == "usage"]
        assert [(run["cost"], run["price_id"]) for run in runs] == [(550, first), (550, first)][: len(runs)]
        assert data(self.end(client, server_headers))["cost"] == 1_100

    def test_kinds_count_for_what_a_body_is(
        self, shop: Billing, client: FlaskClient, server_headers: dict[str, str]
    ) -> None:
        headers = {**server_headers, "Idempotency-Key": "k"}
        data(self.end(client, headers, cached_input_token=5))
        failure(self.end(client, headers), 409, "idempotency_conflict")
        failure(self.end(client, headers, cached_input_token=6), 409, "idempotency_conflict")
        data(self.end(client, headers, cached_input_token=5, cache_write_token=0, requests=1))

    def test_a_run_of_requests_alone_is_billed_and_one_of_nothing_is_not(
        self, admin: Admin, shop: Billing, client: FlaskClient, server_headers: dict[str, str]
    ) -> None:
        add(admin, model="image", per_request=5)
        nothing = {"input_token": 0, "output_token": 0, "model": "image"}
        assert data(self.end(client, server_headers, **nothing))["cost"] == 0
        assert data(self.end(client, server_headers, **nothing, requests=2))["cost"] == 11
        shop.settle_everything()
        assert len(shop.ledger()) == 2

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"cached_input_token": 1_001}, ["cached_input_token"]),
            ({"cache_write_token": 1_001, "reasoning_token": 501}, ["cache_write_token", "reasoning_token"]),
            ({"cached_input_token": 501, "cache_write_token": 500}, ["cached_input_token", "cache_write_token"]),
            ({"reasoning_token": 501}, ["reasoning_token"]),
            ({"requests": 0}, ["requests"]),
            ({"requests": 100_001}, ["requests"]),
            ({"reasoning_token": -1}, ["reasoning_token"]),
            ({"cached_input_token": 1.5}, ["cached_input_token"]),
            ({"cache_write_token": True}, ["cache_write_token"]),
        ],
    )
    def test_parts_that_can_not_be(
        self, shop: Billing, client: FlaskClient, server_headers: dict[str, str], fields: Any, named: list[str]
    ) -> None:
        assert_invalid(self.end(client, server_headers, **fields), *named)
        body = {"user_id": "user-1", "feature_endpoint_id": FEATURE, "input_token": 1_000, "output_token": 500}
        batch = client.post(f"{self.END}/batch", json={"ends": [{**body, **fields}, body]}, headers=server_headers)
        refused, accepted = data(batch)["results"]
        assert (refused["status"], sorted(refused["errors"])) == (400, sorted(named))
        assert accepted["status"] == 200

    def test_the_batch_bills_by_kind(
        self, admin: Admin, shop: Billing, client: FlaskClient, server_headers: dict[str, str]
    ) -> None:
        add(admin, input_per_million=1_000_000, output_per_million=0, cached_input_per_million=0)
        body = {"user_id": "user-1", "feature_endpoint_id": FEATURE, "input_token": 100, "output_token": 1}
        ends = [body, {**body, "cached_input_token": 90}]
        batch = client.post(f"{self.END}/batch", json={"ends": ends}, headers=server_headers)
        assert [result["data"]["cost"] for result in data(batch)["results"]] == [110, 11]


class TestUnpriced:
    def start(self, client: FlaskClient, headers: dict[str, str], **fields: Any) -> Any:
        body = {"user_id": "user-1", "feature_endpoint_id": FEATURE, **fields}
        return client.post("/api/token-process/start", json=body, headers=headers)

    def test_a_strict_feature_starts_no_model_without_a_price(
        self, admin: Admin, shop: Billing, client: FlaskClient, server_headers: dict[str, str]
    ) -> None:
        data(self.start(client, server_headers, model="new-model"))
        assert data(admin.patch(f"/feature-endpoints/{FEATURE}", {"unpriced": "refuse"}))["unpriced"] == "refuse"
        refused = failure(self.start(client, server_headers, model="new-model"), 403, "model_not_priced")
        assert refused["data"] == {"user_id": "user-1", "status": "not-access-able"}
        # Who names no model can't be told apart.
        data(self.start(client, server_headers))
        # What has run is billed all the same, and not for nothing.
        end = {"user_id": "user-1", "feature_endpoint_id": FEATURE, "input_token": 1, "output_token": 40}
        ended = client.post("/api/token-process/end", json={**end, "model": "new-model"}, headers=server_headers)
        assert data(ended)["cost"] == 11
        add(admin, model="new-*")
        data(self.start(client, server_headers, model="new-model"))
        failure(self.start(client, server_headers, model="another"), 403, "model_not_priced")
        add(admin, feature_endpoint_id=FEATURE)
        data(self.start(client, server_headers, model="another"))

    @pytest.mark.parametrize("value", ["maybe", None, True, ""])
    def test_bad_setting(self, admin: Admin, shop: Billing, value: Any) -> None:
        assert_invalid(admin.patch(f"/feature-endpoints/{FEATURE}", {"unpriced": value}), "unpriced")
        assert_invalid(admin.post("/feature-endpoints", {"id": "f", "name": "F", "unpriced": value}), "unpriced")

    def test_also_while_redis_is_away(
        self, admin: Admin, shop: Billing, client: FlaskClient, server_headers: dict[str, str]
    ) -> None:
        data(admin.patch(f"/feature-endpoints/{FEATURE}", {"unpriced": "refuse"}))
        shop.container.redis_gate.close(ConnectionError("test"))
        failure(self.start(client, server_headers, model="m"), 403, "model_not_priced")


def test_the_catalog_version_moves_with_each_price(admin: Admin, container: Container) -> None:
    with container.engine.connect() as connection:
        before = system.read(connection).counters.catalog_version
    add(admin)
    with container.engine.connect() as connection:
        assert system.read(connection).counters.catalog_version == before + 1
