"""estimate answers what end would, and leaves no trace."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.domain.wallets import wallet_of
from tests.http.admin import Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing

ESTIMATE = "/api/token-process/estimate"
PRICE = {"input_per_million": 1_000_000, "output_per_million": 2_000_000, "cached_input_per_million": 100_000}

Headers = dict[str, str]


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog(basis_points=1_000)
    billing.wallet("user-1", tokens=100)
    return billing


def body(**fields: Any) -> dict[str, Any]:
    return {"user_id": "user-1", "feature_endpoint_id": FEATURE, "input_token": 10, "output_token": 40, **fields}


def estimate(client: FlaskClient, headers: Headers, **fields: Any) -> dict[str, Any]:
    return data(client.post(ESTIMATE, json=body(**fields), headers=headers))


def end(client: FlaskClient, headers: Headers, **fields: Any) -> dict[str, Any]:
    return data(client.post("/api/token-process/end", json=body(**fields), headers=headers))


def test_by_the_default_rule(shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
    assert estimate(client, server_headers) == {
        "cost": 11,
        "base_cost": 10,
        "profit": 1,
        "price_id": None,
        "profit_rule_id": next(iter(shop.container.catalog.current.profit_rules)).id,
        "token": 89,
        "status": "return-able",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "m"},
        {"model": "m", "cached_input_token": 9, "reasoning_token": 3, "requests": 5},
        {"model": "m", "output_token": 60},
        {"input_token": 0, "output_token": 0},
        {"output_token": 400},
    ],
)
@pytest.mark.parametrize("away", ["nothing", "redis", "postgres"])
def test_it_is_what_end_answers_and_nothing_changes(
    admin: Admin, shop: Billing, client: FlaskClient, server_headers: Headers, fields: dict[str, Any], away: str
) -> None:
    data(admin.post("/prices", {**PRICE, "model": "m"}), 201)
    shop.container.loader.load([wallet_of("user-1")], 0)
    if away == "redis":
        shop.container.redis_gate.close(ConnectionError("test"))
    if away == "postgres":
        shop.container.postgres_gate.close(ConnectionError("test"))
    first = estimate(client, server_headers, **fields)
    assert estimate(client, server_headers, **fields) == first
    assert first["cost"] == first["base_cost"] + first["profit"]
    assert (shop.inbox_size(), len(shop.ledger())) == (0, 1)
    ended = end(client, server_headers, **fields)
    assert {name: first[name] for name in ("cost", "token", "status")} == {
        name: ended[name] for name in ("cost", "token", "status")
    }


def test_a_runs_own_hold_is_drawn_on_first_and_stays(
    shop: Billing, client: FlaskClient, server_headers: Headers
) -> None:
    start = {"user_id": "user-1", "feature_endpoint_id": FEATURE, "hold_token": 60}
    held = data(client.post("/api/token-process/start", json=start, headers=server_headers))
    data(client.post("/api/token-process/start", json={**start, "hold_token": 30}, headers=server_headers))
    for _ in range(2):
        found = estimate(client, server_headers, output_token=80, process_id=held["process_id"])
        # 22 of the 100, and the other run holds 30.
        assert (found["cost"], found["token"], found["status"]) == (22, 48, "return-able")
    assert estimate(client, server_headers, output_token=80)["token"] == -12
    ended = end(client, server_headers, output_token=80, process_id=held["process_id"])
    assert (ended["token"], ended["status"]) == (48, "return-able")


def test_debt_counts_unless_the_runs_own_hold_covers_it(
    shop: Billing, client: FlaskClient, server_headers: Headers
) -> None:
    start = {"user_id": "user-1", "feature_endpoint_id": FEATURE, "hold_token": 50}
    held = data(client.post("/api/token-process/start", json=start, headers=server_headers))
    assert end(client, server_headers, output_token=400)["status"] == "not-return-able"
    assert estimate(client, server_headers)["status"] == "not-return-able"
    within = {"process_id": held["process_id"]}
    assert estimate(client, server_headers, **within)["status"] == "return-able"
    assert end(client, server_headers, **within)["status"] == "return-able"


def test_refusals_are_those_of_end(shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
    def refused(status: int, code: str, **fields: Any) -> None:
        for path in (ESTIMATE, "/api/token-process/end"):
            failure(client.post(path, json=body(**fields), headers=server_headers), status, code)

    refused(404, "wallet_not_found", user_id="nobody")
    refused(403, "feature_not_available", feature_endpoint_id="none")
    refused(400, "validation_failed", reasoning_token=41)
    shop.wallet("user-2")
    start = {"user_id": "user-2", "feature_endpoint_id": FEATURE}
    of_another = data(client.post("/api/token-process/start", json=start, headers=server_headers))["process_id"]
    refused(409, "process_id_of_another_user", process_id=of_another)
    assert_invalid(
        client.post(ESTIMATE, json={"output_token": -1}, headers=server_headers),
        "user_id",
        "feature_endpoint_id",
        "input_token",
        "output_token",
    )
    shop.container.redis_gate.close(ConnectionError("test"))
    shop.container.postgres_gate.close(ConnectionError("test"))
    refused(503, "temporarily_unavailable")


class TestDraft:
    def test_what_a_run_would_cost_with_a_price(self, admin: Admin, shop: Billing) -> None:
        usage = {"feature_endpoint_id": FEATURE, "input_token": 10, "output_token": 40, "model": "m-1"}
        now = data(admin.post("/prices/estimate", usage))
        assert (now["cost"], now["is_draft"], now["parts"]["output_token"]) == (11, False, 10)
        assert "token" not in now
        draft = {**PRICE, "model": "m*", "effective_from": "2030-01-01T00:00:00Z"}
        then = data(
            admin.post("/prices/estimate", {**usage, "cached_input_token": 10, "price": draft, "user_id": "user-1"})
        )
        assert then == {
            "cost": Decimal("89.1"),
            "base_cost": 81,
            "profit": Decimal("8.1"),
            "price_id": None,
            "profit_rule_id": then["profit_rule_id"],
            "token": Decimal("10.9"),
            "status": "return-able",
            "is_draft": True,
            "parts": {
                "input_token": 0,
                "cached_input_token": 1,
                "cache_write_token": 0,
                "output_token": 80,
                "reasoning_token": 0,
                "requests": 0,
            },
        }
        assert admin.items("/prices") == []

    def test_a_draft_wins_only_where_it_would(self, admin: Admin, shop: Billing) -> None:
        price_id = data(admin.post("/prices", {**PRICE, "model": "m-1"}), 201)["id"]
        usage = {"feature_endpoint_id": FEATURE, "input_token": 10, "output_token": 40, "model": "m-1"}
        found = data(admin.post("/prices/estimate", {**usage, "price": {**PRICE, "model": "m*"}}))
        assert (found["price_id"], found["is_draft"]) == (price_id, False)
        found = data(admin.post("/prices/estimate", {**usage, "price": {**PRICE, "model": "m-1"}}))
        assert (found["price_id"], found["is_draft"]) == (None, True)

    def test_what_is_wrong_is_named(self, admin: Admin, shop: Billing) -> None:
        usage = {"feature_endpoint_id": FEATURE, "input_token": 10, "output_token": 40}
        assert_invalid(
            admin.post("/prices/estimate", {"price": {"input_per_million": -1}}),
            "feature_endpoint_id",
            "input_token",
            "output_token",
            "price.input_per_million",
            "price.output_per_million",
        )
        assert_invalid(admin.post("/prices/estimate", {**usage, "price": 5}), "price")
        dear = {"input_per_million": 30_000_000, "output_per_million": 30_000_000}
        assert_invalid(admin.post("/prices/estimate", {**usage, "price": dear}), "price.input_per_million")
        failure(admin.post("/prices/estimate", {**usage, "feature_endpoint_id": "none"}), 404, "not_found")
        failure(admin.post("/prices/estimate", {**usage, "user_id": "nobody"}), 404, "wallet_not_found")
