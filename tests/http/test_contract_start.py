"""start and cancel, case by case as the wire contract has them, through the real application and stores."""

from __future__ import annotations

from decimal import Decimal

import pytest
from flask.testing import FlaskClient

from tests.http.token_process import CANCEL, END, START, Headers, assert_failure, end_body, exact, start_body
from tests.support import Billing


class TestStart:
    def test_enough_tokens(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(START, json=start_body(), headers=server_headers)
        body = exact(response)
        assert response.status_code == 200
        assert body["success"] is True
        assert isinstance(body["message"], str)
        data = body["data"]
        assert (data["user_id"], data["token"], data["status"]) == ("user-1", 1000, "access-able")
        assert data["process_id"]
        assert b'"token":1000,' in response.data

    def test_no_wallet(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(START, json=start_body(user_id="nobody"), headers=server_headers)
        assert_failure(response, 404, "User wallet not found")

    @pytest.mark.parametrize("change", ["status = 'suspended'", "status = 'closed'", "package_id = NULL"])
    def test_wallet_that_is_not_valid(
        self, shop: Billing, client: FlaskClient, server_headers: Headers, change: str
    ) -> None:
        shop.execute(f"UPDATE wallets SET {change}")
        response = client.post(START, json=start_body(), headers=server_headers)
        assert_failure(response, 404, "User wallet not found")

    @pytest.mark.parametrize("feature", ["feature-unknown", "feature-elsewhere"])
    def test_feature_not_in_the_package(
        self, shop: Billing, client: FlaskClient, server_headers: Headers, feature: str
    ) -> None:
        shop.execute("INSERT INTO feature_endpoints (id, name, min_micros) VALUES ('feature-elsewhere', 'x', 1)")
        shop.announce_catalog()
        response = client.post(START, json=start_body(feature_endpoint_id=feature), headers=server_headers)
        body = assert_failure(response, 403, "Feature endpoint is not available in your package")
        assert body["data"] == {"user_id": "user-1", "token": 1000, "status": "not-access-able"}

    def test_below_the_features_minimum(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        shop.execute("UPDATE feature_endpoints SET min_micros = 1000000001")
        shop.announce_catalog()
        response = client.post(START, json=start_body(), headers=server_headers)
        assert response.status_code == 200
        assert exact(response)["data"] == {"user_id": "user-1", "token": 1000, "status": "not-access-able"}

    def test_the_minimum_is_one_token_unless_set(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        shop.wallet("poor", tokens=0)
        response = client.post(START, json=start_body(user_id="poor"), headers=server_headers)
        assert exact(response)["data"] == {"user_id": "poor", "token": 0, "status": "not-access-able"}

    def test_token_counts_accepted_ends(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        client.post(END, json=end_body(), headers=server_headers)
        response = client.post(START, json=start_body(), headers=server_headers)
        assert exact(response)["data"]["token"] == 989

    def test_hold(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(START, json=start_body(hold_token=400.5, hold_seconds=60), headers=server_headers)
        data = exact(response)["data"]
        assert data["status"] == "access-able"
        assert data["token"] == Decimal("599.5")
        assert data["hold_token"] == Decimal("400.5")
        assert data["expires_at"].endswith("Z")
        denied = client.post(START, json=start_body(hold_token=600), headers=server_headers)
        assert exact(denied)["data"]["status"] == "not-access-able"

    def test_open_debt_stops_every_start(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        shop.wallet("spender", tokens=5, overdraft_tokens=0)
        client.post(END, json=end_body(user_id="spender"), headers=server_headers)
        response = client.post(START, json=start_body(user_id="spender"), headers=server_headers)
        assert exact(response)["data"] == {"user_id": "spender", "token": -6, "status": "not-access-able"}


class TestCancel:
    def test_gives_the_hold_back_once(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        started = client.post(START, json=start_body(hold_token=400), headers=server_headers)
        body = {"user_id": "user-1", "process_id": exact(started)["data"]["process_id"]}
        for _ in range(2):
            response = client.post(CANCEL, json=body, headers=server_headers)
            assert response.status_code == 200
            assert exact(response)["data"]["token"] == 1000

    def test_unknown_wallet(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(CANCEL, json={"user_id": "nobody", "process_id": "p"}, headers=server_headers)
        assert_failure(response, 404, "User wallet not found")
