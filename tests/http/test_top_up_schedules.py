"""Scheduled top-ups: each period once, whoever starts it, however late; paused, resumed, ended."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
import simplejson
import sqlalchemy as sa
from click.testing import Result
from flask import Flask

from app.cli import cli
from tests.http.admin import Admin, assert_invalid, data, failure
from tests.support import PACKAGE, Billing, assert_conserved

BODY = {"package_id": PACKAGE, "token": 10, "reference": "allowance", "reason": "Allowance", "period": "daily"}
REASON = {"reason": "Audit"}


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    for user_id in ("a", "b"):
        billing.wallet(user_id, tokens=0)
    return billing


def today(shop: Billing) -> date:
    with shop.container.engine.connect() as connection:
        return connection.execute(sa.text("SELECT CAST(now() AT TIME ZONE 'UTC' AS date)")).scalar_one()


def created(admin: Admin, **fields: Any) -> dict[str, Any]:
    return data(admin.post("/top-up-schedules", {**BODY, **fields}), 201)


def fallen_due(shop: Billing, number: int, days_ago: int) -> None:
    """As if nobody had worked it off for so long."""
    shop.execute_in_postgres(f"UPDATE top_up_schedules SET next_on = next_on - {days_ago} WHERE id = {number}")


def work_off(shop: Billing) -> None:
    """What the worker does."""
    shop.container.top_up_schedules.work_off(seconds=60)
    shop.container.top_ups.work_off(seconds=60)


def posted(shop: Billing, *user_ids: str) -> list[int]:
    assert_conserved(shop, *user_ids)
    return [shop.balance(user_id).posted_micros // 1_000_000 for user_id in user_ids]


def history(admin: Admin, number: int) -> list[tuple[str, str, int]]:
    return [
        (item["reference"], item["state"], item["topped_up"]) for item in admin.items("/top-ups", schedule_id=number)
    ]


def test_each_period_once(admin: Admin, shop: Billing) -> None:
    made = created(admin)
    day = today(shop)
    assert (made["state"], made["starts_on"], made["next_on"], made["wallets"], made["planned_token"]) == (
        "active",
        f"{day}",
        f"{day}",
        2,
        20,
    )
    assert made["dates"] == [f"{day + timedelta(days=i)}" for i in range(6)]
    for _ in range(3):
        work_off(shop)
    assert posted(shop, "a", "b") == [10, 10]
    reference = f"schedule-{made['id']}:{day}"
    assert history(admin, made["id"]) == [(reference, "done", 2)]
    assert data(admin.get(f"/top-up-schedules/{made['id']}"))["next_on"] == f"{day + timedelta(days=1)}"
    entry = data(admin.get("/wallets/a/transactions"))["items"][0]
    assert (entry["reference"], entry["reason"], entry["actor"]) == (reference, "Allowance", "admin")
    # Who joined later may be given the period's by its reference, and nobody gets it twice so.
    shop.wallet("late", tokens=0)
    work_off(shop)
    assert posted(shop, "late") == [0]
    body = {"token": 10, "reference": reference, "reason": "Allowance"}
    data(admin.post("/wallets/late/top-ups", body), 201)
    data(admin.post("/wallets/a/top-ups", body), 200)


@pytest.mark.parametrize(("catch_up", "tokens"), [("each", 40), ("latest", 10)])
def test_what_was_missed(admin: Admin, shop: Billing, catch_up: str, tokens: int) -> None:
    number = created(admin, catch_up=catch_up)["id"]
    fallen_due(shop, number, days_ago=3)
    work_off(shop)
    work_off(shop)
    assert posted(shop, "a", "b") == [tokens, tokens]
    assert len(history(admin, number)) == tokens // 10
    assert history(admin, number)[0][0] == f"schedule-{number}:{today(shop)}"


def test_started_many_times_at_once(admin: Admin, shop: Billing) -> None:
    number = created(admin)["id"]
    fallen_due(shop, number, days_ago=4)
    barrier = Barrier(4)

    def tick() -> None:
        barrier.wait()
        work_off(shop)

    threads = [Thread(target=tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work_off(shop)
    assert posted(shop, "a", "b") == [50, 50]
    assert len(history(admin, number)) == 5


def test_the_day_is_postgres_own(admin: Admin, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose clock is ahead makes nothing due, and one that is behind delays nothing."""
    number = created(admin, starts_on=f"{today(shop) + timedelta(days=1)}")["id"]
    for days in (-30, 30):
        skewed = datetime.now(UTC) + timedelta(days=days)
        monkeypatch.setattr("time.time", skewed.timestamp)
        monkeypatch.setattr(shop.container.clock, "now", lambda skewed=skewed: skewed)
        work_off(shop)
        assert history(admin, number) == []
    fallen_due(shop, number, days_ago=1)
    work_off(shop)
    assert len(history(admin, number)) == 1


