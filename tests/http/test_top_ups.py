"""Topping up all wallets of a package: a dry run, then each wallet once, whatever is killed."""

from __future__ import annotations

from decimal import Decimal
from threading import Thread
from typing import Any

import pytest
import simplejson
from click.testing import Result
from flask import Flask

from app.cli import cli
from app.domain.errors import Unavailable
from tests.http.admin import NOT_AMOUNTS, Admin, assert_invalid, data, failure
from tests.support import PACKAGE, Billing, assert_conserved

BODY = {"package_id": PACKAGE, "token": 100, "reference": "spring", "reason": "Spring gift"}


class Killed(BaseException):
    """What a process dies of."""


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """Four wallets of a package, one of them suspended, and one without a package."""
    billing.catalog()
    for user_id, tokens in (("a", 0), ("b", 30), ("c", 150), ("idle", 5), ("other", 0)):
        billing.wallet(user_id, tokens=tokens)
    billing.execute("UPDATE wallets SET status = 'suspended' WHERE user_id = 'idle'")
    billing.execute("UPDATE wallets SET package_id = NULL WHERE user_id = 'other'")
    return billing


def work_off(shop: Billing) -> None:
    """What the worker does."""
    shop.container.top_ups.work_off(seconds=60)


def created(admin: Admin, **fields: Any) -> dict[str, Any]:
    return data(admin.post("/top-ups", {**BODY, **fields}), 201)


