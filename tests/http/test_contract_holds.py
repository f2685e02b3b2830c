"""Holds on the wire: granted, extended, given back, and whose they are. The wallet `u` has 20 tokens."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import ConnectionError as RedisConnectionError

from app.billing.start import StartRequest
from app.cli import cli
from app.stores.redis.keys import wallet_keys
from tests.http.admin import Admin, assert_invalid, data, failure
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

        monkeypatch.setattr(till.container.redis_client, "pipeline", gone)
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

    def test_a_key_extends_once(self, call: Call) -> None:
        process_id = start(call, hold_token=5)["process_id"]
        first = call("hold/extend", key="more-1", process_id=process_id, hold_token=2)
        start(call, hold_token=1)
        again = call("hold/extend", key="more-1", process_id=process_id, hold_token=2)
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert data(again) == data(first)
        other_body = call("hold/extend", key="more-1", process_id=process_id, hold_token=3)
        failure(other_body, 409, "idempotency_conflict")
        assert data(call("hold/extend", key="more-2", process_id=process_id, hold_token=2))["hold_token"] == 9


class TestWhoseProcess:
    def test_an_end_of_another_user_is_refused_and_the_owners_bills(self, call: Call, till: Billing) -> None:
        till.wallet("v", tokens=20)
        process_id = start(call, hold_token=15)["process_id"]
        for fields in ({}, {"input_token": 0, "output_token": 0}):
            refused = end(call, user_id="v", process_id=process_id, **fields)
            failure(refused, 409, "process_id_of_another_user")
        assert data(end(call, process_id=process_id)) == {
            "user_id": "u",
            "token": 9,
            "cost": 11,
            "status": "return-able",
        }
        till.settle_everything()
        assert (till.balance("u").posted_micros, till.balance("v").posted_micros) == (9_000_000, 20_000_000)

    def test_nothing_has_to_be_remembered(self, call: Call, till: Billing) -> None:
        till.wallet("v", tokens=20)
        process_id = start(call)["process_id"]
        till.container.redis_client.flushall()
        failure(end(call, user_id="v", process_id=process_id), 409, "process_id_of_another_user")
        till.container.redis_gate.close(RedisConnectionError())
        failure(end(call, user_id="v", process_id=process_id), 409, "process_id_of_another_user")
        answered_by_postgres = start(call)["process_id"]
        failure(end(call, user_id="v", process_id=answered_by_postgres), 409, "process_id_of_another_user")
        assert data(end(call, process_id=process_id))["cost"] == 11
        assert data(end(call, process_id=answered_by_postgres))["status"] == "not-return-able"

    def test_in_a_batch_only_that_one_is_refused(self, call: Call, till: Billing) -> None:
        till.wallet("v", tokens=20)
        process_id = start(call)["process_id"]
        usage = {"feature_endpoint_id": FEATURE, "input_token": 10, "output_token": 4, "process_id": process_id}
        results = data(call("end/batch", ends=[{"user_id": user_id, **usage} for user_id in ("v", "u")]))["results"]
        assert [result["status"] for result in results] == [409, 200]
        assert results[0]["code"] == "process_id_of_another_user"

    def test_cancel_and_extend_too(self, call: Call, till: Billing) -> None:
        till.wallet("v", tokens=20)
        process_id = start(call, hold_token=15)["process_id"]
        failure(call("cancel", user_id="v", process_id=process_id), 409, "process_id_of_another_user")
        extension = call("hold/extend", user_id="v", process_id=process_id, hold_token=1)
        failure(extension, 409, "process_id_of_another_user")
        assert start(call)["token"] == 5

    def test_an_id_that_a_client_made_is_the_first_ones(self, call: Call, till: Billing) -> None:
        till.wallet("v", tokens=20)
        assert data(end(call, user_id="v", process_id="own-1"))["cost"] == 11
        failure(end(call, process_id="own-1"), 409, "idempotency_conflict")


class TestOwnHold:
    """A run draws on its own hold first, then on what is free, then on what others hold."""

    def test_an_end_may_use_what_others_hold(self, call: Call) -> None:
        big, small = (start(call, hold_token=tokens)["process_id"] for tokens in (12, 8))
        # 19.25 tokens: 8 of its own, 11.25 of what the other holds.
        ended = data(end(call, process_id=small, output_token=70))
        assert (ended["token"], ended["status"]) == (Decimal("-11.25"), "return-able")
        # The balance is used up: within its hold, and yet there is nothing.
        ended = data(end(call, process_id=big, output_token=40))
        assert (ended["token"], ended["status"]) == (Decimal("-10.25"), "not-return-able")

    def test_debt_does_not_take_what_a_run_has_reserved(self, call: Call, till: Billing) -> None:
        process_id, other = (start(call, hold_token=tokens)["process_id"] for tokens in (11, 5))
        owed = data(end(call, output_token=100))
        assert (owed["token"], owed["status"]) == (Decimal("-23.5"), "not-return-able")
        within = data(end(call, process_id=process_id, output_token=40))
        assert (within["token"], within["status"]) == (Decimal("-23.5"), "return-able")
        beyond = data(end(call, process_id=other, output_token=20))
        assert (beyond["cost"], beyond["status"]) == (Decimal("5.5"), "not-return-able")
        till.settle_everything()
        assert till.balance("u").posted_micros == 9_000_000
        assert start(call)["status"] == "not-access-able"

    def test_a_hold_whose_time_is_over_reserves_nothing(self, call: Call) -> None:
        process_id = start(call, hold_token=11, hold_seconds=1)["process_id"]
        end(call, output_token=100)
        time.sleep(1.05)
        assert data(end(call, process_id=process_id, output_token=40))["status"] == "not-return-able"


class TestManyHolds:
    def test_a_thousand_at_most(self, call: Call, till: Billing) -> None:
        holds = [till.container.start.start(StartRequest("u", FEATURE, hold_micros=1)).process_id for _ in range(1_000)]
        assert None not in holds
        failure(call("start", feature_endpoint_id=FEATURE, hold_token=1), 429, "too_many_holds")
        assert start(call)["status"] == "access-able"
        assert start(call, hold_token=30)["status"] == "not-access-able"
        call("cancel", process_id=holds[0])
        assert start(call, hold_token=1)["status"] == "access-able"
        failure(call("start", feature_endpoint_id=FEATURE, hold_token=1), 429, "too_many_holds")


class TestStartKey:
    def test_the_same_run_again(self, call: Call) -> None:
        first = call("start", key="s-1", feature_endpoint_id=FEATURE, hold_token=5)
        start(call, hold_token=1)
        again = call("start", key="s-1", feature_endpoint_id=FEATURE, hold_token=5)
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert data(again) == data(first)
        assert start(call)["token"] == 14

    def test_without_a_hold(self, call: Call) -> None:
        first, again, other = (call("start", key=key, feature_endpoint_id=FEATURE) for key in ("a", "a", "b"))
        assert data(again) == data(first)
        assert data(other)["process_id"] != data(first)["process_id"]

    def test_another_body_and_another_user(self, call: Call, till: Billing) -> None:
        till.wallet("v", tokens=20)
        call("start", key="s-1", feature_endpoint_id=FEATURE, hold_token=5)
        for fields in ({"hold_token": 6}, {}, {"hold_token": 5, "hold_seconds": 60}):
            failure(call("start", key="s-1", feature_endpoint_id=FEATURE, **fields), 409, "idempotency_conflict")
        other = data(call("start", key="s-1", user_id="v", feature_endpoint_id=FEATURE, hold_token=6))
        assert (other["token"], other["status"]) == (14, "access-able")

    def test_an_end_under_the_same_key_is_another_call(self, call: Call) -> None:
        started = data(call("start", key="run-1", feature_endpoint_id=FEATURE, hold_token=5))
        usage = {"feature_endpoint_id": FEATURE, "input_token": 1, "output_token": 40}
        ended = call("end", key="run-1", process_id=started["process_id"], **usage)
        assert (data(ended)["token"], "Idempotent-Replayed" in ended.headers) == (9, False)

    def test_a_refusal_is_decided_anew(self, call: Call) -> None:
        cancelled = start(call, hold_token=20)["process_id"]
        body = {"feature_endpoint_id": FEATURE, "hold_token": 5}
        assert data(call("start", key="s-1", **body))["status"] == "not-access-able"
        call("cancel", process_id=cancelled)
        assert data(call("start", key="s-1", **body))["status"] == "access-able"

    @pytest.mark.parametrize("key", ["", "x" * 256])
    def test_bad_key(self, call: Call, key: str) -> None:
        assert_invalid(
            call("start", key=key, feature_endpoint_id=FEATURE, hold_token=0), "Idempotency-Key", "hold_token"
        )


class TestLostAnswer:
    """A start whose answer didn't come back from Redis is 503. Its hold may have been granted."""

    @pytest.fixture
    def lose_one(self, till: Billing, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        cache = till.container.cache
        real = cache.start

        def lose() -> None:
            def start_and_lose(*arguments: Any) -> Any:
                real(*arguments)
                monkeypatch.setattr(cache, "start", real)
                raise RedisConnectionError

            till.container.leases.take(["u"])
            monkeypatch.setattr(cache, "start", start_and_lose)

        return lose

    def test_under_a_key_the_next_attempt_finds_it(
        self, call: Call, till: Billing, lose_one: Callable[[], None]
    ) -> None:
        start(call)
        lose_one()
        body = {"feature_endpoint_id": FEATURE, "hold_token": 15}
        failure(call("start", key="s-1", **body), 503, "temporarily_unavailable")
        till.container.redis_gate.open()
        again = call("start", key="s-1", **body)
        assert (data(again)["token"], data(again)["status"]) == (5, "access-able")
        assert again.headers["Idempotent-Replayed"] == "true"

    def test_without_one_it_is_given_back(self, call: Call, till: Billing, lose_one: Callable[[], None]) -> None:
        start(call)
        lose_one()
        failure(call("start", feature_endpoint_id=FEATURE, hold_token=15), 503, "temporarily_unavailable")
        assert till.container.wallet_holds.held(["u"]) == [15_000_000]
        till.container.redis_gate.open()
        assert start(call, hold_token=20)["status"] == "access-able"

    def test_a_run_that_ended_while_redis_was_away_gives_its_hold_back(self, call: Call, till: Billing) -> None:
        billed, free = (start(call, hold_token=8)["process_id"] for _ in range(2))
        till.container.redis_gate.close(RedisConnectionError())
        end(call, process_id=billed)
        end(call, process_id=free, input_token=0, output_token=0)
        till.container.redis_gate.open()
        till.settle_everything()
        assert start(call, hold_token=9)["token"] == 0


class TestCancel:
    def test_after_the_end(self, call: Call, till: Billing) -> None:
        process_id = start(call, hold_token=5)["process_id"]
        end(call, process_id=process_id)
        failure(call("cancel", process_id=process_id), 409, "already_ended")
        till.settle_everything()
        till.container.redis_client.flushall()
        failure(call("cancel", process_id=process_id), 409, "already_ended")

    def test_after_an_end_without_usage(self, call: Call) -> None:
        process_id = start(call, hold_token=5)["process_id"]
        end(call, process_id=process_id, input_token=0, output_token=0)
        assert data(call("cancel", process_id=process_id))["token"] == 20

    def test_an_id_of_a_client_that_another_user_ended(self, call: Call, till: Billing) -> None:
        till.wallet("v", tokens=20)
        end(call, user_id="v", process_id="own-1")
        assert data(call("cancel", process_id="own-1"))["token"] == 20

    def test_with_postgres_away_redis_remembers(self, call: Call, till: Billing) -> None:
        ended, running = (start(call, hold_token=1)["process_id"] for _ in range(2))
        end(call, process_id=ended)
        till.container.postgres_gate._is_open = False
        failure(call("cancel", process_id=ended), 409, "already_ended")
        assert data(call("cancel", process_id=running))["token"] == 9


class TestOperators:
    def test_list(self, call: Call, admin: Admin) -> None:
        assert admin.items("/wallets/u/holds") == []
        holds = [start(call, hold_token=number, hold_seconds=900 - number) for number in (1, 2, 3)]
        expected = [
            {name: hold[name] for name in ("process_id", "hold_token", "expires_at")} for hold in reversed(holds)
        ]
        assert admin.items("/wallets/u/holds") == expected
        assert list(admin.pages("/wallets/u/holds", limit=2)) == [expected[:2], expected[2:]]

    def test_pages_of_holds_that_end_in_the_same_moment(self, call: Call, admin: Admin, till: Billing) -> None:
        processes = {start(call, hold_token=1)["process_id"] for _ in range(7)}
        [_, holds] = wallet_keys("u")
        till.container.redis_client.zadd(holds, dict.fromkeys(processes, (time.time() + 60) * 1000 // 1))
        assert [hold["process_id"] for hold in admin.items("/wallets/u/holds", limit=2)] == sorted(processes)

    def test_give_back(self, call: Call, admin: Admin, till: Billing) -> None:
        process_id = start(call, hold_token=15)["process_id"]
        path = f"/wallets/u/holds/{process_id}"
        assert data(admin.delete(path)) == {"user_id": "u", "process_id": process_id, "hold_token": 15, "token": 20}
        failure(admin.delete(path), 404, "hold_not_found")
        assert start(call, hold_token=20)["status"] == "access-able"
        # The run may go on, and bills.
        assert data(end(call, process_id=process_id))["cost"] == 11

    def test_no_wallet(self, admin: Admin, till: Billing) -> None:
        failure(admin.get("/wallets/nobody/holds"), 404, "wallet_not_found")
        failure(admin.delete("/wallets/nobody/holds/p"), 404, "wallet_not_found")

    def test_a_user_id_with_slashes(self, call: Call, admin: Admin, till: Billing) -> None:
        till.wallet("team/a/holds/b", tokens=5)
        process_id = start(call, user_id="team/a/holds/b", hold_token=5)["process_id"]
        assert len(admin.items("/wallets/team/a/holds/b/holds")) == 1
        assert data(admin.delete(f"/wallets/team/a/holds/b/holds/{process_id}"))["hold_token"] == 5

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_wrong_methods(self, admin: Admin, till: Billing, method: str) -> None:
        assert admin.send(method, "/wallets/u/holds").status_code == 405

    @pytest.mark.parametrize("position", ["x", "1", ":", "1:", "x:p", "1:" + "p" * 129])
    def test_bad_cursor(self, admin: Admin, till: Billing, position: str) -> None:
        cursor = urlsafe_b64encode(position.encode()).decode().rstrip("=")
        assert_invalid(admin.get("/wallets/u/holds", cursor=cursor), "cursor")

    def test_with_redis_away(self, call: Call, admin: Admin, till: Billing) -> None:
        process_id = start(call, hold_token=15)["process_id"]
        till.container.redis_gate.close(RedisConnectionError())
        failure(admin.get("/wallets/u/holds"), 503, "temporarily_unavailable")
        failure(admin.delete(f"/wallets/u/holds/{process_id}"), 503, "temporarily_unavailable")

    def test_commands(self, call: Call, app: Flask) -> None:
        def run(*arguments: str) -> Any:
            return app.test_cli_runner().invoke(cli, ("wallets", *arguments))

        first, second = (start(call, hold_token=1, hold_seconds=seconds)["process_id"] for seconds in (60, 90))
        listed = run("holds", "u", "--limit", "1")
        assert listed.stdout.split()[:4] == ["process_id", "hold_token", "expires_at", first]
        position = listed.stderr.split()[-1]
        assert run("holds", "u", "--after", position).stdout.split()[3] == second
        assert run("holds", "u", "--after", "x").exit_code == 2
        assert run("release-hold", "u", first).exit_code == 0
        again = run("release-hold", "u", first)
        assert (again.exit_code, again.stderr) == (1, "Error: No open hold of this process\n")
        assert start(call)["token"] == 19