def test_one_users_wallet(admin: Admin, shop: Billing) -> None:
    number = created(admin, package_id=None, user_id="a", token=None, fill_up_to_token=25)["id"]
    shop.execute("UPDATE wallets SET package_id = NULL")
    work_off(shop)
    assert posted(shop, "a", "b") == [25, 0]
    assert len(history(admin, number)) == 1
    # It is told what became of a wallet that isn't topped up.
    number = created(admin, package_id=None, user_id="b", reference="other")["id"]
    data(admin.patch("/wallets/b", {"status": "closed"}))
    work_off(shop)
    [closed] = admin.items("/top-ups", schedule_id=number)
    assert [item["outcome"] for item in admin.items(f"/top-ups/{closed['id']}/wallets")] == ["left"]
    missing = {**BODY, "reference": "x", "package_id": None, "user_id": "nobody"}
    failure(admin.post("/top-up-schedules", missing), 404, "wallet_not_found")


def test_pause_and_resume(admin: Admin, shop: Billing) -> None:
    number = created(admin)["id"]
    day = today(shop)
    assert data(admin.post(f"/top-up-schedules/{number}/pause", REASON))["state"] == "paused"
    work_off(shop)
    assert posted(shop, "a") == [0]
    fallen_due(shop, number, days_ago=2)
    # What fell due before today is left out, and today's is still to be done.
    resumed = data(admin.post(f"/top-up-schedules/{number}/resume", REASON))
    assert (resumed["state"], resumed["next_on"]) == ("active", f"{day}")
    assert data(admin.post(f"/top-up-schedules/{number}/resume", REASON)) == resumed
    work_off(shop)
    assert posted(shop, "a") == [10]
    # Today's isn't done again.
    for state in ("pause", "resume"):
        data(admin.post(f"/top-up-schedules/{number}/{state}", REASON))
    work_off(shop)
    assert posted(shop, "a") == [10]


def test_end(admin: Admin, shop: Billing) -> None:
    number = created(admin)["id"]
    ended = data(admin.post(f"/top-up-schedules/{number}/end", REASON))
    assert (ended["state"], ended["next_on"], ended["dates"], ended["wallets"]) == ("ended", None, [], 0)
    work_off(shop)
    assert posted(shop, "a") == [0]
    assert data(admin.post(f"/top-up-schedules/{number}/end", REASON)) == ended
    for state in ("pause", "resume"):
        failure(admin.post(f"/top-up-schedules/{number}/{state}", REASON), 409, "schedule_ended")


def test_the_last_day(admin: Admin, shop: Billing) -> None:
    day = today(shop)
    number = created(admin, ends_on=f"{day}")["id"]
    work_off(shop)
    ended = data(admin.get(f"/top-up-schedules/{number}"))
    assert (ended["state"], ended["next_on"]) == ("ended", None)
    assert posted(shop, "a") == [10]
    # A pause over the last day ends it.
    number = created(admin, reference="b", ends_on=f"{day + timedelta(days=1)}")["id"]
    data(admin.post(f"/top-up-schedules/{number}/pause", REASON))
    shop.execute_in_postgres(
        f"UPDATE top_up_schedules SET ends_on = ends_on - 2, next_on = next_on - 2 WHERE id = {number}"
    )
    assert data(admin.post(f"/top-up-schedules/{number}/resume", REASON))["state"] == "ended"


def test_the_same_again_makes_no_other(admin: Admin, shop: Billing) -> None:
    made = created(admin)
    again = admin.post("/top-up-schedules", BODY)
    assert (data(again), again.headers["Idempotent-Replayed"]) == (made, "true")
    data(admin.post("/top-up-schedules", {**BODY, "starts_on": made["starts_on"]}))
    others: tuple[dict[str, Any], ...] = (
        {"token": 11},
        {"reason": "Other"},
        {"period": "weekly", "day": 1},
        {"catch_up": "latest"},
        {"ends_on": "2190-01-01"},
        {"starts_on": "2190-01-01"},
        {"package_id": None, "user_id": "a"},
    )
    for other in others:
        failure(admin.post("/top-up-schedules", {**BODY, **other}), 409, "idempotency_conflict")
    assert [item["id"] for item in admin.items("/top-up-schedules")] == [made["id"]]


