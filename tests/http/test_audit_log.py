"""Every change leaves an entry of who, what, when, from where and how it was before; it is read and exported."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.bootstrap import Container
from app.cli import cli
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.http.scopes import SCOPES
from app.stores.postgres import audit, wallets
from tests.http.admin import PREFIX, Admin, assert_invalid, data
from tests.http.token_process import START, start_body
from tests.support import FEATURE, PACKAGE, Billing

Call = Callable[..., TestResponse]
PRICE = {"input_per_million": 1, "output_per_million": 2}
LIST = {
    "gpt-5": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
}
# Sent by POST, and nothing is changed by them.
LOOKING = {"POST /api/admin/prices/estimate"}
# What is used up, which the ledger tells of.
USAGE = {
    f"POST /api/token-process/{call}" for call in ("start", "end", "end/batch", "estimate", "cancel", "hold/extend")
}
# Tested where these calls are: test_webhooks.py and test_balance_rules.py.
ELSEWHERE = (
    "/api/admin/webhook-",
    "/api/admin/low-balance-rules",
    "/api/admin/auto-top-up-rules",
    "/api/admin/top-up-requests",
    "/api/admin/wallets/<id:user_id>/auto-top-up/",
)


@pytest.fixture
def call(client: FlaskClient, admin_headers: dict[str, str]) -> Call:
    """Sends a call of anna's, from 192.0.2.7."""

    def send(route: str, path: str, body: Any = None) -> TestResponse:
        headers = {**admin_headers, "X-Actor": "anna", "X-Request-Id": "request-7"}
        method = route.split(" ", maxsplit=1)[0]
        return client.open(
            PREFIX + path,
            method=method,
            json={} if body is None else body,
            headers=headers,
            environ_base={"REMOTE_ADDR": "192.0.2.7"},
        )

    return send


@pytest.fixture
def owing(shop: Billing) -> str:
    """An end that its wallet can't pay; its id."""
    shop.wallet("poor", tokens=1)
    shop.container.end.end(shop.usage("poor", output_tokens=400))
    shop.settle_everything()
    [end] = shop.inbox("poor")
    return str(end.id)


def settled(shop: Billing) -> str:
    shop.container.end.end(shop.usage("user-1"))
    shop.settle_everything()
    return str(shop.ledger("user-1")[-1].end_id)


def hold(client: FlaskClient, server_headers: dict[str, str]) -> str:
    response = client.post(START, json=start_body(hold_token=5), headers=server_headers)
    return str(data(response)["process_id"])


def made(response: TestResponse) -> Any:
    body = json.loads(response.data)
    assert body["success"], body
    return body["data"]


