"""API keys over the admin API and by command: made, listed, rotated, revoked, and what each may do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.bootstrap import Container
from app.cli import cli
from app.domain.keys import SCOPES_OF_KIND, KeyKind, KeyScope
from app.http.scopes import SCOPES
from tests.http.admin import PREFIX, Admin, assert_invalid, data, failure
from tests.http.token_process import END, START, end_body, start_body
from tests.support import Billing

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make(admin: Admin) -> Make:
    """Makes a key; what was answered."""

    def made(name: str = "chat", kind: str = "service", **more: Any) -> dict[str, Any]:
        return data(admin.post("/keys", {"name": name, "kind": kind, **more}), 201)

    return made


def operator(client: FlaskClient, key: str) -> Admin:
    return Admin(client, {"x-admin-api-key": key})


class TestMaking:
    def test_the_key_is_told_once_and_kept_as_a_hash(self, admin: Admin, make: Make, container: Container) -> None:
        response = admin.post("/keys", {"name": "chat", "kind": "service"})
        assert response.headers["Cache-Control"] == "no-store"
        made = data(response, 201)
        key = made.pop("key")
        assert key.startswith(f"tt_service_{made['id']}_")
        created_at = made.pop("created_at")
        assert created_at.endswith("Z")
        assert made == {
            "id": made["id"],
            "name": "chat",
            "kind": "service",
            "scopes": ["billing", "estimate"],
            "state": "active",
            "source": "database",
            "created_by": "admin",
            "expires_at": None,
            "revoked_at": None,
            "revoked_by": None,
            "replaces": None,
            "replaced_by": None,
            "last_used_at": None,
            "last_used_address": None,
        }
        assert data(admin.get(f"/keys/{made['id']}")) == {**made, "created_at": created_at}
        with container.engine.connect() as connection:
            for table in ("api_keys", "audit_log"):
                rows = connection.exec_driver_sql(f"SELECT t::text FROM {table} AS t").scalars().all()
                assert rows
                assert key[-43:] not in " ".join(rows)

    def test_opens_from_then_on(self, client: FlaskClient, make: Make, shop: Billing) -> None:
        headers = {"x-server-api-key": make()["key"]}
        assert client.post(START, json=start_body(), headers=headers).status_code == 200
        assert client.post("/api/token-process/estimate", json=end_body(), headers=headers).status_code == 200

    @pytest.mark.parametrize(
        ("body", "fields"),
        [
            ({}, ["name", "kind"]),
            ({"name": "a/b", "kind": "robot"}, ["name", "kind"]),
            ({"name": "admin", "kind": "service"}, ["name"]),
            ({"name": "a", "kind": "operator"}, ["scopes"]),
            ({"name": "a", "kind": "operator", "scopes": ["billing"]}, ["scopes"]),
            ({"name": "a", "kind": "service", "scopes": ["read"]}, ["scopes"]),
            ({"name": "a", "kind": "service", "scopes": []}, ["scopes"]),
            ({"name": "a", "kind": "service", "scopes": "billing"}, ["scopes"]),
            ({"name": "a", "kind": "service", "scopes": [1]}, ["scopes"]),
            ({"name": "a", "kind": "service", "expires_at": "2020-01-01"}, ["expires_at"]),
            ({"name": "a", "kind": "service", "expires_at": 7}, ["expires_at"]),
        ],
    )
    def test_refused(self, admin: Admin, body: dict[str, Any], fields: list[str]) -> None:
        assert_invalid(admin.post("/keys", body), *fields)

    def test_a_name_is_one_keys_at_a_time(self, admin: Admin, make: Make) -> None:
        first = make("Chat")
        failure(admin.post("/keys", {"name": "chat", "kind": "operator", "scopes": ["read"]}), 409, "already_exists")
        admin.post(f"/keys/{first['id']}/revoke", {})
        assert make("chat")["id"] != first["id"]

    def test_lists(self, admin: Admin, make: Make) -> None:
        make("chat")
        make("night", "operator", scopes=["audit", "read"], expires_at="2999-01-01")
        found = admin.items("/keys", limit=1)
        assert [(key["name"], key["source"]) for key in found] == [
            ("night", "database"),
            ("chat", "database"),
            ("admin", "environment"),
            ("server", "environment"),
        ]
        assert found[0]["scopes"] == ["read", "audit"]
        assert found[0]["expires_at"] == "2999-01-01T00:00:00.000Z"
        assert set(found[3]["scopes"]) == SCOPES_OF_KIND[KeyKind.SERVICE]
        assert [key["name"] for key in admin.items("/keys", kind="service")] == ["chat", "server"]
        assert [key["name"] for key in admin.items("/keys", name="night", state="active")] == ["night"]
        assert admin.items("/keys", state="revoked") == []
        assert_invalid(admin.get("/keys", kind="x", state="y", colour="z"), "colour")
        assert_invalid(admin.get("/keys", kind="x", state="y"), "kind", "state")
        assert "night" in admin.get("/keys", accept="text/csv").text

    def test_unknown(self, admin: Admin) -> None:
        for response in (admin.get("/keys/x"), admin.post("/keys/x/revoke", {}), admin.post("/keys/x/rotate", {})):
            failure(response, 404, "not_found")


class TestRevoking:
    def test_opens_nothing_any_more(self, client: FlaskClient, admin: Admin, make: Make, shop: Billing) -> None:
        made = make()
        headers = {"x-server-api-key": made["key"]}
        assert client.post(END, json=end_body(), headers=headers).status_code == 200
        revoked = data(admin.post(f"/keys/{made['id']}/revoke", {}))
        assert (revoked["state"], revoked["revoked_by"]) == ("revoked", "admin")
        for path, body in ((END, end_body()), (START, start_body()), ("/api/token-process/estimate", end_body())):
            failure(client.post(path, json=body, headers=headers), 401, "invalid_api_key")
        # Once more changes nothing.
        assert data(admin.post(f"/keys/{made['id']}/revoke", {})) == revoked
        assert len(admin.items("/audit-log", action="key.revoked")) == 1

    @pytest.mark.parametrize("key_id", ["server", "admin"])
    @pytest.mark.parametrize("change", ["revoke", "rotate"])
    def test_those_of_the_environment_are_changed_there(self, admin: Admin, key_id: str, change: str) -> None:
        body = failure(admin.post(f"/keys/{key_id}/{change}", {}), 409, "key_not_changeable")
        assert "_API_KEY" in body["message"]


class TestRotating:
    def test_both_open_until_the_overlap_is_over(
        self, client: FlaskClient, admin: Admin, make: Make, shop: Billing
    ) -> None:
        old = make(scopes=["billing"], expires_at="2999-01-01")
        new = data(admin.post(f"/keys/{old['id']}/rotate", {"overlap_seconds": 3_600}), 201)
        assert (new["name"], new["scopes"], new["replaces"]) == ("chat", ["billing"], old["id"])
        # As long as the old one was made for.
        assert new["expires_at"][:3] == "299"
        for key in (old, new):
            response = client.post(START, json=start_body(), headers={"x-server-api-key": key["key"]})
            assert response.status_code == 200
        ending = data(admin.get(f"/keys/{old['id']}"))
        assert ending["replaced_by"] == new["id"]
        assert ending["expires_at"] < "2999"

    def test_without_an_overlap_the_old_one_is_over_at_once(
        self, client: FlaskClient, admin: Admin, make: Make, shop: Billing
    ) -> None:
        old = make()
        new = data(admin.post(f"/keys/{old['id']}/rotate", {"overlap_seconds": 0}), 201)
        assert new["expires_at"] is None
        statuses = [
            client.post(START, json=start_body(), headers={"x-server-api-key": key["key"]}).status_code
            for key in (old, new)
        ]
        assert statuses == [401, 200]
        assert data(admin.get(f"/keys/{old['id']}"))["state"] == "expired"

    def test_only_what_is_in_force_and_was_not_rotated(self, admin: Admin, make: Make) -> None:
        old = make()
        new = data(admin.post(f"/keys/{old['id']}/rotate", {}), 201)
        body = failure(admin.post(f"/keys/{old['id']}/rotate", {}), 409, "key_not_changeable")
        assert new["id"] in body["message"]
        data(admin.post(f"/keys/{new['id']}/revoke", {}))
        failure(admin.post(f"/keys/{new['id']}/rotate", {}), 409, "key_not_changeable")

    @pytest.mark.parametrize(
        "body", [{"overlap_seconds": -1}, {"overlap_seconds": 30 * 86_400 + 1}, {"overlap_seconds": "1"}]
    )
    def test_refused(self, admin: Admin, make: Make, body: dict[str, Any]) -> None:
        assert_invalid(admin.post(f"/keys/{make()['id']}/rotate", body), "overlap_seconds")


class TestScopes:
    def test_each_route_opens_to_its_scope_alone(self, client: FlaskClient, admin: Admin, make: Make) -> None:
        """A key with all scopes but the route's is told which one it lacks, whatever the route is asked."""
        scopes = {scope for route, scope in SCOPES.items()}
        keys = {}
        for scope in scopes:
            kind = next(kind for kind in KeyKind if scope in SCOPES_OF_KIND[kind])
            others = sorted(SCOPES_OF_KIND[kind] - {scope})
            keys[scope] = make(f"all-but-{scope}", kind, scopes=others)["key"]
        for route, scope in SCOPES.items():
            method, rule = route.split(" ")
            path = re.sub(r"<uuid:\w+>", "01890a5d-ac96-774b-bcce-b302099a8057", rule)
            path = re.sub(r"<\w+(?::\w+)?>", "x", re.sub(r"<int:\w+>", "1", path))
            header = "x-server-api-key" if scope in SCOPES_OF_KIND[KeyKind.SERVICE] else "x-admin-api-key"
            response = client.open(
                path,
                method=method,
                json={},
                headers={header: keys[scope]},
                # Metrics are for whoever is on this machine, too.
                environ_base={"REMOTE_ADDR": "192.0.2.1"},
            )
            body = failure(response, 403, "key_not_allowed")
            assert scope in body["message"].split(), route

    def test_one_with_the_scope_goes_on(self, client: FlaskClient, make: Make, shop: Billing) -> None:
        reader = operator(client, make("reader", "operator", scopes=["read"])["key"])
        data(reader.get("/wallets/user-1"))
        failure(reader.patch("/wallets/user-1", {"status": "closed"}), 403, "key_not_allowed")
        failure(reader.get("/keys"), 403, "key_not_allowed")
        failure(reader.get("/audit-log"), 403, "key_not_allowed")
        failure(reader.get("/nothing"), 404, "not_found")
        failure(reader.delete("/wallets"), 405, "method_not_allowed")
        assert reader.send("OPTIONS", "/wallets").status_code == 200
        assert reader.send("HEAD", "/wallets").status_code == 200
        assert reader.send("HEAD", "/keys").status_code == 403

    def test_a_service_key_opens_nothing_of_operators_and_the_other_way_round(
        self, client: FlaskClient, make: Make
    ) -> None:
        service, reader = make()["key"], make("reader", "operator", scopes=["read"])["key"]
        response = client.get(f"{PREFIX}/wallets", headers={"x-admin-api-key": service})
        assert failure(response, 401, "invalid_api_key")["message"] == "Invalid admin API key"
        response = client.post(START, json=start_body(), headers={"x-server-api-key": reader})
        assert failure(response, 401, "invalid_api_key")["message"] == "Invalid server API key"

    def test_nobody_gives_more_than_they_have(self, client: FlaskClient, admin: Admin, make: Make) -> None:
        strong = make("strong", "operator", scopes=["wallets"])
        maker = operator(client, make("maker", "operator", scopes=["keys", "read"])["key"])
        refused = maker.post("/keys", {"name": "x", "kind": "operator", "scopes": ["read", "wallets"]})
        assert "wallets" in failure(refused, 403, "key_not_allowed")["message"]
        # A rotation hands a key out, too.
        failure(maker.post(f"/keys/{strong['id']}/rotate", {}), 403, "key_not_allowed")
        assert data(admin.get(f"/keys/{strong['id']}"))["state"] == "active"
        data(maker.post("/keys", {"name": "x", "kind": "operator", "scopes": ["read", "keys"]}), 201)
        data(maker.post("/keys", {"name": "y", "kind": "service"}), 201)
        data(maker.post(f"/keys/{strong['id']}/revoke", {}))