def test_a_dry_run_keeps_nothing(admin: Admin, shop: Billing) -> None:
    day = today(shop)
    months = [date(day.year + (day.month + i) // 12, (day.month + i) % 12 + 1, 1) for i in range(7)]
    ends = [f"{first - timedelta(days=1)}" for first in months]
    body = {**BODY, "period": "monthly", "day": 31, "dry_run": True}
    told = data(admin.post("/top-up-schedules", body))
    assert told == {"dates": ends[:6], "wallets": 2, "planned_token": 20}
    assert admin.items("/top-up-schedules") == []


def test_bad_requests(admin: Admin, shop: Billing) -> None:
    path = "/top-up-schedules"
    assert_invalid(admin.post(path, {}), "reference", "reason", "period")
    assert_invalid(admin.post(path, {**BODY, "package_id": None}), "package_id")
    assert_invalid(admin.post(path, {**BODY, "user_id": "a", "token": None}), "package_id", "token")
    assert_invalid(admin.post(path, {**BODY, "period": "hourly"}), "period")
    assert_invalid(admin.post(path, {**BODY, "day": 1}), "day")
    for wrong in (None, 0, 8, "1", 1.5, True):
        assert_invalid(admin.post(path, {**BODY, "period": "weekly", "day": wrong}), "day")
    yesterday = f"{today(shop) - timedelta(days=1)}"
    assert_invalid(admin.post(path, {**BODY, "starts_on": yesterday}), "starts_on")
    for wrong in ("2026-02-30", 5, "2200-01-01", "2030-01-01T00:00:00Z"):
        assert_invalid(admin.post(path, {**BODY, "starts_on": wrong, "ends_on": wrong}), "starts_on", "ends_on")
    assert_invalid(admin.post(path, {**BODY, "starts_on": "2100-01-02", "ends_on": "2100-01-01"}), "ends_on")
    never = {"period": "monthly", "day": 31, "starts_on": "2100-01-01", "ends_on": "2100-01-30"}
    assert_invalid(admin.post(path, {**BODY, **never}), "ends_on")
    assert_invalid(admin.get(path, state="active"), "state")
    failure(admin.post(path, {**BODY, "package_id": "no"}), 404, "not_found")
    number = created(admin)["id"]
    assert_invalid(admin.post(f"{path}/{number}/pause", {}), "reason")
    for unknown in (999, 2**64):
        failure(admin.get(f"{path}/{unknown}"), 404, "not_found")
        for state in ("pause", "resume", "end"):
            failure(admin.post(f"{path}/{unknown}/{state}", REASON), 404, "not_found")


def test_from_the_command_line(app: Flask, shop: Billing) -> None:
    def flask(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(cli, ("top-up-schedules", *arguments))

    options = ("--package", PACKAGE, "--token", "10", "--reference", "r", "--reason", "x", "--period", "weekly")
    told = flask("create", *options, "--day", "1", "--dry-run")
    assert (told.exit_code, "planned_token" in told.output) == (0, True), told.output
    assert "weekly" not in flask("list").output
    assert flask("create", *options, "--day", "1", "--by", "maria").exit_code == 0
    assert "Created before" in flask("create", *options, "--day", "1").output
    assert simplejson.loads(flask("show", "1", "--json").stdout)["actor"] == "cli/maria"
    assert "weekly" in flask("list").output
    for command, state in (("pause", "paused"), ("resume", "active"), ("end", "ended")):
        assert simplejson.loads(flask(command, "1", "--reason", "x", "--json").stdout)["state"] == state
    refused = flask("resume", "1", "--reason", "x")
    assert (refused.exit_code, "has ended" in refused.output) == (1, True)
    wrong = flask("create", *options, "--day", "9")
    assert (wrong.exit_code, "day: Must be from 1 to 7." in wrong.output) == (1, True)
    assert flask("create", *options[2:], "--day", "1").exit_code == 2
