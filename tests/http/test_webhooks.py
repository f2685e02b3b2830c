"""Webhooks over the admin API and from the command line: endpoints, events, deliveries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from standardwebhooks import Webhook

from app.cli import cli
from tests.http.admin import Admin, assert_invalid, data, failure
from tests.receivers import Receiver, receiver
from tests.support import Billing
from tests.webhooks_shop import Webhooks


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def hooks(billing: Billing) -> Webhooks:
    billing.catalog()
    billing.wallet(tokens=1_000)
    return Webhooks(billing)


def create(admin: Admin, url: str, **fields: Any) -> dict[str, Any]:
    return data(admin.post("/webhook-endpoints", {"url": url, **fields}), 201)


def actions(admin: Admin, number: int) -> list[str]:
    """What the audit log tells of an endpoint, oldest first."""
    items = data(admin.get("/audit-log", subject_kind="webhook_endpoint", subject_id=number))["items"]
    return [item["action"] for item in items[::-1]]


def test_from_an_endpoint_to_an_event_that_was_delivered(admin: Admin, hooks: Webhooks, there: Receiver) -> None:
    made = create(admin, there.url, event_types=["wallet.topped_up"], description="The shop")
    secret = made.pop("secret")
    assert made["state"] == "enabled"
    assert (made["url"], made["event_types"], made["description"]) == (there.url, ["wallet.topped_up"], "The shop")
    number = made["id"]
    # Never again.
    shown = data(admin.get(f"/webhook-endpoints/{number}"))
    assert shown == made == data(admin.get("/webhook-endpoints"))["items"][0]
    assert secret not in json.dumps(shown, default=str)

    top_up = {"token": 5, "reference": "invoice-17"}
    data(admin.post("/wallets/user-1/top-ups", top_up), 201)
    hooks.deliver()
    [received] = there.received
    Webhook(secret).verify(received.body, received.headers)
    [event] = data(admin.get("/webhook-events"))["items"]
    assert (event["id"], event["type"], event["user_id"]) == (received.id, "wallet.topped_up", "user-1")
    assert event["data"] == received.payload["data"]
    story = data(admin.get(f"/webhook-events/{event['id']}"))
    [delivery] = story["deliveries"]
    [answer] = delivery["answers"]
    assert (delivery["state"], answer["status"], answer["error"]) == ("delivered", 204, None)
    assert data(admin.get(f"/webhook-deliveries/{delivery['id']}")) == delivery
    assert data(admin.get(f"/webhook-endpoints/{number}"))["last_delivered_at"] is not None


def test_changing_disabling_enabling_rotating_deleting(admin: Admin, hooks: Webhooks) -> None:
    made = create(admin, "http://127.0.0.1:1/")
    path = f"/webhook-endpoints/{made['id']}"
    changed = data(admin.patch(path, {"event_types": ["wallet.depleted"], "url": "http://127.0.0.1:2/"}))
    assert (changed["url"], changed["event_types"]) == ("http://127.0.0.1:2/", ["wallet.depleted"])
    data(admin.patch(path, {}))
    disabled = data(admin.post(f"{path}/disable", ""))
    assert (disabled["state"], disabled["disabled_reason"]) == ("disabled", "operator")
    failure(admin.post(f"{path}/test", ""), 409, "not_ready")
    enabled = data(admin.post(f"{path}/enable", ""))
    assert (enabled["state"], enabled["disabled_reason"], enabled["disabled_at"]) == ("enabled", None, None)
    rotated = data(admin.post(f"{path}/rotate-secret", {"overlap_seconds": 60}))
    assert rotated["secret"] != made["secret"]
    newest, old = rotated["secrets"]
    assert (newest["expires_at"], old["id"], old["expires_at"] is None) == (None, made["secrets"][0]["id"], False)
    own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert data(admin.post(f"{path}/rotate-secret", {"secret": own, "overlap_seconds": 0}))["secret"] == own
    data(admin.post(f"{path}/test", ""), 202)
    data(admin.send("DELETE", path))
    failure(admin.get(path), 404, "not_found")
    assert data(admin.get("/webhook-endpoints"))["items"] == []
    assert actions(admin, made["id"]) == [
        "webhook_endpoint.created",
        "webhook_endpoint.updated",
        "webhook_endpoint.disabled",
        "webhook_endpoint.enabled",
        "webhook_endpoint.secret_rotated",
        "webhook_endpoint.secret_rotated",
        "webhook_endpoint.tested",
        "webhook_endpoint.deleted",
    ]
    everything = json.dumps(data(admin.get("/audit-log"))["items"], default=str)
    for secret in (made["secret"], rotated["secret"], own):
        assert secret not in everything


def test_what_an_endpoint_did_to_itself_stands_in_its_history(admin: Admin, hooks: Webhooks, there: Receiver) -> None:
    there.answer = 410
    number = create(admin, there.url)["id"]
    hooks.top_up(1, "a")
    hooks.deliver()
    assert actions(admin, number) == ["webhook_endpoint.created", "webhook_endpoint.disabled"]
    [entry, _] = data(admin.get("/audit-log", subject_kind="webhook_endpoint", subject_id=number))["items"]
    assert entry["actor"] == "tokentill"
    assert entry["after"] == {"state": "disabled", "disabled_reason": "gone", "last_error": "status"}


def test_filters_and_replays(admin: Admin, hooks: Webhooks, there: Receiver) -> None:
    there.answer, there.body = 500, b"Oh no"
    number = create(admin, there.url)["id"]
    other = create(admin, "http://127.0.0.1:1/", event_types=["wallet.depleted"])["id"]
    hooks.top_up(1, "a")
    hooks.spend(2_000)
    hooks.deliver()
    types = [event["type"] for event in admin.items("/webhook-events", limit=1)]
    assert types == ["wallet.depleted", "wallet.topped_up"]
    for query, found in [
        ({"type": "wallet.topped_up"}, 1),
        ({"user_id": "user-1"}, 2),
        ({"user_id": "user-2"}, 0),
        ({"endpoint_id": other}, 1),
        ({"endpoint_id": number, "state": "pending"}, 2),
        ({"state": "delivered"}, 0),
        ({"from": "2000-01-01", "to": "2999-01-01"}, 2),
        ({"from": "2999-01-01"}, 0),
    ]:
        assert len(data(admin.get("/webhook-events", **query))["items"]) == found, query
    for query, found in [
        ({}, 3),
        ({"endpoint_id": number}, 2),
        ({"state": "failed"}, 0),
        ({"type": "wallet.depleted", "user_id": "user-1"}, 2),
        ({"event_id": str(hooks.events()[0].id)}, 1),
    ]:
        assert len(admin.items("/webhook-deliveries", limit=1, **query)) == found, query
    table = admin.get("/webhook-deliveries", accept="text/csv").get_data(as_text=True).splitlines()
    assert (table[0].split(",")[:3], len(table)) == (["id", "event_id", "type"], 4)
    assert admin.get("/webhook-events", accept="text/csv").status_code == 200

    hooks.billing.execute_in_postgres("UPDATE webhook_deliveries SET state = 'failed', finished_at = now()")
    path = f"/webhook-endpoints/{number}/replay"
    assert data(admin.post(path, {"from": "2020-01-01"}), 202) == {"events": 2}
    assert data(admin.post(path, {"from": "2020-01-01"}), 202) == {"events": 0}
    event_id = hooks.events("wallet.topped_up")[0].id
    there.answer = 200
    assert data(admin.post(f"/webhook-events/{event_id}/replay", {"endpoint_id": number}), 202)["id"] == str(event_id)
    data(admin.post(f"/webhook-events/{event_id}/replay", ""), 202)
    hooks.deliver()
    [delivery] = data(admin.get(f"/webhook-events/{event_id}"))["deliveries"]
    assert [(one["status"], one["excerpt"]) for one in delivery["answers"]] == [(500, "Oh no"), (200, "Oh no")]


def test_bad_requests(admin: Admin, hooks: Webhooks) -> None:
    assert_invalid(admin.post("/webhook-endpoints", {}), "url")
    for url in ("nonsense", "ftp://a.example/", "http://u:p@a.example/", "", 5, None, "http://a.example/#x"):
        assert_invalid(admin.post("/webhook-endpoints", {"url": url}), "url")
    good = {"url": "http://127.0.0.1:1/"}
    for value in ("wallet.topped_up", {}, None):
        assert_invalid(admin.post("/webhook-endpoints", {**good, "event_types": value}), "event_types")
    for value in ("wallet.*", "webhook.test", "", 5):
        assert_invalid(admin.post("/webhook-endpoints", {**good, "event_types": [value]}), "event_types.0")
    for value in ("secret", "whsec_x", 5, "whsec_" + "A" * 200):
        assert_invalid(admin.post("/webhook-endpoints", {**good, "secret": value}), "secret")
    assert hooks.deliveries() == []
    number = create(admin, **good)["id"]
    path = f"/webhook-endpoints/{number}"
    assert_invalid(admin.patch(path, {"url": "nonsense"}), "url")
    assert_invalid(
        admin.post(f"{path}/rotate-secret", {"overlap_seconds": -1, "secret": ""}), "overlap_seconds", "secret"
    )
    assert_invalid(admin.post(f"{path}/replay", {}), "from")
    assert_invalid(admin.post(f"{path}/replay", {"from": "2020-01-02", "to": "2020-01-01"}), "to")
    assert_invalid(admin.get("/webhook-events", type="x", state="y", endpoint_id="z"), "type", "state", "endpoint_id")
    assert_invalid(admin.get("/webhook-deliveries", event_id="x", limit=0), "event_id")
    assert_invalid(admin.get("/webhook-events", cursor="x"), "cursor")
    event_id = "01a20591-939c-7411-9602-9fa0c3c61c49"
    for method, missing in [
        ("GET", "/webhook-endpoints/999"),
        ("GET", f"/webhook-endpoints/{2**64}"),
        ("DELETE", "/webhook-endpoints/999"),
        ("POST", "/webhook-endpoints/999/enable"),
        ("POST", "/webhook-endpoints/999/disable"),
        ("POST", "/webhook-endpoints/999/test"),
        ("GET", f"/webhook-events/{event_id}"),
        ("POST", f"/webhook-events/{event_id}/replay"),
        ("GET", "/webhook-deliveries/999"),
        ("GET", f"/webhook-deliveries/{2**64}"),
    ]:
        failure(admin.send(method, missing), 404, "not_found")


def test_https_and_public_only_unless_allowed(admin: Admin, hooks: Webhooks) -> None:
    hooks.container.webhook_endpoints._allow_private = False
    for url in ("http://shop.example/", "https://127.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://localhost/"):
        assert_invalid(admin.post("/webhook-endpoints", {"url": url}), "url")
    create(admin, "https://shop.example/hooks")


def test_from_the_command_line(app: Flask, hooks: Webhooks, there: Receiver) -> None:
    def flask(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(cli, ("webhooks", *arguments))

    def found(*arguments: str) -> Any:
        done = flask(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    made = found("endpoints", "create", there.url, "--event", "wallet.topped_up", "--description", "The shop")
    number = str(made["id"])
    assert made["secret"].startswith("whsec_")
    hooks.top_up(5, "a")
    hooks.deliver()
    [event] = found("events", "list", "--type", "wallet.topped_up")["items"]
    assert found("events", "show", event["id"])["deliveries"][0]["state"] == "delivered"
    assert "204" in flask("events", "show", event["id"]).output
    found("events", "replay", event["id"], "--endpoint", number)
    hooks.deliver()
    assert len(there.received) == 2
    assert len(found("deliveries", "--endpoint", number, "--state", "delivered")["items"]) == 1
    assert found("endpoints", "disable", number)["state"] == "disabled"
    hooks.top_up(5, "b")
    assert found("endpoints", "enable", number)["state"] == "enabled"
    assert "1" in flask("endpoints", "replay", number, "--from", "2020-01-01").output
    hooks.deliver()
    assert [one.payload["data"]["reference"] for one in there.received] == ["a", "a", "b"]
    assert found("endpoints", "rotate-secret", number)["secret"] != made["secret"]
    assert found("endpoints", "update", number, "--all-events")["event_types"] == []
    assert found("endpoints", "test", number)["type"] == "webhook.test"
    assert there.url in flask("endpoints", "list").output
    for shown in (("endpoints", "show", number), ("endpoints", "rotate-secret", number), ("endpoints", "test", number)):
        assert flask(*shown).exit_code == 0, shown
    assert flask("endpoints", "delete", number).exit_code == 0
    gone = flask("endpoints", "show", number)
    assert (gone.exit_code, "Webhook endpoint not found" in gone.output) == (1, True)
    bad = flask("endpoints", "create", "nonsense")
    assert (bad.exit_code, "https" in bad.output) == (1, True)
