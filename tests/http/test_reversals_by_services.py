"""Reversals that a service server asks for, within the time that the feature endpoint allows."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.http.admin import Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved

PATH = "/api/token-process/end/reverse"
BODY = {"user_id": "u", "reference": "retry-1", "reason": "The answer was empty"}


@pytest.fixture
def allowed(admin: Admin, till: Billing) -> Billing:
    assert data(admin.patch(f"/feature-endpoints/{FEATURE}", {"reversal_seconds": 600}))["reversal_seconds"] == 600
    return till


def ended(till: Billing, **keys: Any) -> None:
    till.container.end.end(till.usage("u", **keys))


class TestReverse:
    @pytest.mark.parametrize("is_settled", [True, False])
    @pytest.mark.parametrize(
        "keys", [{"process_id": "p"}, {"idempotency_key": "k"}, {"process_id": "p", "idempotency_key": "k"}]
    )
    def test_by_the_keys_of_the_end(
        self,
        client: FlaskClient,
        server_headers: dict[str, str],
        allowed: Billing,
        keys: dict[str, str],
        is_settled: bool,
    ) -> None:
        ended(allowed, process_id="p", idempotency_key="k")
        if is_settled:
            allowed.settle_everything()
        response = client.post(PATH, json={**BODY, **keys}, headers={**server_headers, "X-Actor": "chat-server"})
        first = data(response, 201)
        assert (first["kind"], first["token"], first["reference"], first["actor"]) == (
            "reversal",
            11,
            "retry-1",
            "server/chat-server",
        )
        again = client.post(PATH, json={**BODY, **keys}, headers=server_headers)
        assert data(again, 200) == first
        assert again.headers["Idempotent-Replayed"] == "true"
        assert allowed.balance("u").posted_micros == 20_000_000
        assert_conserved(allowed, "u")

    def test_not_unless_it_is_allowed(self, client: FlaskClient, server_headers: dict[str, str], till: Billing) -> None:
        ended(till, process_id="p")
        failure(
            client.post(PATH, json={**BODY, "process_id": "p"}, headers=server_headers), 403, "reversal_not_allowed"
        )
        till.settle_everything()
        failure(
            client.post(PATH, json={**BODY, "process_id": "p"}, headers=server_headers), 403, "reversal_not_allowed"
        )
        assert till.balance("u").posted_micros == 9_000_000

    def test_not_later_but_what_was_done_is_answered(
        self, client: FlaskClient, server_headers: dict[str, str], allowed: Billing
    ) -> None:
        ended(allowed, process_id="p")
        ended(allowed, process_id="q", output_tokens=0)
        first = data(client.post(PATH, json={**BODY, "process_id": "p"}, headers=server_headers), 201)
        allowed.execute("UPDATE end_inbox SET accepted_at = now() - interval '601 seconds'")
        failure(
            client.post(PATH, json={**BODY, "process_id": "q"}, headers=server_headers), 403, "reversal_not_allowed"
        )
        allowed.execute(f"UPDATE feature_endpoints SET reversal_seconds = 0 WHERE id = '{FEATURE}'")
        assert data(client.post(PATH, json={**BODY, "process_id": "p"}, headers=server_headers), 200) == first

    def test_only_of_its_user_and_only_one_end(
        self, client: FlaskClient, server_headers: dict[str, str], allowed: Billing
    ) -> None:
        allowed.wallet("v")
        ended(allowed, process_id="p", idempotency_key="k")
        ended(allowed, process_id="q", idempotency_key="l", output_tokens=4)
        for keys in (
            {"process_id": "unknown"},
            {"user_id": "v", "process_id": "p"},
            {"process_id": "p", "idempotency_key": "l"},
            {"process_id": "p", "idempotency_key": "unknown"},
        ):
            failure(client.post(PATH, json={**BODY, **keys}, headers=server_headers), 404, "not_found")

    def test_an_end_that_redis_still_keeps(
        self, client: FlaskClient, server_headers: dict[str, str], allowed: Billing
    ) -> None:
        allowed.container.redis_client.hset("tokentill:spool", "some-end", "kept")
        answer = client.post(PATH, json={**BODY, "process_id": "p"}, headers=server_headers)
        failure(answer, 503, "temporarily_unavailable")

    def test_bad_requests(self, client: FlaskClient, server_headers: dict[str, str], allowed: Billing) -> None:
        keys = ("process_id", "idempotency_key")
        assert_invalid(client.post(PATH, json={}, headers=server_headers), "user_id", "reference", "reason", *keys)
        assert_invalid(client.post(PATH, json=BODY, headers=server_headers), "process_id", "idempotency_key")
        for field in ("user_id", "reference", "reason", "process_id", "idempotency_key"):
            for value in ("", 5, "x" * 1_001, "a\nb"):
                body = {**BODY, "process_id": "p", field: value}
                assert_invalid(client.post(PATH, json=body, headers=server_headers), field)

    def test_bad_windows(self, admin: Admin, till: Billing) -> None:
        for value in (None, -1, 1.5, "5", True, 31_536_001):
            assert_invalid(
                admin.patch(f"/feature-endpoints/{FEATURE}", {"reversal_seconds": value}), "reversal_seconds"
            )