def test_what_is_posted_is_the_keys(client: FlaskClient, admin: Admin, make: Make, shop: Billing) -> None:
    service = {"x-server-api-key": make("chat")["key"]}
    client.post(END, json=end_body(), headers={**service, "X-Actor": "tenant-7"})
    client.post(END, json=end_body(), headers=service)
    shop.settle_everything()
    operators = operator(client, make("billing-desk", "operator", scopes=["wallets"])["key"])
    posted = data(operators.post("/wallets/user-1/top-ups", {"token": 1, "reference": "r"}), 201)
    assert posted["actor"] == "billing-desk"
    actors = [entry["actor"] for entry in admin.items("/wallets/user-1/transactions")[:3]]
    assert actors == ["billing-desk", "chat", "chat/tenant-7"]


def test_when_a_key_was_last_used(
    client: FlaskClient, admin: Admin, make: Make, container: Container, shop: Billing
) -> None:
    made = make()
    # In front of Flask, and behind it.
    client.post(START, json=start_body(), headers={"x-server-api-key": made["key"]})
    container.keys.write_uses_now()
    keys = {key["id"]: key for key in admin.items("/keys")}
    for key_id in (made["id"], "admin"):
        assert keys[key_id]["last_used_at"] >= keys[key_id]["created_at"]
        assert keys[key_id]["last_used_address"] == "127.0.0.1"
    assert keys["server"]["last_used_at"] is None


