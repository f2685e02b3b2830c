"""Each ledger entry says when its run was accepted, by which request, and on whose behalf."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.cli import cli
from tests.http.admin import PREFIX, Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing

END = {"user_id": "u", "feature_endpoint_id": FEATURE, "input_token": 1, "output_token": 4}


@pytest.fixture
def service(client: FlaskClient, server_headers: dict[str, str], till: Billing) -> Any:
    """Sends a service server's call."""

    def call(path: str, body: dict[str, Any], **headers: str) -> Any:
        return client.post(f"/api/token-process/{path}", json=body, headers={**server_headers, **headers})

    return call


def entries(admin: Admin) -> list[dict[str, Any]]:
    """Without the opening top-up."""
    return data(admin.get("/wallets/u/transactions"))["items"][:-1]


def test_a_run(admin: Admin, till: Billing, service: Any) -> None:
    service("end", END, **{"X-Request-Id": "request-7", "X-Actor": "chat-server"})
    [end] = till.inbox("u")
    till.execute("UPDATE end_inbox SET accepted_at = '2026-01-02T03:04:05.678Z'")
    till.settle_everything()
    [entry] = entries(admin)
    assert (entry["request_id"], entry["actor"], entry["end_id"]) == ("request-7", "server/chat-server", str(end.id))
    assert entry["accepted_at"] == "2026-01-02T03:04:05.678Z"
    assert entry["created_at"] > entry["accepted_at"]


def test_runs_of_a_batch(admin: Admin, till: Billing, service: Any) -> None:
    answer = service("end/batch", {"ends": [{**END, "idempotency_key": str(i)} for i in range(2)]})
    till.settle_everything()
    assert [(entry["request_id"], entry["actor"]) for entry in entries(admin)] == [
        (answer.headers["X-Request-Id"], "server")
    ] * 2


def test_a_run_that_waited_out_postgres(admin: Admin, till: Billing, service: Any) -> None:
    """It was accepted when it was answered, however late it reached Postgres."""
    container = till.container
    container.loader.load(["u"], container.catalog.epoch)
    before = datetime.now(UTC)
    container.postgres_gate.close(ConnectionError("test"))
    assert service("end", END, **{"X-Request-Id": "request-7"}).status_code == 200
    after = datetime.now(UTC)
    container.postgres_gate.open()
    container.spool_drain.drain()
    [entry] = till.ledger("u")[1:]
    assert before - timedelta(milliseconds=1) <= entry.accepted_at <= after
    assert entry.created_at > entry.accepted_at
    assert (entry.request_id, entry.actor) == ("request-7", "server")


def test_a_repeat_changes_neither(admin: Admin, till: Billing, service: Any) -> None:
    for actor in ("first", "second"):
        answer = service("end", END, **{"Idempotency-Key": "k", "X-Actor": actor, "X-Request-Id": actor})
        assert answer.status_code == 200
    till.settle_everything()
    [entry] = entries(admin)
    assert (entry["request_id"], entry["actor"]) == ("first", "server/first")


def test_a_posting(client: FlaskClient, admin_headers: dict[str, str], till: Billing) -> None:
    body = {"token": 5, "reference": "r"}
    headers = {**admin_headers, "X-Request-Id": "request-8", "X-Actor": "zoë".encode().decode("latin-1")}
    entry = data(client.post(f"{PREFIX}/wallets/u/top-ups", json=body, headers=headers), 201)
    assert (entry["request_id"], entry["actor"], entry["accepted_at"]) == ("request-8", "admin/zoë", None)
    # Who asks again is somebody else, and the posting is the same.
    headers["X-Actor"] = "bob"
    assert data(client.post(f"{PREFIX}/wallets/u/top-ups", json=body, headers=headers), 200) == entry


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("/wallets/u/top-ups", ("token", "reference")),
        ("/wallets/u/refunds", ("token", "reference")),
        ("/wallets/u/adjustments", ("token", "reference")),
        ("/wallets/u/chargebacks", ("token", "reference")),
        (f"/failed-ends/{UUID(int=1)}/write-off", ("reason",)),
        ("/repricings", ("price_id", "reason")),
    ],
)
def test_a_bad_actor_is_told_with_what_else_is_wrong(
    client: FlaskClient, admin_headers: dict[str, str], path: str, missing: tuple[str, ...], till: Billing
) -> None:
    answer = client.post(f"{PREFIX}{path}", json={}, headers={**admin_headers, "X-Actor": ""})
    assert_invalid(answer, *missing, "X-Actor")


def test_a_write_off_is_the_operators_and_its_usage_the_services(
    client: FlaskClient, admin_headers: dict[str, str], admin: Admin, till: Billing, service: Any
) -> None:
    service("end", {**END, "output_token": 400}, **{"X-Request-Id": "run", "X-Actor": "chat-server"})
    [end] = till.inbox("u")
    headers = {**admin_headers, "X-Request-Id": "decision", "X-Actor": "alice"}
    body = {"reason": "Customer left"}
    data(client.post(f"{PREFIX}/failed-ends/{end.id}/write-off", json=body, headers=headers), 201)
    usage, write_off = entries(admin)
    assert (usage["request_id"], usage["actor"]) == ("run", "server/chat-server")
    assert UUID(usage["end_id"]) == UUID(write_off["end_id"]) == end.id
    assert usage["accepted_at"] is not None
    assert (write_off["request_id"], write_off["actor"], write_off["accepted_at"]) == ("decision", "admin/alice", None)


def test_a_command_says_who_ran_it(app: Flask, admin: Admin, till: Billing) -> None:
    runner = app.test_cli_runner()
    for reference, by in (("a", ()), ("b", ("--by", "carol"))):
        command = ("wallets", "top-up", "u", "--token", "1", "--reference", reference, *by)
        assert runner.invoke(cli, command).exit_code == 0
    named, unnamed = entries(admin)
    assert (named["actor"], named["request_id"]) == ("cli/carol", None)
    assert unnamed["actor"] == f"cli/{getpass.getuser()}"


@pytest.mark.parametrize("actor", ["", "x" * 129, "a\u0085b", "a\u202eb"])
def test_no_actor(client: FlaskClient, admin_headers: dict[str, str], till: Billing, actor: str) -> None:
    headers = {**admin_headers, "X-Actor": actor.encode().decode("latin-1")}
    answer = client.post(f"{PREFIX}/wallets/u/top-ups", json={"token": 5, "reference": "r"}, headers=headers)
    assert list(failure(answer, 400, "validation_failed")["errors"]) == ["X-Actor"]