def posted(shop: Billing, *user_ids: str) -> list[int]:
    assert_conserved(shop, *user_ids)
    return [shop.balance(user_id).posted_micros // 1_000_000 for user_id in user_ids]


def outcomes(admin: Admin, number: int) -> dict[str, str | None]:
    return {item["user_id"]: item["outcome"] for item in admin.items(f"/top-ups/{number}/wallets", limit=2)}


def test_a_dry_run_then_every_wallet_once(admin: Admin, shop: Billing) -> None:
    dry = created(admin)
    number = dry["id"]
    assert (dry["state"], dry["wallets"], dry["planned_token"], dry["waiting"]) == ("ready", 3, 300, 3)
    assert (dry["token"], dry["fill_up_to_token"], dry["wallet_status"], dry["actor"]) == (
        100,
        None,
        "active",
        "admin",
    )
    work_off(shop)
    assert posted(shop, "a", "b", "c", "idle", "other") == [0, 30, 150, 5, 0]
    assert data(admin.get(f"/top-ups/{number}")) == dry

    applied = data(admin.post(f"/top-ups/{number}/apply", {}), 202)
    assert (applied["state"], applied["applied_by"]) == ("applying", "admin")
    work_off(shop)
    done = data(admin.get(f"/top-ups/{number}"))
    assert (done["state"], done["topped_up"], done["skipped"], done["refused"], done["waiting"]) == ("done", 3, 0, 0, 0)
    assert done["posted_token"] == 300
    assert done["finished_at"] is not None
    assert posted(shop, "a", "b", "c", "idle", "other") == [100, 130, 250, 5, 0]
    assert outcomes(admin, number) == dict.fromkeys("abc", "topped_up")
    entry = data(admin.get("/wallets/a/transactions"))["items"][0]
    assert (entry["kind"], entry["token"], entry["reference"], entry["reason"], entry["actor"]) == (
        "top_up",
        100,
        "spring",
        "Spring gift",
        "admin",
    )
    [wallet] = [item for item in admin.items(f"/top-ups/{number}/wallets") if item["user_id"] == "a"]
    assert wallet == {
        "user_id": "a",
        "planned_token": 100,
        "outcome": "topped_up",
        "posted_token": 100,
        "transaction_id": entry["id"],
    }


def test_the_same_again_does_nothing_and_another_body_is_refused(admin: Admin, shop: Billing) -> None:
    number = created(admin, apply=True)["id"]
    work_off(shop)
    shop.wallet("late", tokens=0)
    for body in (BODY, {**BODY, "apply": True}):
        again = admin.post("/top-ups", body)
        assert (data(again)["id"], again.headers["Idempotent-Replayed"]) == (number, "true")
    assert data(admin.post(f"/top-ups/{number}/apply", {}), 202)["state"] == "done"
    work_off(shop)
    assert posted(shop, "a", "b", "c", "late") == [100, 130, 250, 0]
    others = (
        {"token": 101},
        {"reason": "Other"},
        {"wallet_status": "suspended"},
        {"wallet_status": None},
        {"token": None, "fill_up_to_token": 100},
    )
    for other in others:
        failure(admin.post("/top-ups", {**BODY, **other}), 409, "idempotency_conflict")
    assert [item["id"] for item in admin.items("/top-ups")] == [number]


def test_a_repeated_call_may_apply_the_dry_run(admin: Admin, shop: Billing) -> None:
    number = created(admin)["id"]
    assert data(admin.post("/top-ups", {**BODY, "apply": True}))["state"] == "applying"
    work_off(shop)
    assert data(admin.get(f"/top-ups/{number}"))["topped_up"] == 3


def test_a_dry_run_may_be_discarded_and_what_is_applied_not(admin: Admin, shop: Billing) -> None:
    number = created(admin)["id"]
    assert data(admin.delete(f"/top-ups/{number}"))["id"] == number
    failure(admin.get(f"/top-ups/{number}"), 404, "not_found")
    number = created(admin, token=5, apply=True)["id"]
    failure(admin.delete(f"/top-ups/{number}"), 409, "already_applied")
    work_off(shop)
    failure(admin.delete(f"/top-ups/{number}"), 409, "already_applied")
    assert posted(shop, "a") == [5]


def test_filling_up(admin: Admin, shop: Billing) -> None:
    shop.wallet("overdrawn", tokens=0, overdraft_tokens=50)
    data(admin.post("/wallets/overdrawn/adjustments", {"token": -20, "reference": "r"}), 201)
    dry = created(admin, token=None, fill_up_to_token=Decimal("100.5"))
    assert (dry["wallets"], dry["planned_token"], dry["fill_up_to_token"]) == (
        4,
        Decimal("100.5") + Decimal("70.5") + Decimal("120.5"),
        Decimal("100.5"),
    )
    # What counts is the balance at the moment at which the wallet is topped up.
    data(admin.post("/wallets/b/top-ups", {"token": 200, "reference": "own"}), 201)
    data(admin.post(f"/top-ups/{dry['id']}/apply", {}), 202)
    work_off(shop)
    assert outcomes(admin, dry["id"]) == {"a": "topped_up", "b": "full", "c": "full", "overdrawn": "topped_up"}
    done = data(admin.get(f"/top-ups/{dry['id']}"))
    assert (done["topped_up"], done["skipped"], done["posted_token"]) == (2, 2, 221)
    for user_id in ("a", "overdrawn"):
        assert data(admin.get(f"/wallets/{user_id}"))["posted_token"] == Decimal("100.5")


def test_an_outcome_for_each_wallet(admin: Admin, shop: Billing) -> None:
    for user_id in ("gone", "full", "same", "taken"):
        shop.wallet(user_id, tokens=0)
    shop.execute("UPDATE wallets SET posted_micros = 4000000000000000 WHERE user_id = 'full'")
    data(admin.post("/wallets/same/top-ups", {"token": 100, "reference": "spring", "reason": "Spring gift"}), 201)
    data(admin.post("/wallets/taken/refunds", {"token": 100, "reference": "spring", "reason": "Spring gift"}), 201)
    data(admin.post("/wallets/b/chargebacks", {"token": 1, "reference": "spring"}), 201)
    dry = created(admin)
    data(admin.patch("/wallets/c", {"status": "closed"}))
    shop.execute("DELETE FROM wallets WHERE user_id = 'gone'")
    data(admin.post(f"/top-ups/{dry['id']}/apply", {}), 202)
    work_off(shop)
    assert outcomes(admin, dry["id"]) == {
        "a": "topped_up",
        "b": "idempotency_conflict",
        "c": "left",
        "full": "balance_out_of_range",
        "gone": "wallet_not_found",
        "same": "posted_before",
        "taken": "idempotency_conflict",
    }
    done = data(admin.get(f"/top-ups/{dry['id']}"))
    assert (done["topped_up"], done["skipped"], done["refused"], done["posted_token"]) == (1, 2, 4, 100)
    assert [item["user_id"] for item in admin.items(f"/top-ups/{dry['id']}/wallets", outcome="left")] == ["c"]
    assert admin.items(f"/top-ups/{dry['id']}/wallets", outcome="waiting") == []


def test_what_the_database_refuses_is_one_wallets_trouble(admin: Admin, shop: Billing) -> None:
    number = created(admin, apply=True)["id"]
    # The ledger's trigger refuses an entry of what the wallet can't have.
    shop.execute_in_postgres(
        "ALTER TABLE wallets ADD CONSTRAINT odd CHECK (user_id <> 'b' OR posted_micros < 100000000)"
    )
    try:
        work_off(shop)
    finally:
        shop.execute_in_postgres("ALTER TABLE wallets DROP CONSTRAINT odd")
    assert outcomes(admin, number) == {"a": "topped_up", "b": "database_refused", "c": "topped_up"}
    assert posted(shop, "a", "b", "c") == [100, 30, 250]


def test_statuses(admin: Admin, shop: Billing) -> None:
    assert created(admin, wallet_status="suspended", reference="s")["wallets"] == 1
    assert created(admin, wallet_status=None, reference="any")["wallets"] == 4
    assert created(admin, wallet_status="closed", reference="c")["wallets"] == 0


def test_nobody_to_top_up(admin: Admin, shop: Billing) -> None:
    number = created(admin, wallet_status="closed", apply=True)["id"]
    work_off(shop)
    assert data(admin.get(f"/top-ups/{number}"))["state"] == "done"


def test_killed_half_way_it_goes_on(admin: Admin, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    number = created(admin, apply=True)["id"]
    monkeypatch.setattr("app.billing.top_ups.WALLETS_PER_STEP", 1)
    announce = shop.container.wallet_changes.apply
    announced = []

    def dying(*args: Any) -> None:
        announced.append(args)
        if len(announced) == 2:
            # Between the commit and the next wallet.
            raise Killed
        announce(*args)

    monkeypatch.setattr(shop.container.wallet_changes, "apply", dying)
    with pytest.raises(Killed):
        work_off(shop)
    half = data(admin.get(f"/top-ups/{number}"))
    assert (half["state"], half["topped_up"], half["waiting"], half["posted_token"]) == ("applying", 2, 1, 200)
    monkeypatch.setattr(shop.container.wallet_changes, "apply", announce)
    work_off(shop)
    assert data(admin.get(f"/top-ups/{number}"))["state"] == "done"
    assert posted(shop, "a", "b", "c") == [100, 130, 250]


def test_postgres_away_in_the_middle(admin: Admin, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    number = created(admin, apply=True)["id"]
    monkeypatch.setattr("app.billing.top_ups.WALLETS_PER_STEP", 1)
    transaction = shop.container.postgres.transaction
    calls = []

    def away(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise Unavailable
        return transaction(*args)

    monkeypatch.setattr(shop.container.postgres, "transaction", away)
    with pytest.raises(Unavailable):
        work_off(shop)
    work_off(shop)
    assert data(admin.get(f"/top-ups/{number}"))["state"] == "done"
    assert posted(shop, "a", "b", "c") == [100, 130, 250]


def test_slices_go_on_behind_a_wallet_that_somebody_keeps(
    admin: Admin, shop: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.billing.top_ups.WALLETS_PER_STEP", 1)
    number = created(admin, apply=True)["id"]
    with shop.container.engine.connect() as other, other.begin():
        other.exec_driver_sql("SELECT 1 FROM wallets WHERE user_id = 'a' FOR UPDATE")
        # Time is up after each wallet; the next slice doesn't begin with the locked one again.
        for _ in range(2):
            shop.container.top_ups.go_on(number, iter([True, False]).__next__)
        assert outcomes(admin, number) == {"a": None, "b": "topped_up", "c": None}
        work_off(shop)
        assert outcomes(admin, number) == {"a": None, "b": "topped_up", "c": "topped_up"}
        assert data(admin.get(f"/top-ups/{number}"))["state"] == "applying"
    work_off(shop)
    assert data(admin.get(f"/top-ups/{number}"))["state"] == "done"


def test_several_workers_at_once(admin: Admin, shop: Billing) -> None:
    for i in range(40):
        shop.wallet(f"user-{i}", tokens=0)
    number = created(admin, apply=True)["id"]
    threads = [Thread(target=work_off, args=(shop,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = data(admin.get(f"/top-ups/{number}"))
    assert (done["state"], done["topped_up"], done["posted_token"]) == ("done", 43, 4_300)
    assert posted(shop, *(f"user-{i}" for i in range(40))) == [100] * 40


def test_debts_are_collected_out_of_it(admin: Admin, shop: Billing) -> None:
    shop.container.end.end(shop.usage("a", output_tokens=40))
    shop.settle_everything()
    assert data(admin.get("/wallets/a"))["debt_token"] == 11
    created(admin, apply=True)
    work_off(shop)
    assert [wallet.wallet_id for wallet in shop.container.collection.due_wallets(10)] == ["a"]


def test_bad_requests(admin: Admin, shop: Billing) -> None:
    assert_invalid(admin.post("/top-ups", {}), "package_id", "reason", "reference")
    for field in ("package_id", "reason", "reference"):
        for value in ("", None, True, [], "a\nb"):
            assert_invalid(admin.post("/top-ups", {**BODY, field: value}), field)
    for amount in (*NOT_AMOUNTS, "-1", "0"):
        if amount != "null":
            body = {**BODY, "token": "@"}
            assert_invalid(admin.post("/top-ups", simplejson.dumps(body).replace('"@"', amount)), "token")
    assert_invalid(admin.post("/top-ups", {**BODY, "fill_up_to_token": 5}), "token")
    assert_invalid(admin.post("/top-ups", {**BODY, "token": None}), "token")
    assert_invalid(admin.post("/top-ups", {**BODY, "wallet_status": "open"}), "wallet_status")
    assert_invalid(admin.post("/top-ups", {**BODY, "reference": "schedule-1:2026-11"}), "reference")
    assert "package_id" in failure(admin.post("/top-ups", {**BODY, "package_id": "no"}), 404, "not_found")["errors"]
    assert_invalid(admin.get("/top-ups", package_id=PACKAGE), "package_id")
    assert_invalid(admin.get("/top-ups", schedule_id="x"), "schedule_id")
    number = created(admin)["id"]
    assert_invalid(admin.get(f"/top-ups/{number}/wallets", outcome="odd", status="x"), "status")
    assert_invalid(admin.get(f"/top-ups/{number}/wallets", outcome="odd"), "outcome")
    for unknown in (999, 2**64):
        failure(admin.get(f"/top-ups/{unknown}"), 404, "not_found")
        failure(admin.get(f"/top-ups/{unknown}/wallets"), 404, "not_found")
        failure(admin.post(f"/top-ups/{unknown}/apply", {}), 404, "not_found")
        failure(admin.delete(f"/top-ups/{unknown}"), 404, "not_found")


def test_as_tables(admin: Admin, shop: Billing) -> None:
    number = created(admin)["id"]
    table = admin.get("/top-ups", accept="text/csv").get_data(as_text=True)
    assert table.splitlines()[0].startswith("id,reference,state,")
    table = admin.get(f"/top-ups/{number}/wallets", accept="text/csv").get_data(as_text=True)
    assert table.splitlines()[1] == "a,100,,0,"


def test_from_the_command_line(app: Flask, shop: Billing) -> None:
    def flask(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(cli, ("top-ups", *arguments))

    options = ("--package", PACKAGE, "--token", "100", "--reference", "spring", "--reason", "Spring gift")
    dry = flask("create", *options)
    assert dry.exit_code == 0, dry.output
    assert "Nothing is posted yet: flask top-ups apply 1" in dry.output
    assert "planned_token     300" in dry.output
    assert posted(shop, "a") == [0]
    done = flask("apply", "1", "--by", "maria", "--json")
    assert simplejson.loads(done.stdout)["topped_up"] == 3
    assert posted(shop, "a", "b", "c") == [100, 130, 250]
    assert "Asked for before" in flask("create", *options, "--apply").output
    assert "topped_up" in flask("wallets", "1").output
    assert "spring" in flask("list").output
    assert "done" in flask("show", "1").output
    refused = flask("discard", "1")
    assert (refused.exit_code, "applied already" in refused.output) == (1, True)
    both = flask("create", *options, "--fill-up-to-token", "5")
    assert (both.exit_code, "either" in both.output) == (2, True)
    again = flask("create", *options[:-4], "--reference", "r2", "--reason", "x", "--json")
    number = str(simplejson.loads(again.stdout)["id"])
    assert flask("discard", number).output == f"Discarded {number}.\n"