class TestCommands:
    @pytest.fixture
    def run(self, app: Flask) -> Callable[..., Any]:
        runner = app.test_cli_runner()
        return lambda *arguments: runner.invoke(cli, ("keys", *arguments))

    def test_from_making_to_revoking(self, run: Callable[..., Any], client: FlaskClient, shop: Billing) -> None:
        done = run("create", "chat", "--kind", "service", "--by", "anna", "--json")
        made = json.loads(done.stdout)
        assert (made["created_by"], made["scopes"]) == ("cli/anna", ["billing", "estimate"])
        rotated = json.loads(run("rotate", made["id"], "--overlap-seconds", "60", "--json").stdout)
        assert rotated["replaces"] == made["id"]
        table = run("list", "--name", "chat")
        assert made["id"] in table.stdout
        assert "tt_service" not in table.stdout
        assert json.loads(run("show", made["id"], "--json").stdout)["replaced_by"] == rotated["id"]
        assert "revoked" in run("revoke", made["id"]).stdout
        statuses = [
            client.post(START, json=start_body(), headers={"x-server-api-key": key["key"]}).status_code
            for key in (made, rotated)
        ]
        assert statuses == [401, 200]

    def test_as_text_it_says_to_keep_it(self, run: Callable[..., Any]) -> None:
        done = run("create", "night", "--kind", "operator", "--scope", "read", "--expires-at", "2999-01-01")
        assert "tt_operator_" in done.stdout
        assert done.stderr == "Keep the key now: it is told this once.\n"

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("create", "a/b", "--kind", "service"), 2),
            (("create", "a", "--kind", "operator"), 2),
            (("create", "a", "--kind", "service", "--scope", "read"), 2),
            (("create", "a", "--kind", "service", "--expires-at", "2020-01-01"), 1),
            (("show", "x"), 1),
            (("revoke", "server"), 1),
            (("rotate", "x"), 1),
        ],
    )
    def test_refusals_are_one_line(self, run: Callable[..., Any], arguments: tuple[str, ...], code: int) -> None:
        done = run(*arguments)
        assert done.exit_code == code
        assert done.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_scopes_are_told_in_one_order(make: Make) -> None:
    shuffled = ["keys", "metrics", "read", "audit", "read"]
    assert make("a", "operator", scopes=shuffled)["scopes"] == [
        KeyScope.READ,
        KeyScope.KEYS,
        KeyScope.AUDIT,
        KeyScope.METRICS,
    ]
