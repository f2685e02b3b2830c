"""Who may call the admin API, and what every one of its routes makes of a bad request."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.conftest import SERVER_KEY
from tests.http.admin import PREFIX, Admin, assert_invalid, failure

ROUTES = (
    ("POST", "/feature-endpoints"),
    ("GET", "/feature-endpoints"),
    ("PATCH", "/feature-endpoints/f"),
    ("POST", "/packages"),
    ("GET", "/packages"),
    ("PATCH", "/packages/p"),
    ("POST", "/profit-rules"),
    ("GET", "/profit-rules"),
    ("POST", "/wallets"),
    ("GET", "/wallets"),
    ("GET", "/wallets/u"),
    ("PATCH", "/wallets/u"),
    ("POST", "/wallets/u/top-ups"),
    ("POST", "/wallets/u/refunds"),
    ("POST", "/wallets/u/adjustments"),
    ("GET", "/wallets/u/transactions"),
    ("GET", "/failed-ends"),
    ("POST", "/failed-ends/01890a5d-ac96-774b-bcce-b302099a8057/write-off"),
    ("GET", "/reconciliations/1"),
)
# They take no body.
BARE_ROUTES = (
    ("POST", "/failed-ends/01890a5d-ac96-774b-bcce-b302099a8057/replay"),
    ("POST", "/reconciliations"),
)
LISTS = ("/feature-endpoints", "/packages", "/profit-rules", "/wallets", "/wallets/u/transactions", "/failed-ends")


@pytest.mark.parametrize(("method", "path"), [*ROUTES, *BARE_ROUTES])
@pytest.mark.parametrize(
    "headers",
    [{}, {"x-server-api-key": SERVER_KEY}, {"x-admin-api-key": SERVER_KEY}, {"x-admin-api-key": ""}],
    ids=["none", "server key", "server key as admin key", "empty"],
)
def test_needs_the_admin_key(client: FlaskClient, method: str, path: str, headers: dict[str, str]) -> None:
    response = client.open(PREFIX + path, method=method, json={}, headers=headers)
    assert failure(response, 401, "invalid_api_key")["message"] == "Invalid admin API key"


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[0] != "GET"])
def test_bodies_are_json_objects(client: FlaskClient, admin_headers: dict[str, str], method: str, path: str) -> None:
    def send(body: bytes, content_type: str = "application/json") -> int:
        response = client.open(
            PREFIX + path, method=method, data=body, content_type=content_type, headers=admin_headers
        )
        return response.status_code

    assert send(b"{}", "text/plain") == 415
    assert [send(body) for body in (b"", b"{", b"[]", b'"x"', b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff")] == [400] * 7
    assert send(b" " * 65_537) == 413


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("limit", ["0", "201", "-1", "1.5", "ten", "", "1e2", "٣"])
def test_limit_out_of_range(admin: Admin, path: str, limit: str) -> None:
    assert_invalid(admin.get(path, limit=limit), "limit")


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("cursor", ["", "!", "%%%", "é", "x", "AA", "_w", "YQ==", "YQ\n"])
def test_unknown_cursor(admin: Admin, path: str, cursor: str) -> None:
    """Not base64, not UTF-8, a control character in it, padding we don't write."""
    assert_invalid(admin.get(path, cursor=cursor, limit="0"), "cursor", "limit")


def test_cursor_of_another_list(admin: Admin) -> None:
    text_key, number_beyond_bigint = "YWJj", "OTIyMzM3MjAzNjg1NDc3NTgwOA"
    assert_invalid(admin.get("/profit-rules", cursor=text_key), "cursor")
    assert_invalid(admin.get("/profit-rules", cursor=number_beyond_bigint), "cursor")


def test_wrong_method_and_unknown_route(client: FlaskClient, admin_headers: dict[str, str]) -> None:
    for method, path in (
        ("DELETE", "/wallets"),
        ("DELETE", "/wallets/u"),
        ("GET", "/wallets/u/top-ups"),
        ("POST", "/wallets/u/transactions"),
        ("GET", "/packages/p"),
    ):
        response = client.open(PREFIX + path, method=method, headers=admin_headers)
        failure(response, 405, "method_not_allowed")
        assert response.headers["Allow"]
    failure(client.get(PREFIX + "/nothing", headers=admin_headers), 404, "not_found")
    failure(client.get(PREFIX + "/wallets/a%00b", headers=admin_headers), 404, "not_found")
