"""What every route makes of odd requests: characters, ids like paths, query parameters, OPTIONS."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.cli import cli
from app.domain.inputs import WALLET_PARTS
from tests.http.admin import PREFIX, Admin, assert_invalid, data, failure
from tests.support import FEATURE, PACKAGE, Billing

# C0, DEL, C1, line separators, marks, embeddings, overrides and isolates.
UNSEEN = ["\x00", "\n", "\x7f", "\x80", "\x85", "\x9f", "\u2028"]
BIDIRECTIONAL = ["\u061c", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069"]


class TestCharacters:
    @pytest.mark.parametrize("character", [*UNSEEN, *BIDIRECTIONAL], ids=ascii)
    def test_in_no_id_key_or_reference(
        self, client: FlaskClient, server_headers: dict[str, str], admin: Admin, till: Billing, character: str
    ) -> None:
        bad = f"a{character}b"
        assert_invalid(admin.post("/wallets", {"user_id": bad, "package_id": bad}), "user_id", "package_id")
        assert_invalid(admin.post("/feature-endpoints", {"id": bad, "name": "N"}), "id")
        package = {"id": bad, "name": "N", "feature_endpoint_ids": [bad]}
        assert_invalid(admin.post("/packages", package), "id", "feature_endpoint_ids.0")
        rule = {"percentage": 1, "feature_endpoint_id": bad, "model": bad}
        assert_invalid(admin.post("/profit-rules", rule), "feature_endpoint_id", "model")
        assert_invalid(admin.post("/wallets/u/top-ups", {"token": 1, "reference": bad}), "reference")
        assert_invalid(admin.get("/failed-ends", user_id=bad), "user_id")
        failure(admin.get(f"/wallets/{quote(bad)}"), 404, "not_found")
        end = {"user_id": bad, "feature_endpoint_id": bad, "model": bad, "process_id": bad, "idempotency_key": bad}
        answer = client.post(
            "/api/token-process/end/batch",
            json={"ends": [{**end, "input_token": 1, "output_token": 1}]},
            headers=server_headers,
        )
        [result] = data(answer)["results"]
        assert (result["status"], sorted(result["errors"])) == (400, sorted(end))
        assert till.inbox_size() == 0

    @pytest.mark.parametrize("character", BIDIRECTIONAL, ids=ascii)
    def test_names_and_reasons_may_be_written_in_any_direction(
        self, admin: Admin, till: Billing, character: str
    ) -> None:
        name = f"שלום{character}!"
        assert data(admin.post("/feature-endpoints", {"id": "f", "name": name}), 201)["name"] == name
        body = {"token": 1, "reference": "r", "reason": name}
        assert data(admin.post("/wallets/u/top-ups", body), 201)["reason"] == name

    def test_a_header_is_read_as_a_body_is(
        self, client: FlaskClient, server_headers: dict[str, str], till: Billing
    ) -> None:
        """In UTF-8 many letters have a byte that Latin-1 takes for a control character."""
        body = {"user_id": "u", "feature_endpoint_id": FEATURE, "input_token": 1, "output_token": 4}
        sent = "ÀÉ-1".encode().decode("latin-1")
        first = client.post("/api/token-process/end", json=body, headers={**server_headers, "Idempotency-Key": sent})
        assert first.status_code == 200
        ends = {"ends": [{**body, "idempotency_key": "ÀÉ-1"}]}
        [again] = data(client.post("/api/token-process/end/batch", json=ends, headers=server_headers))["results"]
        assert again["idempotent_replayed"] is True
        old = client.post("/api/token-process/end", json=body, headers={**server_headers, "Idempotency-Key": "é"})
        assert old.status_code == 200
        assert {end.idempotency_key for end in till.inbox("u")} == {"ÀÉ-1", "é"}


class TestIdsInPaths:
    @pytest.mark.parametrize("part", WALLET_PARTS)
    @pytest.mark.parametrize("shape", ["x/{}", "x/{}/y", "x/y/{}", "x/{}/"])
    def test_a_wallet_that_another_route_would_answer_for(
        self, admin: Admin, app: Flask, part: str, shape: str
    ) -> None:
        user_id = shape.format(part)
        assert_invalid(admin.post("/wallets", {"user_id": user_id, "package_id": None}), "user_id")
        assert app.test_cli_runner().invoke(cli, ("wallets", "create", user_id)).exit_code == 2

    @pytest.mark.parametrize("id", [".", "..", "a/../b", "./a", "a/."])
    def test_an_id_that_clients_would_shorten(self, admin: Admin, app: Flask, id: str) -> None:
        assert_invalid(admin.post("/wallets", {"user_id": id, "package_id": None}), "user_id")
        assert_invalid(admin.post("/feature-endpoints", {"id": id, "name": "N"}), "id")
        assert_invalid(admin.post("/packages", {"id": id, "name": "N", "feature_endpoint_ids": []}), "id")
        runner = app.test_cli_runner()
        for command in (("wallets", "create", id), ("features", "create", id, "--name", "N")):
            assert runner.invoke(cli, command).exit_code == 2

    @pytest.mark.parametrize("user_id", ["holds", "transactions", "a/b", "a/b/", "a..b", "a/holdsx", "top-ups/x"])
    def test_all_others_lead_to_themselves(self, admin: Admin, till: Billing, user_id: str) -> None:
        created = data(admin.post("/wallets", {"user_id": user_id, "package_id": PACKAGE}), 201)
        path = f"/wallets/{quote(user_id, safe='')}"
        assert data(admin.get(path)) == created
        data(admin.post(f"{path}/top-ups", {"token": 3, "reference": "r"}), 201)
        assert len(data(admin.get(f"{path}/transactions"))["items"]) == 1
        assert till.balance(user_id).posted_micros == 3_000_000

    def test_every_part_below_a_wallet_is_reserved(self, app: Flask) -> None:
        below = {
            match[1]
            for rule in app.url_map.iter_rules()
            if (match := re.match(rf"{PREFIX}/wallets/<[^>]+>/([^/<]+)", rule.rule))
        }
        assert below <= set(WALLET_PARTS)


class TestQuery:
    ADMIN = ("/wallets", "/wallets/u", "/wallets/u/transactions", "/failed-ends", "/reconciliations/1")

    @pytest.mark.parametrize("path", ADMIN)
    def test_an_unknown_parameter(self, admin: Admin, till: Billing, path: str) -> None:
        assert_invalid(admin.get(path, limt="5", form="x"), "limt", "form")

    def test_nothing_is_done_with_one(
        self, client: FlaskClient, admin: Admin, server_headers: dict[str, str], till: Billing
    ) -> None:
        assert_invalid(admin.post("/wallets/u/top-ups?dry_run=1", {"token": 1, "reference": "r"}), "dry_run")
        end = {"user_id": "u", "feature_endpoint_id": FEATURE, "input_token": 1, "output_token": 4}
        assert_invalid(client.post("/api/token-process/end?x=1", json=end, headers=server_headers), "x")
        assert (till.inbox_size(), len(till.ledger("u"))) == (0, 1)

    def test_a_known_one_twice(self, admin: Admin) -> None:
        assert_invalid(admin.get("/wallets", limit=["1", "2"]), "limit")

    def test_the_key_is_asked_for_first(self, client: FlaskClient) -> None:
        failure(client.get(f"{PREFIX}/wallets?x=1"), 401, "invalid_api_key")

    def test_a_route_that_is_none(self, admin: Admin) -> None:
        failure(admin.get("/nothing", x="1"), 404, "not_found")

    def test_health_is_asked_by_all_kinds_of_machines(self, client: FlaskClient) -> None:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path, query_string={"format": "text"}).status_code == 200


class TestOptions:
    @pytest.mark.parametrize(
        ("path", "methods"),
        [
            ("/api/admin/wallets", ["GET", "HEAD", "OPTIONS", "POST"]),
            ("/api/admin/wallets/u/top-ups", ["OPTIONS", "POST"]),
            ("/api/token-process/end", ["OPTIONS", "POST"]),
            ("/healthz", ["GET", "HEAD", "OPTIONS"]),
        ],
    )
    def test_in_the_envelope(
        self,
        client: FlaskClient,
        admin_headers: dict[str, str],
        server_headers: dict[str, str],
        path: str,
        methods: list[str],
    ) -> None:
        response = client.options(path, headers={**admin_headers, **server_headers})
        assert data(response) == {"methods": methods}
        assert sorted(response.allow) == methods
        assert response.headers["X-Request-Id"]

    def test_of_nothing(self, client: FlaskClient, admin_headers: dict[str, str]) -> None:
        failure(client.options(f"{PREFIX}/nothing", headers=admin_headers), 404, "not_found")

    def test_needs_the_key(self, client: FlaskClient) -> None:
        failure(client.options(f"{PREFIX}/wallets"), 401, "invalid_api_key")


def test_every_answer_is_in_the_envelope(app: Flask, admin_headers: dict[str, str]) -> None:
    """Whatever method is tried on whatever route."""
    client = app.test_client()
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith(PREFIX):
            continue
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
            body: Any = client.open(path, method=method, headers=admin_headers).get_json()
            assert isinstance(body["success"], bool), f"{method} {path}"
