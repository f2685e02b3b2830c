"""end and its repeats, case by case as the wire contract has them, through the real application and stores."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.http.token_process import END, START, Headers, assert_failure, end_body, exact, start_body
from tests.support import Billing


class TestEnd:
    def test_cost_and_balance(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(END, json=end_body(model="gemini-pro"), headers=server_headers)
        body = exact(response)
        assert response.status_code == 200
        assert body["success"] is True
        assert body["data"] == {"user_id": "user-1", "token": 989, "cost": 11, "status": "return-able"}
        assert b'"cost":11,' in response.data

    def test_fractions_are_exact(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        shop.execute("INSERT INTO profit_rules (basis_points, model) VALUES (1234, 'odd')")
        shop.announce_catalog()
        response = client.post(END, json=end_body(output_token=1, model="odd"), headers=server_headers)
        # 1 / 4 * 1.1234
        assert b'"cost":0.28085,' in response.data
        assert b'"token":999.71915,' in response.data

    def test_not_covered_is_recorded_in_full(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        shop.wallet("spender", tokens=5)
        response = client.post(END, json=end_body(user_id="spender"), headers=server_headers)
        assert exact(response)["data"] == {
            "user_id": "spender",
            "token": -6,
            "cost": 11,
            "status": "not-return-able",
        }
        [waiting] = shop.inbox("spender")
        assert (waiting.state, waiting.cost_micros) == ("retrying", 11_000_000)

    def test_overdraft_covers(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        shop.wallet("trusted", tokens=5, overdraft_tokens=6)
        response = client.post(END, json=end_body(user_id="trusted"), headers=server_headers)
        assert exact(response)["data"]["status"] == "return-able"
        assert exact(response)["data"]["token"] == -6

    @pytest.mark.parametrize("change", ["status = 'suspended'", "status = 'closed'", "package_id = NULL"])
    def test_what_happened_since_start_refuses_nothing(
        self, shop: Billing, client: FlaskClient, server_headers: Headers, change: str
    ) -> None:
        shop.execute(f"UPDATE wallets SET {change}")
        response = client.post(END, json=end_body(), headers=server_headers)
        assert exact(response)["data"]["cost"] == 11

    def test_a_feature_that_left_the_package_still_bills(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        shop.execute("DELETE FROM package_features")
        shop.announce_catalog()
        assert client.post(END, json=end_body(), headers=server_headers).status_code == 200

    def test_unknown_wallet(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(END, json=end_body(user_id="nobody"), headers=server_headers)
        assert_failure(response, 404, "User wallet not found")

    def test_unknown_feature(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(END, json=end_body(feature_endpoint_id="nothing"), headers=server_headers)
        assert_failure(response, 403, "Feature endpoint is not available in your package")

    def test_nothing_used_is_not_recorded(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(END, json=end_body(input_token=0, output_token=0), headers=server_headers)
        assert exact(response)["data"] == {
            "user_id": "user-1",
            "token": 1000,
            "cost": 0,
            "status": "return-able",
        }
        shop.settle_everything()
        assert len(shop.ledger()) == 1

    def test_input_alone_costs_nothing_and_is_recorded(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        response = client.post(END, json=end_body(output_token=0), headers=server_headers)
        assert exact(response)["data"]["cost"] == 0
        shop.settle_everything()
        assert (shop.ledger()[-1].input_tokens, shop.ledger()[-1].amount_micros) == (10, 0)

    def test_an_expired_hold_still_bills(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(END, json=end_body(process_id="long-gone"), headers=server_headers)
        assert exact(response)["data"]["cost"] == 11

    def test_end_releases_its_hold(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        started = client.post(START, json=start_body(hold_token=500), headers=server_headers)
        process_id = exact(started)["data"]["process_id"]
        response = client.post(END, json=end_body(process_id=process_id), headers=server_headers)
        assert exact(response)["data"]["token"] == 989


class TestRepeating:
    def test_same_key_same_body(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        headers = {**server_headers, "Idempotency-Key": "run-1"}
        first = client.post(END, json=end_body(), headers=headers)
        client.post(END, json=end_body(), headers=server_headers)
        again = client.post(END, json=end_body(), headers=headers)
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert exact(again) == exact(first)
        shop.settle_everything()
        assert shop.balance().posted_micros == 978_000_000

    def test_same_key_after_settlement_and_a_flush(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        headers = {**server_headers, "Idempotency-Key": "run-1"}
        first = client.post(END, json=end_body(), headers=headers)
        shop.settle_everything()
        shop.container.redis_client.flushall()
        again = client.post(END, json=end_body(), headers=headers)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert exact(again) == exact(first)
        assert shop.cached_spendable_micros() == 989_000_000
        shop.settle_everything()
        assert shop.balance().posted_micros == 989_000_000

    @pytest.mark.parametrize("flushed", [False, True])
    def test_same_key_another_body(
        self, shop: Billing, client: FlaskClient, server_headers: Headers, flushed: bool
    ) -> None:
        headers = {**server_headers, "Idempotency-Key": "run-1"}
        client.post(END, json=end_body(), headers=headers)
        if flushed:
            shop.container.redis_client.flushall()
        response = client.post(END, json=end_body(output_token=41), headers=headers)
        assert assert_failure(response, 409)["code"] == "idempotency_conflict"
        shop.settle_everything()
        assert shop.balance().posted_micros == 989_000_000
        assert shop.cached_spendable_micros() == 989_000_000

    def test_same_key_for_another_user_is_another_body(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        shop.wallet("user-2")
        headers = {**server_headers, "Idempotency-Key": "run-1"}
        client.post(END, json=end_body(), headers=headers)
        assert_failure(client.post(END, json=end_body(user_id="user-2"), headers=headers), 409)
        assert shop.cached_spendable_micros("user-2") == 1_000_000_000

    def test_process_id_repeats_too(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        first = client.post(END, json=end_body(process_id="p-1"), headers=server_headers)
        again = client.post(END, json=end_body(process_id="p-1"), headers=server_headers)
        other_key = client.post(
            END, json=end_body(process_id="p-1"), headers={**server_headers, "Idempotency-Key": "new"}
        )
        assert exact(again) == exact(first) == exact(other_key)
        assert other_key.headers["Idempotent-Replayed"] == "true"
        conflict = client.post(END, json=end_body(process_id="p-1", model="x"), headers=server_headers)
        assert_failure(conflict, 409)

    def test_without_a_key_each_call_is_a_run(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        for _ in range(3):
            response = client.post(END, json=end_body(), headers=server_headers)
        assert exact(response)["data"]["token"] == 967

    @pytest.mark.parametrize("key", ["", "x" * 256])
    def test_bad_key(self, shop: Billing, client: FlaskClient, server_headers: Headers, key: str) -> None:
        response = client.post(END, json=end_body(), headers={**server_headers, "Idempotency-Key": key})
        assert "Idempotency-Key" in assert_failure(response, 400)["errors"]

    def test_longest_key(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        headers = {**server_headers, "Idempotency-Key": "x" * 255}
        assert client.post(END, json=end_body(), headers=headers).status_code == 200