def changes(
    call: Call, client: FlaskClient, server_headers: dict[str, str], shop: Billing, owing: str
) -> Iterator[tuple[str, str, dict[str, Any], str, str]]:
    """Of each route that changes something: a call, what the audit log calls that, and to what it was done."""
    features = "/feature-endpoints"
    yield f"POST /api/admin{features}", features, {"id": "f", "name": "F"}, "feature_endpoint.created", "f"
    yield f"PATCH /api/admin{features}/<id:feature_id>", f"{features}/f", {"name": "G"}, "feature_endpoint.updated", "f"
    yield (
        "POST /api/admin/packages",
        "/packages",
        {"id": "p", "name": "P", "feature_endpoint_ids": []},
        ("package.created"),
        "p",
    )
    yield (
        "PATCH /api/admin/packages/<id:package_id>",
        "/packages/p",
        {"feature_endpoint_ids": ["f"]},
        ("package.updated"),
        "p",
    )
    yield "POST /api/admin/profit-rules", "/profit-rules", {"percentage": 5}, "profit_rule.created", "*"
    yield "POST /api/admin/prices", "/prices", {"model": "m", **PRICE}, "price.created", "*"
    imported = {"format": "litellm", "tokens_per_dollar": 1_000, "list": LIST}
    yield "POST /api/admin/price-imports", "/price-imports", imported, "price_import.drafted", "1"
    approve = "POST /api/admin/price-imports/<int:number>/approve"
    yield approve, "/price-imports/1/approve", {}, "price_import.approved", "1"
    yield "POST /api/admin/wallets", "/wallets", {"user_id": "w", "package_id": None}, "wallet.created", "w"
    wallet = "PATCH /api/admin/wallets/<wallet:user_id>"
    yield wallet, "/wallets/w", {"status": "suspended"}, "wallet.suspended", "w"
    yield wallet, "/wallets/w", {"status": "active", "overdraft_limit_token": 5}, "wallet.activated", "w"
    yield wallet, "/wallets/w", {"package_id": "p"}, "wallet.updated", "w"
    of_wallet = "POST /api/admin/wallets/<id:user_id>"
    for name, action in (
        ("top-ups", "wallet.topped_up"),
        ("refunds", "wallet.refunded"),
        ("adjustments", "wallet.adjusted"),
        ("chargebacks", "wallet.charged_back"),
    ):
        yield f"{of_wallet}/{name}", f"/wallets/w/{name}", {"token": 1, "reference": name, "reason": "why"}, action, "w"
    top_up = {"package_id": PACKAGE, "token": 1, "reason": "gift"}
    yield "POST /api/admin/top-ups", "/top-ups", {**top_up, "reference": "a"}, "top_up.created", "1"
    yield "POST /api/admin/top-ups/<int:number>/apply", "/top-ups/1/apply", {}, "top_up.applied", "1"
    dry_run = str(made(call("POST", "/top-ups", {**top_up, "reference": "b"}))["id"])
    discard = "DELETE /api/admin/top-ups/<int:number>"
    yield discard, f"/top-ups/{dry_run}", {}, "top_up.discarded", dry_run
    schedules = "/top-up-schedules"
    schedule = {**top_up, "reference": "s", "period": "monthly", "day": 1}
    yield f"POST /api/admin{schedules}", schedules, schedule, "top_up_schedule.created", "1"
    for change, done in (("pause", "paused"), ("resume", "resumed"), ("end", "ended")):
        route = f"POST /api/admin{schedules}/<int:number>/{change}"
        yield route, f"{schedules}/1/{change}", {"reason": "why"}, f"top_up_schedule.{done}", "1"
    process_id = hold(client, server_headers)
    release = "DELETE /api/admin/wallets/<id:user_id>/holds/<process_id>"
    yield release, f"/wallets/user-1/holds/{process_id}", {}, "hold.released", process_id
    first, second = settled(shop), settled(shop)
    correction = {"reference": "r", "reason": "why"}
    of_end = "POST /api/admin/ends/<uuid:end_id>"
    yield f"{of_end}/reversals", f"/ends/{first}/reversals", correction, "end.reversed", first
    usage = {"input_token": 1, "output_token": 4}
    yield f"{of_end}/amendments", f"/ends/{second}/amendments", {**correction, **usage}, "end.amended", second
    price_id = made(call("POST", "/prices", {**PRICE, "model": "n"}))["id"]
    repricing = {"price_id": price_id, "reason": "why"}
    yield "POST /api/admin/repricings", "/repricings", repricing, "repricing.created", "1"
    shop.container.repricings.work_off(60)
    yield "POST /api/admin/repricings/<int:number>/apply", "/repricings/1/apply", {}, "repricing.applied", "1"
    bulk = "/bulk-actions"
    asked = {"action": "write_off", "reference": "b", "reason": "why", "filter": {"user_id": "poor"}}
    yield f"POST /api/admin{bulk}", bulk, asked, "bulk_action.drafted", "1"
    figures = made(call("GET", f"{bulk}/1"))
    confirm = f"POST /api/admin{bulk}/<int:number>/confirm"
    of_all = {"ends": figures["ends"], "cost": figures["cost"]}
    second_draft = made(call("POST", bulk, {**asked, "reference": "c"}))["id"]
    cancel = f"POST /api/admin{bulk}/<int:number>/cancel"
    yield cancel, f"{bulk}/{second_draft}/cancel", {}, "bulk_action.cancelled", str(second_draft)
    failed = "POST /api/admin/failed-ends/<uuid:end_id>"
    yield f"{failed}/replay", f"/failed-ends/{owing}/replay", {}, "failed_end.replayed", owing
    write_off = (f"{failed}/write-off", f"/failed-ends/{owing}/write-off")
    yield *write_off, {"reason": "why"}, "failed_end.written_off", owing
    yield confirm, f"{bulk}/1/confirm", of_all, "bulk_action.confirmed", "1"
    yield "POST /api/admin/reconciliations", "/reconciliations", {}, "reconciliation.requested", "1"
    yield "POST /api/admin/keys", "/keys", {"name": "a", "kind": "service"}, "key.created", "*"
    key_id = made(call("POST", "/keys", {"name": "b", "kind": "service"}))["id"]
    of_key = "POST /api/admin/keys/<key_id>"
    yield f"{of_key}/rotate", f"/keys/{key_id}/rotate", {}, "key.rotated", key_id
    yield f"{of_key}/revoke", f"/keys/{key_id}/revoke", {}, "key.revoked", key_id


