"""One case for each row of the wire contract's /api/token-process, through the real application and stores."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import simplejson
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support import FEATURE, Billing

START = "/api/token-process/start"
END = "/api/token-process/end"
BATCH = "/api/token-process/end/batch"
CANCEL = "/api/token-process/cancel"
EXTEND = "/api/token-process/hold/extend"

Headers = dict[str, str]


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog(basis_points=1_000)
    billing.wallet("user-1", tokens=1_000)
    return billing


def end_body(**fields: Any) -> dict[str, Any]:
    return {
        "user_id": "user-1",
        "feature_endpoint_id": FEATURE,
        "input_token": 10,
        "output_token": 40,
        **fields,
    }


def start_body(**fields: Any) -> dict[str, Any]:
    return {"user_id": "user-1", "feature_endpoint_id": FEATURE, **fields}


def exact(response: TestResponse) -> dict[str, Any]:
    body: dict[str, Any] = simplejson.loads(response.data, use_decimal=True)
    return body


def assert_failure(response: TestResponse, status: int, message: str | None = None) -> dict[str, Any]:
    body = exact(response)
    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert body["success"] is False
    assert body["status"] == status
    assert message is None or body["message"] == message
    assert body["request_id"] == response.headers["X-Request-Id"]
    return body


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


class TestBatch:
    def test_each_end_has_its_own_answer(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        ends = [
            end_body(idempotency_key="b-1"),
            end_body(idempotency_key="b-1"),
            end_body(user_id="nobody"),
            end_body(feature_endpoint_id="nothing"),
            end_body(output_token=-1),
            "not an end",
            end_body(idempotency_key="b-1", output_token=41),
            end_body(process_id="p-1"),
        ]
        response = client.post(BATCH, json={"ends": ends}, headers=server_headers)
        results = exact(response)["data"]["results"]
        assert [result["status"] for result in results] == [200, 200, 404, 403, 400, 400, 409, 200]
        assert results[0]["data"] == results[1]["data"]
        assert results[1]["idempotent_replayed"] is True
        assert "output_token" in results[4]["errors"]
        shop.settle_everything()
        assert shop.balance().posted_micros == 978_000_000

    def test_a_thousand_ends_with_one_bad_one(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        ends = [end_body(output_token=1, idempotency_key=f"b-{i}") for i in range(1_000)]
        ends[500]["user_id"] = None
        response = client.post(BATCH, json={"ends": ends}, headers=server_headers)
        statuses = [result["status"] for result in exact(response)["data"]["results"]]
        assert statuses.count(200) == 999
        assert statuses[500] == 400
        shop.settle_everything()
        assert shop.balance().posted_micros == 1_000_000_000 - 999 * 275_000

    @pytest.mark.parametrize("ends", [[], [{}] * 1_001, {}, None, "x"])
    def test_not_a_list_of_ends(self, shop: Billing, client: FlaskClient, server_headers: Headers, ends: Any) -> None:
        response = client.post(BATCH, json={"ends": ends}, headers=server_headers)
        assert "ends" in assert_failure(response, 400)["errors"]

    def test_takes_more_than_a_single_call_but_not_everything(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        def padded(size: int) -> bytes:
            body = json.dumps({"ends": [end_body()], "padding": ""}).encode()
            return body[:-2] + b"x" * (size - len(body)) + body[-2:]

        headers = {**server_headers, "Content-Type": "application/json"}
        assert client.post(BATCH, data=padded(1024 * 1024), headers=headers).status_code == 200
        assert_failure(client.post(BATCH, data=padded(1024 * 1024 + 1), headers=headers), 413)


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


class TestEverywhere:
    @pytest.mark.parametrize("path", [START, END, BATCH, CANCEL, EXTEND, "/api/token-process/nothing"])
    @pytest.mark.parametrize("headers", [{}, {"x-server-api-key": "wrong"}, {"x-server-api-key": "dev-admin-key"}])
    def test_key_missing_or_wrong(self, client: FlaskClient, path: str, headers: Headers) -> None:
        response = client.post(path, json={}, headers=headers)
        assert_failure(response, 401, "Invalid server API key")

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"{",
            b"null",
            b"[]",
            b'"text"',
            b"\xff\xfe",
            b'{"user_id": "\xc3\x28"}',
            b'{"user_id": "a", "user_id": "b"}',
            b'{"input_token": NaN}',
            b'{"input_token": Infinity}',
            b'{"input_token": 1e99999999999999999999}',
            b'{"input_token": ' + b"9" * 5_000 + b"}",
            b"[" * 30_000,
            b'{"a":' * 10_000,
            b"{'user_id': 1}",
        ],
        ids=range(15),
    )
    @pytest.mark.parametrize("path", [START, END, BATCH, CANCEL, EXTEND])
    def test_bad_json(self, client: FlaskClient, server_headers: Headers, path: str, payload: bytes) -> None:
        headers = {**server_headers, "Content-Type": "application/json"}
        body = assert_failure(client.post(path, data=payload, headers=headers), 400)
        assert body["errors"]

    @pytest.mark.parametrize("value", [5, True, "", "x" * 129, "a\x00b", "a\nb", "\ud800", [], {}])
    @pytest.mark.parametrize("field", ["user_id", "feature_endpoint_id", "model", "process_id"])
    def test_bad_text(self, client: FlaskClient, server_headers: Headers, field: str, value: Any) -> None:
        response = client.post(END, json=end_body(**{field: value}), headers=server_headers)
        assert list(assert_failure(response, 400)["errors"]) == [field]

    @pytest.mark.parametrize("field", ["model", "process_id"])
    def test_null_stands_for_absent(
        self, shop: Billing, client: FlaskClient, server_headers: Headers, field: str
    ) -> None:
        response = client.post(END, json=end_body(**{field: None}), headers=server_headers)
        assert response.status_code == 200

    @pytest.mark.parametrize("field", ["user_id", "feature_endpoint_id"])
    def test_null_where_something_must_be(self, client: FlaskClient, server_headers: Headers, field: str) -> None:
        response = client.post(END, json=end_body(**{field: None}), headers=server_headers)
        assert list(assert_failure(response, 400)["errors"]) == [field]

    @pytest.mark.parametrize(
        "number",
        [
            "-1",
            "0.5",
            "1e-1",
            "-0.5",
            "true",
            '"7"',
            "null",
            "1e400",
            "1e18",
            "100000001",
            str(2**63),
            "[1]",
            "{}",
        ],
    )
    @pytest.mark.parametrize("field", ["input_token", "output_token"])
    def test_bad_usage(self, client: FlaskClient, server_headers: Headers, field: str, number: str) -> None:
        text = json.dumps(end_body(**{field: "@"})).replace('"@"', number)
        headers = {**server_headers, "Content-Type": "application/json"}
        response = client.post(END, data=text, headers=headers)
        assert list(assert_failure(response, 400)["errors"]) == [field]

    @pytest.mark.parametrize(
        ("number", "cost"), [("-0", 0), ("-0.0", 0), ("40.0", 11), ("4e1", 11), ("100000000", 27_500_000)]
    )
    def test_whole_numbers_however_written(
        self, shop: Billing, client: FlaskClient, server_headers: Headers, number: str, cost: int
    ) -> None:
        text = json.dumps(end_body(output_token="@")).replace('"@"', number)
        headers = {**server_headers, "Content-Type": "application/json"}
        response = client.post(END, data=text, headers=headers)
        assert exact(response)["data"]["cost"] == cost

    @pytest.mark.parametrize("number", ["0", "-1", "-0.0", "0.0000001", "true", '"1"', "1e400", "1000000001"])
    def test_bad_hold(self, client: FlaskClient, server_headers: Headers, number: str) -> None:
        text = json.dumps(start_body(hold_token="@")).replace('"@"', number)
        headers = {**server_headers, "Content-Type": "application/json"}
        response = client.post(START, data=text, headers=headers)
        assert list(assert_failure(response, 400)["errors"]) == ["hold_token"]

    @pytest.mark.parametrize("seconds", [0, 86_401, 1.5, "60", True])
    def test_bad_hold_seconds(self, client: FlaskClient, server_headers: Headers, seconds: Any) -> None:
        response = client.post(START, json=start_body(hold_token=1, hold_seconds=seconds), headers=server_headers)
        assert list(assert_failure(response, 400)["errors"]) == ["hold_seconds"]

    def test_every_missing_field_is_named(self, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(END, json={}, headers=server_headers)
        assert set(assert_failure(response, 400)["errors"]) == {
            "user_id",
            "feature_endpoint_id",
            "input_token",
            "output_token",
        }

    def test_unknown_fields_are_ignored(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        response = client.post(END, json=end_body(colour="red", nested={"a": [1]}), headers=server_headers)
        assert response.status_code == 200

    @pytest.mark.parametrize("path", [START, END, CANCEL])
    def test_body_too_large(self, client: FlaskClient, server_headers: Headers, path: str) -> None:
        response = client.post(path, json={"user_id": "x" * 65_536}, headers=server_headers)
        assert_failure(response, 413)

    @pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", "json"])
    def test_wrong_media_type(self, client: FlaskClient, server_headers: Headers, media_type: str) -> None:
        headers = {**server_headers, "Content-Type": media_type}
        assert_failure(client.post(START, data=b"{}", headers=headers), 415)

    def test_media_type_with_a_charset(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        headers = {**server_headers, "Content-Type": "application/json; charset=utf-8"}
        response = client.post(START, data=json.dumps(start_body()), headers=headers)
        assert response.status_code == 200

    @pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
    def test_wrong_method(self, client: FlaskClient, server_headers: Headers, method: str) -> None:
        response = getattr(client, method)(START, headers=server_headers)
        assert_failure(response, 405)
        assert "POST" in response.headers["Allow"]

    def test_unknown_route(self, client: FlaskClient, server_headers: Headers) -> None:
        assert_failure(client.post("/api/token-process/nothing", headers=server_headers), 404)

    @pytest.mark.parametrize(
        "path", ["/api/token-process//start", "//api/token-process/start", "/api//admin/wallets", "/x"]
    )
    def test_odd_paths_stay_in_the_envelope(self, client: FlaskClient, path: str) -> None:
        response = client.post(path, json={})
        assert_failure(response, 401 if path.startswith("/api/token-process/") else 404)

    def test_nothing_internal_leaves_the_server(
        self, shop: Billing, client: FlaskClient, server_headers: Headers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def explode(*_: Any) -> None:
            raise RuntimeError("SELECT secret FROM wallets")

        monkeypatch.setattr(shop.container.start, "start", explode)
        response = client.post(START, json=start_body(), headers=server_headers)
        assert_failure(response, 500, "Internal server error")
        assert b"secret" not in response.data

    def test_request_id_is_taken_over(self, client: FlaskClient) -> None:
        response = client.post(START, headers={"X-Request-Id": "trace-42"})
        assert assert_failure(response, 401)["request_id"] == "trace-42"
