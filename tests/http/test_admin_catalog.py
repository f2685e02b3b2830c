"""Feature endpoints, packages and profit rules over the admin API."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.bootstrap import Container
from tests.http.admin import NOT_AMOUNTS, Admin, assert_invalid, data, failure
from tests.support import Billing


@pytest.fixture
def features(admin: Admin) -> list[str]:
    """Three feature endpoints; their ids."""
    ids = ["chat", "images", "speech"]
    for id in ids:
        data(admin.post("/feature-endpoints", {"id": id, "name": id.title()}), 201)
    return ids


class TestFeatureEndpoints:
    def test_create(self, admin: Admin) -> None:
        created = data(
            admin.post("/feature-endpoints", {"id": "chat", "name": "Chat", "min_token": Decimal("2.5"), "more": 1}),
            201,
        )
        assert created == {
            "id": "chat",
            "name": "Chat",
            "min_token": Decimal("2.5"),
            "unpriced": "default",
            "reversal_seconds": 0,
        }

    def test_least_amount(self, admin: Admin) -> None:
        def created(id: str, **body: Any) -> Any:
            return data(admin.post("/feature-endpoints", {"id": id, "name": "F", **body}), 201)["min_token"]

        assert created("unset") == 1
        assert created("free", min_token=0) == 0
        assert created("smallest", min_token=Decimal("0.000001")) == Decimal("0.000001")

    def test_exists(self, admin: Admin, features: list[str]) -> None:
        failure(admin.post("/feature-endpoints", {"id": "chat", "name": "Another"}), 409, "already_exists")
        assert admin.items("/feature-endpoints")[0]["name"] == "Chat"

    @pytest.mark.parametrize("amount", [*NOT_AMOUNTS, "-1", "-0.000001"])
    def test_bad_amount(self, admin: Admin, amount: str) -> None:
        assert_invalid(admin.post("/feature-endpoints", f'{{"id":"f","name":"F","min_token":{amount}}}'), "min_token")

    @pytest.mark.parametrize("name", [None, 5, "", "x" * 201, "a\nb", "\ud800"])
    def test_bad_name(self, admin: Admin, name: Any) -> None:
        assert_invalid(admin.post("/feature-endpoints", {"id": "f", "name": name}), "name")

    @pytest.mark.parametrize("id", [None, True, "", "x" * 129, "\u0000"])
    def test_bad_id(self, admin: Admin, id: Any) -> None:
        assert_invalid(admin.post("/feature-endpoints", {"id": id, "name": "F"}), "id")

    def test_every_missing_field_is_named(self, admin: Admin) -> None:
        assert_invalid(admin.post("/feature-endpoints", {}), "id", "name")

    def test_update(self, admin: Admin, features: list[str]) -> None:
        changed = data(admin.patch("/feature-endpoints/chat", {"min_token": 7, "id": "ignored"}))
        assert changed == {"id": "chat", "name": "Chat", "min_token": 7, "unpriced": "default", "reversal_seconds": 0}
        changed = data(admin.patch("/feature-endpoints/chat", {"name": "Talk"}))
        assert changed == {"id": "chat", "name": "Talk", "min_token": 7, "unpriced": "default", "reversal_seconds": 0}
        assert data(admin.patch("/feature-endpoints/chat", {})) == changed
        assert_invalid(admin.patch("/feature-endpoints/chat", {"name": None, "min_token": -1}), "name", "min_token")

    def test_update_of_nothing(self, admin: Admin) -> None:
        for body in ({"name": "F"}, {}):
            failure(admin.patch("/feature-endpoints/none", body), 404, "not_found")

    def test_list(self, admin: Admin, features: list[str]) -> None:
        pages = list(admin.pages("/feature-endpoints", limit=2))
        assert [[item["id"] for item in page] for page in pages] == [["chat", "images"], ["speech"]]
        assert len(list(admin.pages("/feature-endpoints", limit=3))) == 1

    def test_empty_list(self, admin: Admin) -> None:
        assert data(admin.get("/feature-endpoints")) == {"items": [], "next_cursor": None}

    def test_an_id_may_hold_anything_printable(self, admin: Admin) -> None:
        for id in ("a/b", "a//b", "ü ?#%", "{x}"):
            data(admin.post("/feature-endpoints", {"id": id, "name": "Odd"}), 201)
        assert data(admin.patch("/feature-endpoints/a/b", {"name": "One"}))["id"] == "a/b"
        assert data(admin.patch("/feature-endpoints/a%2F%2Fb", {"name": "Two"}))["id"] == "a//b"
        assert data(admin.patch("/feature-endpoints/%C3%BC%20%3F%23%25", {}))["id"] == "ü ?#%"
        assert len(admin.items("/feature-endpoints", limit=1)) == 4


class TestPackages:
    def test_create(self, admin: Admin, features: list[str]) -> None:
        created = data(
            admin.post(
                "/packages", {"id": "basic", "name": "Basic", "feature_endpoint_ids": ["speech", "chat", "chat"]}
            ),
            201,
        )
        assert created == {"id": "basic", "name": "Basic", "feature_endpoint_ids": ["chat", "speech"]}
        empty = data(admin.post("/packages", {"id": "empty", "name": "Empty", "feature_endpoint_ids": []}), 201)
        assert empty["feature_endpoint_ids"] == []
        assert [item["id"] for item in admin.items("/packages", limit=1)] == ["basic", "empty"]

    def test_exists(self, admin: Admin, features: list[str]) -> None:
        body = {"id": "basic", "name": "Basic", "feature_endpoint_ids": ["chat"]}
        data(admin.post("/packages", body), 201)
        failure(admin.post("/packages", body | {"feature_endpoint_ids": []}), 409, "already_exists")
        assert admin.items("/packages")[0]["feature_endpoint_ids"] == ["chat"]

    def test_unknown_feature(self, admin: Admin, features: list[str]) -> None:
        body = {"id": "basic", "name": "Basic", "feature_endpoint_ids": ["chat", "nope", "none"]}
        refused = failure(admin.post("/packages", body), 404, "not_found")
        assert refused["errors"] == {"feature_endpoint_ids": ["Unknown feature endpoint: none, nope"]}
        assert admin.items("/packages") == []

    @pytest.mark.parametrize("ids", [None, "chat", {"chat": 1}, 5, ["x"] * 1_001])
    def test_features_are_a_list(self, admin: Admin, ids: Any) -> None:
        assert_invalid(
            admin.post("/packages", {"id": "p", "name": "P", "feature_endpoint_ids": ids}), "feature_endpoint_ids"
        )

    def test_features_are_ids(self, admin: Admin) -> None:
        body = {"id": "p", "name": "P", "feature_endpoint_ids": ["ok", 5, ""]}
        assert_invalid(admin.post("/packages", body), "feature_endpoint_ids.1", "feature_endpoint_ids.2")
        assert_invalid(admin.post("/packages", {"id": 1}), "id", "name", "feature_endpoint_ids")

    def test_update(self, admin: Admin, features: list[str]) -> None:
        data(admin.post("/packages", {"id": "basic", "name": "Basic", "feature_endpoint_ids": ["chat"]}), 201)
        assert data(admin.patch("/packages/basic", {"name": "Plus"})) == {
            "id": "basic",
            "name": "Plus",
            "feature_endpoint_ids": ["chat"],
        }
        changed = data(admin.patch("/packages/basic", {"feature_endpoint_ids": ["images"]}))
        assert changed == {"id": "basic", "name": "Plus", "feature_endpoint_ids": ["images"]}
        assert data(admin.patch("/packages/basic", {})) == changed
        failure(admin.patch("/packages/basic", {"feature_endpoint_ids": ["none"]}), 404, "not_found")
        assert admin.items("/packages") == [changed]
        for body in ({"name": "X"}, {}):
            failure(admin.patch("/packages/none", body), 404, "not_found")


class TestProfitRules:
    def test_create(self, admin: Admin, features: list[str]) -> None:
        created = data(
            admin.post(
                "/profit-rules",
                {
                    "percentage": Decimal("12.5"),
                    "feature_endpoint_id": "chat",
                    "model": "large",
                    "effective_from": "2030-01-01T02:00:00+02:00",
                },
            ),
            201,
        )
        assert created == {
            "id": created["id"],
            "percentage": Decimal("12.5"),
            "feature_endpoint_id": "chat",
            "model": "large",
            "effective_from": "2030-01-01T00:00:00.000Z",
        }

    def test_default(self, admin: Admin, container: Container) -> None:
        created = data(admin.post("/profit-rules", {"percentage": 10, "feature_endpoint_id": None}), 201)
        assert (created["percentage"], created["feature_endpoint_id"], created["model"]) == (10, None, None)
        # In force at once, in the process that made it.
        assert [rule.basis_points for rule in container.catalog.current.profit_rules] == [1_000]

    @pytest.mark.parametrize("percentage", ["0", "0.01", "10000", "1E+1", "10.00"])
    def test_percentages(self, admin: Admin, percentage: str) -> None:
        created = data(admin.post("/profit-rules", f'{{"percentage":{percentage}}}'), 201)
        assert created["percentage"] == Decimal(percentage)

    @pytest.mark.parametrize("percentage", ["null", "true", '"10"', "-0.01", "0.001", "10000.01", "1e400", "[]"])
    def test_bad_percentage(self, admin: Admin, percentage: str) -> None:
        assert_invalid(admin.post("/profit-rules", f'{{"percentage":{percentage}}}'), "percentage")

    @pytest.mark.parametrize(
        "moment",
        ["2030-01-01T00:00:00", "2030-01-01", "soon", 5, "0001-01-01T00:00:00+14:00", "9999-12-31T23:00-02:00"],
    )
    def test_bad_moment(self, admin: Admin, moment: Any) -> None:
        assert_invalid(admin.post("/profit-rules", {"percentage": 1, "effective_from": moment}), "effective_from")

    def test_unknown_feature(self, admin: Admin) -> None:
        body = {"percentage": 1, "feature_endpoint_id": "none"}
        assert "feature_endpoint_id" in failure(admin.post("/profit-rules", body), 404, "not_found")["errors"]

    def test_list_newest_first(self, admin: Admin) -> None:
        for percentage in range(5):
            data(admin.post("/profit-rules", {"percentage": percentage}), 201)
        assert [item["percentage"] for item in admin.items("/profit-rules", limit=2)] == [4, 3, 2, 1, 0]


def test_changes_are_seen_by_the_next_start(
    admin: Admin, billing: Billing, client: FlaskClient, server_headers: dict[str, str]
) -> None:
    data(admin.post("/feature-endpoints", {"id": "chat", "name": "Chat"}), 201)
    data(admin.post("/packages", {"id": "basic", "name": "Basic", "feature_endpoint_ids": []}), 201)
    data(admin.post("/wallets", {"user_id": "u", "package_id": "basic"}), 201)
    data(admin.post("/wallets/u/top-ups", {"token": 5, "reference": "r"}), 201)

    def start() -> tuple[int, str]:
        response = client.post(
            "/api/token-process/start", json={"user_id": "u", "feature_endpoint_id": "chat"}, headers=server_headers
        )
        return response.status_code, response.get_json()["data"]["status"]

    assert start() == (403, "not-access-able")
    data(admin.patch("/packages/basic", {"feature_endpoint_ids": ["chat"]}))
    assert start() == (200, "access-able")
    data(admin.patch("/feature-endpoints/chat", {"min_token": 6}))
    assert start() == (200, "not-access-able")


def test_another_process_sees_changes_within_a_second(admin: Admin, make_container: Any) -> None:
    other: Container = make_container()
    data(admin.post("/feature-endpoints", {"id": "chat", "name": "Chat"}), 201)
    assert "chat" not in other.catalog.current.features
    # What the watcher does four times a second.
    other.watcher.look_at_postgres()
    assert "chat" in other.catalog.current.features