class TestWhatIsWritten:
    def test_every_route_that_changes_something(
        self, call: Call, client: FlaskClient, server_headers: dict[str, str], admin: Admin, shop: Billing, owing: str
    ) -> None:
        seen = set()
        for route, path, body, action, subject in changes(call, client, server_headers, shop, owing):
            before = count(shop)
            response = call(route, path, body)
            assert response.status_code < 300, (route, response.text)
            seen.add(route)
            found = [
                entry for entry in admin.items("/audit-log", action=action) if subject in ("*", entry["subject_id"])
            ]
            assert found, route
            entry = found[0]
            assert entry["actor"] == "admin/anna", route
            assert (entry["key_id"], entry["address"], entry["request_id"]) == ("admin", "192.0.2.7", "request-7")
            assert entry["before"] != entry["after"]
            assert count(shop) > before
            # What was done before, and says so, is done by nobody now.
            after = count(shop)
            again = call(route, path, body)
            if again.status_code not in (201, 202) and action != "failed_end.replayed":
                assert count(shop) == after, route
        reversal = "POST /api/token-process/end/reverse"
        changing = {route for route in SCOPES if not route.startswith("GET ")} - LOOKING - USAGE - {reversal}
        changing = {route for route in changing if not route.partition(" ")[2].startswith(ELSEWHERE)}
        assert changing - seen == set(), "these change something: show here that they write it down"

    def test_a_services_own_reversal(
        self, client: FlaskClient, server_headers: dict[str, str], admin: Admin, shop: Billing
    ) -> None:
        data(admin.patch(f"/feature-endpoints/{FEATURE}", {"reversal_seconds": 60}))
        shop.container.end.end(shop.usage("user-1", process_id=None, idempotency_key="k"))
        body = {"user_id": "user-1", "idempotency_key": "k", "reference": "r", "reason": "empty"}
        data(client.post("/api/token-process/end/reverse", json=body, headers=server_headers), 201)
        [entry] = admin.items("/audit-log", action="end.reversed")
        assert (entry["actor"], entry["key_id"]) == ("server", "server")

    def test_what_it_tells(self, admin: Admin, shop: Billing) -> None:
        data(admin.patch("/wallets/user-1", {"status": "suspended", "overdraft_limit_token": 2.5}))
        data(admin.post("/wallets/user-1/top-ups", {"token": 0.25, "reference": "r", "reason": "gift"}), 201)
        data(admin.post("/prices", {"model": "m", **PRICE}), 201)
        price, top_up, suspended = admin.items("/audit-log")
        assert suspended["before"] == {"status": "active", "overdraft_limit_token": 0}
        assert str(suspended["after"]["overdraft_limit_token"]) == "2.5"
        assert (suspended["subject_kind"], suspended["subject_id"]) == ("wallet", "user-1")
        assert top_up["before"] == {"posted_token": 1_000}
        assert str(top_up["after"].pop("posted_token")) == "1000.25"
        assert top_up["after"] == {"reference": "r", "reason": "gift"}
        assert price["before"] is None
        assert price["after"]["input_per_million"] == 1
        assert suspended["at"] < top_up["at"] < price["at"]

    def test_what_changes_nothing_writes_nothing(self, admin: Admin, shop: Billing) -> None:
        data(admin.patch("/wallets/user-1", {"status": "active"}))
        data(admin.patch(f"/packages/{PACKAGE}", {"name": "Basic"}))
        data(admin.patch(f"/feature-endpoints/{FEATURE}", {"name": "Text"}))
        data(admin.patch("/wallets/user-1", {}))
        assert admin.items("/audit-log") == []

    def test_it_is_rolled_back_with_its_transaction(self, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        class Broken(Exception):
            pass

        update = wallets.update

        def break_off(*arguments: Any) -> Any:
            update(*arguments)
            raise Broken

        # After the entry of the audit log, before the end of the transaction.
        monkeypatch.setattr(audit, "write_all", _then(audit.write_all, Broken))
        with pytest.raises(Broken):
            shop.container.postings.post(Posting("user-1", PostingKind.TOP_UP, 1_000_000, "r", caller=Caller("x")))
        with pytest.raises(Broken):
            shop.container.wallet_admin.update("user-1", {"status": "closed"}, Caller("x"))
        monkeypatch.undo()
        monkeypatch.setattr(wallets, "update", break_off)
        with pytest.raises(Broken):
            shop.container.postings.post(Posting("user-1", PostingKind.TOP_UP, 1_000_000, "r", caller=Caller("x")))
        assert count(shop) == 0
        assert shop.balance("user-1").posted_micros == 1_000_000_000

    @pytest.mark.parametrize(
        "statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
    )
    def test_it_is_append_only(self, admin: Admin, shop: Billing, statement: str) -> None:
        data(admin.patch("/wallets/user-1", {"status": "suspended"}))
        with pytest.raises(sa.exc.DBAPIError, match="audit_log is append-only"):
            shop.execute_in_postgres(statement)
        assert count(shop) == 1


class TestReading:
    @pytest.fixture
    def log(self, container: Container) -> list[str]:
        """Five entries, oldest first; their subjects."""
        anna, bob = Caller("admin", key_id="admin", address="192.0.2.1", person="anna"), Caller("administrator")
        with container.engine.begin() as connection:
            for number, (caller, action) in enumerate(
                [
                    (anna, "wallet.suspended"),
                    (bob, "wallet.suspended"),
                    (Caller("admin", request_id="r-3"), "wallet.closed"),
                    (anna, "price.created"),
                    (Caller("a_min/x"), "wallet.closed"),
                ]
            ):
                audit.write(connection, caller, action, (action.split(".")[0], number), after={"number": number})
        return [str(number) for number in range(5)]

    @pytest.mark.parametrize(
        ("filters", "subjects"),
        [
            ({}, "43210"),
            ({"action": "wallet.suspended"}, "10"),
            ({"subject_kind": "price"}, "3"),
            ({"subject_kind": "wallet", "subject_id": "2"}, "2"),
            ({"actor": "admin"}, "320"),
            ({"actor": "admin/anna"}, "30"),
            ({"actor": "a_min"}, "4"),
            ({"actor": "nobody"}, ""),
            ({"key_id": "admin"}, "30"),
            ({"address": "192.0.2.1"}, "30"),
            ({"request_id": "r-3"}, "2"),
            ({"from": "2020-01-01"}, "43210"),
            ({"to": "2020-01-01"}, ""),
            ({"from": "2999-01-01"}, ""),
        ],
    )
    def test_filters(self, admin: Admin, log: list[str], filters: dict[str, str], subjects: str) -> None:
        assert [entry["subject_id"] for entry in admin.items("/audit-log", **filters)] == list(subjects)
        # Page by page, too, and as a table.
        assert [entry["subject_id"] for entry in admin.items("/audit-log", limit=1, **filters)] == list(subjects)
        table = admin.get("/audit-log", accept="text/csv", **filters).text
        rows = list(csv.DictReader(io.StringIO(table)))
        assert [row["subject_id"] for row in rows] == list(subjects)
        assert [json.loads(row["after"]) for row in rows] == [{"number": int(number)} for number in subjects]

    def test_unknown_filters_are_refused(self, admin: Admin) -> None:
        assert_invalid(admin.get("/audit-log", who="anna"), "who")
        assert_invalid(admin.get("/audit-log", **{"from": "x", "actor": "", "limit": "0"}), "actor", "from")

    def test_by_command(self, app: Flask, log: list[str], tmp_path: Path) -> None:
        runner = app.test_cli_runner()

        def run(*arguments: str) -> Any:
            done = runner.invoke(cli, ("audit-log", *arguments))
            assert done.exit_code == 0, done.output
            return done

        found = json.loads(run("list", "--actor", "admin", "--limit", "2", "--json").stdout)
        assert [entry["subject_id"] for entry in found["items"]] == ["3", "2"]
        assert '{"number":0}' in run("list", "--before", "2").stdout
        target = tmp_path / "log.csv"
        run("export", "--action", "wallet.closed", "--output", str(target))
        assert [row["subject_id"] for row in csv.DictReader(io.StringIO(target.read_text()))] == ["4", "2"]
        assert run("export", "--actor", "nobody").stdout.startswith("id,at,action,")


def test_a_command_is_somebodys(app: Flask, admin: Admin, shop: Billing) -> None:
    runner = app.test_cli_runner()
    command = ("wallets", "update", "user-1", "--status", "suspended", "--by", "carol")
    assert runner.invoke(cli, command).exit_code == 0
    [entry] = admin.items("/audit-log")
    assert (entry["actor"], entry["key_id"], entry["action"]) == ("cli/carol", None, "wallet.suspended")
    user, at, host = entry["address"].partition("@")
    assert user
    assert at
    assert host


def count(shop: Billing) -> int:
    with shop.container.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM audit_log").scalar_one())


def _then(write: Callable[..., None], error: type[Exception]) -> Callable[..., None]:
    def written(*arguments: Any) -> None:
        write(*arguments)
        raise error

    return written
