"""Wallets over the admin API."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from redis import RedisError
from werkzeug.test import TestResponse

from app.bootstrap import Container
from tests.http.admin import NOT_AMOUNTS, Admin, assert_invalid, data, failure
from tests.support import FEATURE, PACKAGE, Billing, collect_now

EMPTY = {
    "token": 0,
    "posted_token": 0,
    "pending_token": 0,
    "debt_token": 0,
    "held_token": 0,
    "overdraft_limit_token": 0,
}


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    return billing


@pytest.fixture
def wallet(shop: Billing) -> str:
    """A wallet with 1,000 tokens."""
    return shop.wallet("u", tokens=1_000)


class Service:
    """A service server."""

    def __init__(self, client: FlaskClient, headers: dict[str, str]) -> None:
        self._client = client
        self._headers = headers

    def start(self, **fields: Any) -> tuple[int, Any]:
        answer = self._call("start", fields)
        return answer.status_code, answer.get_json().get("data", {}).get("status")

    def end(self, output_token: int) -> str:
        answer = self._call("end", {"input_token": 1, "output_token": output_token})
        status: str = answer.get_json()["data"]["status"]
        return status

    def _call(self, name: str, fields: dict[str, Any]) -> Any:
        return self._client.post(
            f"/api/token-process/{name}",
            json={"user_id": "u", "feature_endpoint_id": FEATURE, **fields},
            headers=self._headers,
        )


@pytest.fixture
def service(client: FlaskClient, server_headers: dict[str, str]) -> Service:
    return Service(client, server_headers)


def shown(response: TestResponse, status: int = 200) -> dict[str, Any]:
    """A wallet, but when it last changed."""
    found = data(response, status)
    assert datetime.fromisoformat(found.pop("changed_at")).tzinfo is not None
    return found


class TestCreate:
    def test_create(self, admin: Admin, shop: Billing) -> None:
        created = shown(admin.post("/wallets", {"user_id": "u", "package_id": PACKAGE}), 201)
        assert created == {"user_id": "u", "status": "active", "package_id": PACKAGE, **EMPTY}
        assert shown(admin.get("/wallets/u")) == created

    def test_everything_given(self, admin: Admin) -> None:
        body = {
            "user_id": "ü/{u}",
            "package_id": None,
            "overdraft_limit_token": Decimal("0.5"),
            "status": "suspended",
        }
        created = shown(admin.post("/wallets", body), 201)
        assert created == {
            "user_id": "ü/{u}",
            "status": "suspended",
            "package_id": None,
            **EMPTY,
            "overdraft_limit_token": Decimal("0.5"),
        }
        assert shown(admin.get("/wallets/%C3%BC/%7Bu%7D")) == created

    def test_exists(self, admin: Admin, wallet: str) -> None:
        failure(admin.post("/wallets", {"user_id": wallet, "package_id": None}), 409, "already_exists")
        assert data(admin.get("/wallets/u"))["package_id"] == PACKAGE

    def test_unknown_package(self, admin: Admin) -> None:
        refused = failure(admin.post("/wallets", {"user_id": "u", "package_id": "none"}), 404, "not_found")
        assert list(refused["errors"]) == ["package_id"]
        failure(admin.get("/wallets/u"), 404, "wallet_not_found")

    def test_bad_bodies(self, admin: Admin) -> None:
        assert_invalid(admin.post("/wallets", {}), "user_id", "package_id")
        assert_invalid(admin.post("/wallets", {"user_id": 7, "package_id": True}), "user_id", "package_id")
        for status in ("open", None, 1, "ACTIVE"):
            assert_invalid(admin.post("/wallets", {"user_id": "u", "package_id": None, "status": status}), "status")

    @pytest.mark.parametrize("amount", [*NOT_AMOUNTS, "-1"])
    def test_bad_overdraft_limit(self, admin: Admin, amount: str) -> None:
        body = f'{{"user_id":"u","package_id":null,"overdraft_limit_token":{amount}}}'
        assert_invalid(admin.post("/wallets", body), "overdraft_limit_token")


class TestShow:
    def test_unknown(self, admin: Admin) -> None:
        assert failure(admin.get("/wallets/none"), 404, "wallet_not_found")["message"] == "User wallet not found"

    def test_nobodys_tokens_go_to_a_wallet_of_a_similar_name(self, admin: Admin, wallet: str) -> None:
        for path in ("/wallets/u/", "/wallets//u", "/wallets/U", "/wallets/%20u"):
            failure(admin.get(path), 404, "wallet_not_found")
        failure(admin.post("/wallets/u//top-ups", {"token": 1, "reference": "r"}), 404, "wallet_not_found")

    def test_pending_debt_and_holds(self, admin: Admin, wallet: str, service: Service, shop: Billing) -> None:
        service.start(hold_token=2.5)
        assert service.end(40) == "return-able"
        assert service.end(4_000) == "not-return-able"
        waiting = shown(admin.get("/wallets/u"))
        assert waiting == {
            "user_id": "u",
            "status": "active",
            "package_id": PACKAGE,
            "token": 1_000 - 11 - 1_100 - Decimal("2.5"),
            "posted_token": 1_000,
            "pending_token": 11,
            "debt_token": 1_100,
            "held_token": Decimal("2.5"),
            "overdraft_limit_token": 0,
        }
        shop.settle_everything()
        settled = data(admin.get("/wallets/u"))
        assert (settled["posted_token"], settled["pending_token"], settled["token"]) == (989, 0, waiting["token"])
        assert admin.items("/wallets") == [settled]

    def test_with_redis_away_nothing_is_held(
        self, admin: Admin, wallet: str, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> None:
            raise RedisError

        monkeypatch.setattr(container.wallet_holds, "held", away)
        assert data(admin.get("/wallets/u"))["held_token"] == 0
        assert not container.redis_gate.is_open
        assert data(admin.get("/wallets"))["items"][0]["token"] == 1_000


class TestList:
    def test_pages_in_order_of_user_ids(self, admin: Admin, shop: Billing) -> None:
        for name in ("c", "a", "e", "b", "d"):
            shop.wallet(name, tokens=1)
        pages = list(admin.pages("/wallets", limit=2))
        assert [[item["user_id"] for item in page] for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
        assert pages[0][0] == data(admin.get("/wallets/a"))

    def test_takes_the_same_few_queries_for_any_number(self, admin: Admin, shop: Billing, container: Container) -> None:
        statements: list[str] = []
        sa.event.listen(container.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
        counts = []
        for count in (1, 20):
            for i in range(count):
                shop.wallet(f"user-{count}-{i}")
            statements.clear()
            data(admin.get("/wallets", limit=200))
            counts.append(len(statements))
        assert counts == [1, 1]


class TestUpdate:
    def test_nothing(self, admin: Admin, wallet: str, shop: Billing) -> None:
        before = data(admin.get("/wallets/u"))
        assert data(admin.patch("/wallets/u", {"token": 5})) == before

    def test_why_stands_in_the_audit_log(self, admin: Admin, wallet: str, service: Service) -> None:
        data(admin.patch("/wallets/u", {"status": "suspended", "reason": "Fraud check"}))
        service.start(hold_token=5)
        data(admin.patch("/wallets/u", {"status": "active"}))
        assert service.start(hold_token=5) == (200, "access-able")
        [hold] = admin.items("/wallets/u/holds")
        path = f"/wallets/u/holds/{hold['process_id']}"
        assert_invalid(admin.send("DELETE", f"{path}?reason="), "reason")
        assert_invalid(admin.send("DELETE", f"{path}?why=x"), "why")
        data(admin.send("DELETE", f"{path}?reason=Left%20over"))
        told = [(entry["action"], entry["after"]) for entry in admin.items("/audit-log")]
        assert told == [
            ("hold.released", {"reason": "Left over"}),
            ("wallet.activated", {"status": "active"}),
            ("wallet.suspended", {"status": "suspended", "reason": "Fraud check"}),
        ]
        assert_invalid(admin.patch("/wallets/u", {"status": "active", "reason": "a\nb"}), "reason")

    def test_unknown(self, admin: Admin) -> None:
        for body in ({"status": "closed"}, {}):
            failure(admin.patch("/wallets/none", body), 404, "wallet_not_found")

    def test_unknown_package(self, admin: Admin, wallet: str) -> None:
        failure(admin.patch("/wallets/u", {"package_id": "none"}), 404, "not_found")

    def test_bad_bodies(self, admin: Admin, wallet: str) -> None:
        body = {"status": None, "package_id": 5, "overdraft_limit_token": "5"}
        assert_invalid(admin.patch("/wallets/u", body), *body)

    @pytest.mark.parametrize("status", ["suspended", "closed"])
    def test_status_is_seen_by_the_next_start(self, admin: Admin, wallet: str, service: Service, status: str) -> None:
        assert service.start() == (200, "access-able")
        assert data(admin.patch("/wallets/u", {"status": status}))["status"] == status
        assert service.start()[0] == 404
        data(admin.patch("/wallets/u", {"status": "active"}))
        assert service.start() == (200, "access-able")

    def test_package_is_seen_by_the_next_start(self, admin: Admin, wallet: str, service: Service) -> None:
        assert service.start() == (200, "access-able")
        assert data(admin.patch("/wallets/u", {"package_id": None}))["package_id"] is None
        assert service.start()[0] == 404
        data(admin.patch("/wallets/u", {"package_id": PACKAGE}))
        assert service.start() == (200, "access-able")

    def test_overdraft_limit_is_seen_by_the_next_start(self, admin: Admin, shop: Billing, service: Service) -> None:
        shop.wallet("u", tokens=0)
        assert service.start() == (200, "not-access-able")
        changed = data(admin.patch("/wallets/u", {"overdraft_limit_token": Decimal("1.000001")}))
        assert (changed["overdraft_limit_token"], changed["token"]) == (Decimal("1.000001"), 0)
        assert service.start() == (200, "access-able")

    def test_overdraft_limit_not_below_what_is_used(self, admin: Admin, shop: Billing) -> None:
        shop.wallet("u", tokens=0, overdraft_tokens=10)
        data(admin.post("/wallets/u/adjustments", {"token": -4, "reference": "r"}), 201)
        failure(
            admin.patch("/wallets/u", {"overdraft_limit_token": Decimal("3.999999")}),
            409,
            "balance_out_of_range",
        )
        assert data(admin.get("/wallets/u"))["overdraft_limit_token"] == 10
        assert data(admin.patch("/wallets/u", {"overdraft_limit_token": 4}))["overdraft_limit_token"] == 4

    def test_a_higher_limit_pays_debt(
        self, admin: Admin, shop: Billing, service: Service, container: Container
    ) -> None:
        shop.wallet("u", tokens=10)
        assert service.end(400) == "not-return-able"
        shop.settle_everything()
        shop.execute("UPDATE wallets SET collect_at = now() + interval '1 day'")
        data(admin.patch("/wallets/u", {"overdraft_limit_token": 100}))
        assert [wallet.wallet_id for wallet in container.collection.due_wallets(10)] == ["u"]
        collect_now(container, "u")
        shown = data(admin.get("/wallets/u"))
        assert (shown["posted_token"], shown["debt_token"]) == (-100, 0)
