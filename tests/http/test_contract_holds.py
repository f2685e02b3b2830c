"""Holds on the wire: granted, extended, given back, and whose they are. The wallet `u` has 20 tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import ConnectionError as RedisConnectionError

from tests.http.admin import assert_invalid, data, failure
from tests.support import FEATURE, Billing

PREFIX = "/api/token-process"

Call = Callable[..., Any]


@pytest.fixture
def call(till: Billing, client: FlaskClient, server_headers: dict[str, str]) -> Call:
    """Call a route of the token process for user `u`, unless told otherwise; the response."""

    def send(path: str, key: str | None = None, **body: Any) -> Any:
        headers = server_headers if key is None else {**server_headers, "Idempotency-Key": key}
        return client.post(f"{PREFIX}/{path}", json={"user_id": "u", **body}, headers=headers)

    return send


def start(call: Call, **fields: Any) -> dict[str, Any]:
    return data(call("start", feature_endpoint_id=FEATURE, **fields))


def end(call: Call, **fields: Any) -> Any:
    return call("end", feature_endpoint_id=FEATURE, **{"input_token": 10, "output_token": 40, **fields})


def seconds_left(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() - time.time()


class TestExtend:
    def test_adds_tokens(self, call: Call) -> None:
        started = start(call, hold_token=5)
        extended = data(call("hold/extend", process_id=started["process_id"], hold_token=2.5))
        assert extended == {
            "user_id": "u",
            "process_id": started["process_id"],
            "token": Decimal("12.5"),
            "hold_token": Decimal("7.5"),
            "expires_at": started["expires_at"],
            "status": "access-able",
        }
        assert start(call)["token"] == Decimal("12.5")

    def test_adds_life(self, call: Call) -> None:
        started = start(call, hold_token=5, hold_seconds=60)
        extended = data(call("hold/extend", process_id=started["process_id"], hold_seconds=100))
        assert (extended["token"], extended["hold_token"], extended["status"]) == (15, 5, "access-able")
        before, after = (datetime.fromisoformat(answer["expires_at"]) for answer in (started, extended))
        assert (after - before).total_seconds() == 100

    def test_adds_both_or_neither(self, call: Call) -> None:
        started = start(call, hold_token=5)
        refused = data(call("hold/extend", process_id=started["process_id"], hold_token=15.000001, hold_seconds=9))
        assert refused["status"] == "not-access-able"
        assert (refused["hold_token"], refused["expires_at"]) == (5, started["expires_at"])
        granted = data(call("hold/extend", process_id=started["process_id"], hold_token=15, hold_seconds=9))
        assert (granted["status"], granted["token"], granted["hold_token"]) == ("access-able", 0, 20)
        assert granted["expires_at"] > started["expires_at"]

    def test_an_extended_hold_outlives_its_first_end(self, call: Call) -> None:
        started = start(call, hold_token=5, hold_seconds=1)
        call("hold/extend", process_id=started["process_id"], hold_seconds=60)
        time.sleep(1.1)
        assert start(call)["token"] == 15

    def test_lives_a_day_at_most(self, call: Call) -> None:
        process_id = start(call, hold_token=5)["process_id"]
        for _ in range(2):
            extended = data(call("hold/extend", process_id=process_id, hold_seconds=86_400))
            assert 86_390 < seconds_left(extended["expires_at"]) < 86_401

    def test_the_end_gives_all_of_it_back(self, call: Call) -> None:
        process_id = start(call, hold_token=5)["process_id"]
        call("hold/extend", process_id=process_id, hold_token=10)
        assert data(end(call, process_id=process_id))["token"] == 9
        failure(call("hold/extend", process_id=process_id, hold_token=1), 404, "hold_not_found")

    def test_no_open_hold(self, call: Call) -> None:
        cancelled = start(call, hold_token=5)["process_id"]
        call("cancel", process_id=cancelled)
        expired = start(call, hold_token=5, hold_seconds=1)["process_id"]
        time.sleep(1.05)
        for process_id in (cancelled, expired, start(call)["process_id"], "unknown"):
            failure(call("hold/extend", process_id=process_id, hold_seconds=1), 404, "hold_not_found")

    def test_no_wallet(self, call: Call) -> None:
        failure(call("hold/extend", user_id="nobody", process_id="p", hold_token=1), 404, "wallet_not_found")

    def test_debt_and_a_suspended_wallet_give_no_tokens_but_time(self, call: Call, till: Billing) -> None:
        indebted = start(call, hold_token=5)["process_id"]
        end(call, output_token=400)
        assert data(call("hold/extend", process_id=indebted, hold_token=1))["status"] == "not-access-able"
        assert data(call("hold/extend", process_id=indebted, hold_seconds=1))["status"] == "access-able"
        till.wallet("s", tokens=20)
        suspended = start(call, user_id="s", hold_token=5)["process_id"]
        till.container.wallet_admin.update("s", {"status": "suspended"})
        for added, status in (({"hold_token": 1}, "not-access-able"), ({"hold_seconds": 1}, "access-able")):
            assert data(call("hold/extend", user_id="s", process_id=suspended, **added))["status"] == status

    def test_the_overdraft_limit_counts_as_room(self, call: Call, till: Billing) -> None:
        till.wallet("o", tokens=10, overdraft_tokens=5)
        process_id = start(call, user_id="o", hold_token=10)["process_id"]
        extended = data(call("hold/extend", user_id="o", process_id=process_id, hold_token=5))
        assert (extended["status"], extended["token"]) == ("access-able", -5)

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({}, ["hold_token", "hold_seconds"]),
            ({"hold_token": None, "hold_seconds": None}, ["hold_token", "hold_seconds"]),
            ({"hold_token": 0}, ["hold_token"]),
            ({"hold_token": -1}, ["hold_token"]),
            ({"hold_token": True}, ["hold_token"]),
            ({"hold_seconds": 0}, ["hold_seconds"]),
            ({"hold_seconds": 1.5}, ["hold_seconds"]),
            ({"hold_seconds": 86_401}, ["hold_seconds"]),
            ({"hold_token": 1, "process_id": ""}, ["process_id"]),
        ],
    )
    def test_bad_bodies(self, call: Call, fields: dict[str, Any], named: list[str]) -> None:
        assert_invalid(call("hold/extend", **{"process_id": "p", **fields}), *named)

    def test_with_redis_away_it_is_repeated_later(
        self, call: Call, till: Billing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process_id = start(call, hold_token=5)["process_id"]

        def gone(*_: Any, **__: Any) -> Any:
            raise RedisConnectionError

        monkeypatch.setattr(till.container.redis_client, "evalsha", gone)
        failure(call("hold/extend", process_id=process_id, hold_token=1), 503, "temporarily_unavailable")

    def test_from_many_callers_at_once_it_reserves_no_more_than_there_is(
        self, app: Flask, call: Call, server_headers: dict[str, str]
    ) -> None:
        process_id = start(call, hold_token=5)["process_id"]
        body = {"user_id": "u", "process_id": process_id, "hold_token": 1}

        def extend(_: int) -> Any:
            return data(app.test_client().post(f"{PREFIX}/hold/extend", json=body, headers=server_headers))["status"]

        with ThreadPoolExecutor(8) as callers:
            statuses = list(callers.map(extend, range(40)))
        assert statuses.count("access-able") == 15
        assert start(call, hold_token=1)["status"] == "not-access-able"
