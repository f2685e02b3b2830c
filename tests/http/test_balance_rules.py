"""Low balance rules and auto top-up over the admin API and from the command line."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from app.cli import cli
from tests.http.admin import NOT_AMOUNTS, Admin, assert_invalid, data, failure
from tests.support import PACKAGE, Billing
from tests.webhooks_shop import Webhooks


@pytest.fixture
def hooks(billing: Billing) -> Webhooks:
    billing.catalog(basis_points=None)
    billing.wallet(tokens=1_000)
    return Webhooks(billing)


def test_low_balance_of_a_package_and_of_a_wallet(admin: Admin, hooks: Webhooks) -> None:
    of_package = data(admin.put("/low-balance-rules", {"package_id": PACKAGE, "below_percent": 12.5}))
    assert (of_package["package_id"], of_package["below_percent"], of_package["below_token"]) == (
        PACKAGE,
        Decimal("12.5"),
        None,
    )
    assert data(admin.get("/wallets/user-1/balance-rules"))["low_balance"] == of_package
    own = data(admin.put("/low-balance-rules", {"user_id": "user-1", "below_token": 100.5}))
    assert data(admin.get("/wallets/user-1/balance-rules"))["low_balance"] == own
    again = data(admin.put("/low-balance-rules", {"user_id": "user-1", "below_token": 50}))
    assert (again["id"], again["below_token"]) == (own["id"], 50)
    assert [rule["id"] for rule in admin.items("/low-balance-rules", limit=1)] == [own["id"], of_package["id"]]
    off = data(admin.put("/low-balance-rules", {"user_id": "user-1"}))
    assert (off["below_token"], off["below_percent"]) == (None, None)
    data(admin.delete("/low-balance-rules?user_id=user-1"))
    assert data(admin.get("/wallets/user-1/balance-rules"))["low_balance"] == of_package
    failure(admin.delete("/low-balance-rules?user_id=user-1"), 404, "not_found")
    items = data(admin.get("/audit-log", subject_kind="wallet", subject_id="user-1"))["items"]
    assert [item["action"] for item in items[::-1]] == [
        "low_balance_rule.set",
        "low_balance_rule.set",
        "low_balance_rule.set",
        "low_balance_rule.removed",
    ]
    assert items[2]["before"]["below_token"] == Decimal("100.5")
    assert admin.get("/low-balance-rules", accept="text/csv").status_code == 200


def test_auto_top_up_and_its_requests(admin: Admin, hooks: Webhooks) -> None:
    body = {"user_id": "user-1", "below_token": 100, "token": 500, "requests_per_month": 4}
    rule = data(admin.put("/auto-top-up-rules", body))
    assert (rule["token_per_month"], rule["failures_max"], rule["answer_seconds"]) == (2_000, 3, 86_400)
    hooks.spend(950)
    [request] = data(admin.get("/top-up-requests", user_id="user-1", state="open"))["items"]
    assert data(admin.get(f"/top-up-requests/{request['id']}")) == request
    declined = data(admin.post(f"/top-up-requests/{request['id']}/decline", {"reason": "Card refused"}))
    assert (declined["state"], declined["reason"]) == ("declined", "Card refused")
    standing = data(admin.get("/wallets/user-1/balance-rules"))
    assert (standing["auto_top_up"], standing["failed_requests"]) == (rule, 1)
    resumed = data(admin.post("/wallets/user-1/auto-top-up/resume", ""))
    assert resumed == {"failed_requests": 0, "next_request_at": None, "stopped_at": None, "stopped_reason": None}
    [second] = data(admin.get("/top-up-requests", state="open"))["items"]
    top_up = {"token": second["token"], "reference": second["reference"]}
    posted = data(admin.post("/wallets/user-1/top-ups", top_up), 201)
    assert data(admin.get(f"/top-up-requests/{second['id']}"))["transaction_id"] == posted["id"]
    assert [one["state"] for one in admin.items("/top-up-requests", limit=1)] == ["answered", "declined"]
    data(admin.put("/auto-top-up-rules", {"user_id": "user-1"}))
    assert data(admin.get("/auto-top-up-rules"))["items"][0]["token"] is None
    data(admin.delete("/auto-top-up-rules?user_id=user-1"))
    assert admin.get("/top-up-requests", accept="text/csv").status_code == 200
    actions = [item["action"] for item in data(admin.get("/audit-log", subject_id="user-1"))["items"][::-1]]
    assert actions == [
        "auto_top_up_rule.set",
        "top_up_request.declined",
        "auto_top_up.resumed",
        "wallet.topped_up",
        "auto_top_up_rule.set",
        "auto_top_up_rule.removed",
    ]


def test_bad_requests(admin: Admin, hooks: Webhooks) -> None:
    for path in ("/low-balance-rules", "/auto-top-up-rules"):
        assert_invalid(admin.put(path, {}), "user_id", "package_id")
        assert_invalid(admin.put(path, {"user_id": "user-1", "package_id": PACKAGE}), "user_id", "package_id")
        assert_invalid(admin.send("DELETE", path), "user_id", "package_id")
        failure(admin.put(path, {"user_id": "nobody"}), 404, "wallet_not_found")
        assert "package_id" in failure(admin.put(path, {"package_id": "nothing"}), 404, "not_found")["errors"]
        for text in NOT_AMOUNTS:
            if text != "null":
                assert_invalid(admin.put(path, f'{{"user_id": "user-1", "below_token": {text}}}'), "below_token")
    low = {"user_id": "user-1"}
    assert_invalid(admin.put("/low-balance-rules", {**low, "below_token": 1, "below_percent": 1}), "below_percent")
    for percent in (0, -1, 100.01, 1.001, "5", True):
        assert_invalid(admin.put("/low-balance-rules", {**low, "below_percent": percent}), "below_percent")
    both = {**low, "below_token": 1, "token": 1}
    assert_invalid(admin.put("/auto-top-up-rules", {**low, "below_token": 1}), "token")
    assert_invalid(admin.put("/auto-top-up-rules", {**low, "token": 1}), "below_token")
    assert_invalid(admin.put("/auto-top-up-rules", {**both, "token_per_month": 0.5}), "token_per_month")
    for field, values in {
        "requests_per_month": (0, 1_001, 1.5, "x"),
        "failures_max": (0, 101),
        "answer_seconds": (59, 30 * 86_400 + 1),
    }.items():
        for value in values:
            assert_invalid(admin.put("/auto-top-up-rules", {**both, field: value}), field)
    assert_invalid(admin.get("/top-up-requests", state="x"), "state")
    missing = "01a20591-939c-7411-9602-9fa0c3c61c49"
    failure(admin.get(f"/top-up-requests/{missing}"), 404, "not_found")
    failure(admin.post(f"/top-up-requests/{missing}/decline", {"reason": "No"}), 404, "not_found")
    failure(admin.get("/wallets/nobody/balance-rules"), 404, "wallet_not_found")
    failure(admin.post("/wallets/nobody/auto-top-up/resume", ""), 404, "wallet_not_found")


def test_from_the_command_line(app: Flask, hooks: Webhooks) -> None:
    def flask(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(cli, ("balance-rules", *arguments))

    def found(*arguments: str) -> Any:
        done = flask(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert found("low-balance", "--package", PACKAGE, "--below-percent", "20")["below_percent"] == 20
    assert found("low-balance", "--user", "user-1", "--off")["below_token"] is None
    rule = found("auto-top-up", "--user", "user-1", "--below-token", "100", "--token", "500")
    assert (rule["token"], rule["token_per_month"]) == (500, 5_000)
    hooks.spend(950)
    [request] = found("requests", "--user", "user-1", "--state", "open")["items"]
    assert found("decline", request["id"], "--reason", "Card refused")["state"] == "declined"
    assert found("show", "user-1")["failed_requests"] == 1
    shown = flask("show", "user-1").output
    assert "off (its own)" in shown
    assert "below_token 100, token 500, requests_per_month 10 (its own)" in shown
    assert found("resume", "user-1")["failed_requests"] == 0
    assert len(found("list")["items"]) == 2
    assert len(found("list", "--kind", "auto-top-up")["items"]) == 1
    assert flask("remove", "auto-top-up", "--user", "user-1").exit_code == 0
    assert flask("remove", "low-balance", "--package", PACKAGE).exit_code == 0
    for arguments in (
        ("low-balance", "--user", "user-1"),
        ("low-balance", "--user", "user-1", "--below-token", "1", "--off"),
        ("low-balance", "--user", "user-1", "--below-percent", "0"),
        ("auto-top-up", "--user", "user-1", "--token", "1"),
        ("auto-top-up", "--user", "user-1", "--token", "5", "--below-token", "1", "--token-per-month", "4"),
    ):
        assert flask(*arguments).exit_code == 2, arguments
    assert flask("remove", "low-balance", "--user", "user-1", "--package", PACKAGE).exit_code == 1
