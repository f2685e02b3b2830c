"""end/batch, case by case as the wire contract has it, through the real application and stores."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.http.token_process import BATCH, Headers, assert_failure, end_body, exact
from tests.support import Billing


class TestBatch:
    def test_each_end_has_its_own_answer(self, shop: Billing, client: FlaskClient, server_headers: Headers) -> None:
        ends = [
            end_body(idempotency_key="b-1"),
            end_body(idempotency_key="b-1"),
            end_body(user_id="nobody"),
            end_body(feature_endpoint_id="nothing"),
            end_body(output_token=-1),
            "not an end",
            end_body(idempotency_key="b-1", output_token=41),
            end_body(process_id="p-1"),
        ]
        response = client.post(BATCH, json={"ends": ends}, headers=server_headers)
        results = exact(response)["data"]["results"]
        assert [result["status"] for result in results] == [200, 200, 404, 403, 400, 400, 409, 200]
        assert results[0]["data"] == results[1]["data"]
        assert results[1]["idempotent_replayed"] is True
        assert "output_token" in results[4]["errors"]
        shop.settle_everything()
        assert shop.balance().posted_micros == 978_000_000

    def test_a_thousand_ends_with_one_bad_one(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        ends = [end_body(output_token=1, idempotency_key=f"b-{i}") for i in range(1_000)]
        ends[500]["user_id"] = None
        response = client.post(BATCH, json={"ends": ends}, headers=server_headers)
        statuses = [result["status"] for result in exact(response)["data"]["results"]]
        assert statuses.count(200) == 999
        assert statuses[500] == 400
        shop.settle_everything()
        assert shop.balance().posted_micros == 1_000_000_000 - 999 * 275_000

    @pytest.mark.parametrize("ends", [[], [{}] * 1_001, {}, None, "x"])
    def test_not_a_list_of_ends(self, shop: Billing, client: FlaskClient, server_headers: Headers, ends: Any) -> None:
        response = client.post(BATCH, json={"ends": ends}, headers=server_headers)
        assert "ends" in assert_failure(response, 400)["errors"]

    def test_takes_more_than_a_single_call_but_not_everything(
        self, shop: Billing, client: FlaskClient, server_headers: Headers
    ) -> None:
        def padded(size: int) -> bytes:
            body = json.dumps({"ends": [end_body()], "padding": ""}).encode()
            return body[:-2] + b"x" * (size - len(body)) + body[-2:]

        headers = {**server_headers, "Content-Type": "application/json"}
        assert client.post(BATCH, data=padded(1024 * 1024), headers=headers).status_code == 200
        assert_failure(client.post(BATCH, data=padded(1024 * 1024 + 1), headers=headers), 413)
