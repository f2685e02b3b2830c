"""What holds for every call of the token process: keys, bodies, sizes, methods, and no inner text in a failure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.http.token_process import (
    BATCH,
    CANCEL,
    END,
    EXTEND,
    START,
    Headers,
    assert_failure,
    end_body,
    exact,
    start_body,
)
from tests.support import Billing


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
