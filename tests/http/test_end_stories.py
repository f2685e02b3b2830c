"""One end's whole story: accepted, tried, why it waits and what would pay it, corrected, settled or written off."""

from __future__ import annotations

from typing import Any

import simplejson
from flask import Flask

from app.billing.start import StartRequest
from app.cli import cli
from app.domain.postings import Posting, PostingKind
from app.stores.postgres.settlement import ATTEMPTS_KEPT
from tests.http.admin import Admin, data, failure
from tests.support import FEATURE, Billing, collect_now

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


def story(admin: Admin, end_id: Any) -> dict[str, Any]:
    return data(admin.get(f"/ends/{end_id}"))


def top_up(till: Billing, tokens: int, user_id: str = "u") -> None:
    till.container.postings.post(
        Posting(user_id=user_id, kind=PostingKind.TOP_UP, amount_micros=tokens * 1_000_000, reference=f"t{tokens}")
    )


def test_how_it_was_accepted(admin: Admin, till: Billing) -> None:
    started = till.container.start.start(StartRequest("u", FEATURE))
    till.container.end.end(
        till.usage(
            "u", output_tokens=120, model="large", idempotency_key="k", process_id=started.process_id,
            request_id="req-7", actor="shop-1",
        )
    )  # fmt: skip
    [end] = till.inbox("u")
    told = story(admin, end.id)
    assert told["accepted_at"].endswith("Z")
    assert {name: told[name] for name in (
        "id", "state", "user_id", "kind", "corrects", "feature_endpoint_id", "model", "cost", "base_cost", "profit",
        "input_token", "output_token", "requests", "price_id", "process_id", "idempotency_key", "request_id", "actor",
        "answered", "attempts", "corrections", "open_charges", "transactions",
    )} == {
        "id": str(end.id), "state": "retrying", "user_id": "u", "kind": "usage", "corrects": None,
        "feature_endpoint_id": FEATURE, "model": "large", "cost": 33, "base_cost": 30, "profit": 3,
        "input_token": 10, "output_token": 120, "requests": 1, "price_id": None, "process_id": started.process_id,
        "idempotency_key": "k", "request_id": "req-7", "actor": "shop-1",
        "answered": {"status": "not-return-able", "token": -13}, "attempts": [], "corrections": [],
        "open_charges": [], "transactions": [],
    }  # fmt: skip
    assert told["profit_rule_id"] == end.profit_rule_id
    assert sum(told["parts"].values()) == 30


def test_the_debt_in_front_of_it(admin: Admin, till: Billing) -> None:
    for output_tokens in (120, 40, 400):
        till.container.end.end(till.usage("u", output_tokens=output_tokens))
    till.settle_everything()
    first, second, third = (end.id for end in till.inbox("u"))
    wait = story(admin, first)["wait"]
    assert (wait["ahead_ends"], wait["ahead_token"], wait["room_token"], wait["missing_token"]) == (0, 0, 20, 13)
    wait = story(admin, third)["wait"]
    assert (wait["ahead_ends"], wait["ahead_token"], wait["room_token"], wait["missing_token"]) == (2, 44, 20, 134)
    assert wait["why"] == (
        "2 older debts of 44 tokens together are paid before this one of 110 tokens, and the wallet has 20 tokens for "
        "them: a top-up of 134 tokens pays it."
    )
    assert wait["next_attempt_at"] == data(admin.get("/failed-ends"))["items"][2]["next_attempt_at"]
    # That top-up pays the second and all before it, and no smaller one does.
    missing = int(story(admin, second)["wait"]["missing_token"])
    top_up(till, missing - 1)
    collect_now(till.container, "u")
    assert [story(admin, end_id)["state"] for end_id in (first, second, third)] == ["settled", "retrying", "retrying"]
    top_up(till, 1)
    collect_now(till.container, "u")
    assert [story(admin, end_id)["state"] for end_id in (second, third)] == ["settled", "retrying"]


def test_each_try_and_each_error(admin: Admin, till: Billing, owed: str) -> None:
    till.settle_everything()
    for _ in range(2):
        collect_now(till.container, "u")
    told = story(admin, owed)
    assert [(attempt["number"], attempt["error"]) for attempt in told["attempts"]] == [
        (number, "insufficient_tokens") for number in (1, 2, 3)
    ]
    moments = [attempt["attempted_at"] for attempt in told["attempts"]]
    assert moments == sorted(moments)
    # A replay begins to count anew, and forgets nothing.
    data(admin.post(f"/failed-ends/{owed}/replay", {}))
    collect_now(till.container, "u")
    told = story(admin, owed)
    assert (told["wait"]["attempts"], told["wait"]["attempts_total"], len(told["attempts"])) == (1, 4, 4)
    # They outlive the end.
    top_up(till, 100)
    collect_now(till.container, "u")
    told = story(admin, owed)
    assert (told["state"], told["wait"], len(told["attempts"])) == ("settled", None, 4)


def test_attempts_are_bounded(admin: Admin, till: Billing, owed: str) -> None:
    till.settle_everything()
    for _ in range(ATTEMPTS_KEPT + 3):
        till.execute("UPDATE end_inbox SET state = 'retrying', attempts = 0")
        collect_now(till.container, "u")
    told = story(admin, owed)
    assert told["wait"]["attempts_total"] == ATTEMPTS_KEPT + 4
    assert [attempt["number"] for attempt in told["attempts"]] == list(range(5, ATTEMPTS_KEPT + 5))


def test_another_error(admin: Admin, till: Billing, disagreeing: str) -> None:
    told = story(admin, disagreeing)
    assert [(attempt["number"], attempt["error"]) for attempt in told["attempts"]] == [(1, "quote_disagrees")]
    assert told["wait"]["why"].startswith("The parts of its price don't add up to its cost")
    assert (told["state"], told["wait"]["next_attempt_at"]) == ("dead", None)
    data(admin.post(f"/failed-ends/{disagreeing}/replay", {}))
    assert story(admin, disagreeing)["wait"]["why"].startswith("It was replayed and waits")
    till.settle_everything()
    assert [attempt["number"] for attempt in story(admin, disagreeing)["attempts"]] == [1, 2]


def test_without_a_wallet(admin: Admin, till: Billing, owed: str) -> None:
    till.execute("UPDATE end_inbox SET wallet_id = 'nobody', user_id = 'nobody'")
    till.settle_everything()
    told = story(admin, owed)
    assert [attempt["error"] for attempt in told["attempts"]] == ["wallet_missing"]
    assert told["wait"]["why"].startswith("Its user has no wallet.")


def test_what_the_happy_path_leaves(admin: Admin, till: Billing) -> None:
    till.container.end.end(till.usage("u", model="large"))
    [end] = till.inbox("u")
    assert story(admin, end.id)["wait"]["why"] == "It waits for a worker to settle it, which takes a moment."
    till.settle_everything()
    told = story(admin, end.id)
    assert (told["state"], told["cost"], told["attempts"], told["wait"]) == ("settled", 11, [], None)
    assert told["answered"] == {"status": "return-able", "token": 9}
    assert told["idempotency_key"] == end.idempotency_key
    assert [(entry["kind"], entry["token"], entry["balance_after"]) for entry in told["transactions"]] == [
        ("usage", -11, 9)
    ]


def test_corrections_of_it(admin: Admin, till: Billing, owed: str) -> None:
    till.settle_everything()
    body = {"reference": "r", "reason": "Recounted", "input_token": 10, "output_token": 80}
    amended = data(admin.post(f"/ends/{owed}/amendments", body), 201)
    told = story(admin, owed)
    assert [(each["kind"], each["reference"], each["cost"]) for each in told["corrections"]] == [("amendment", "r", 22)]
    # What the run still owes stands in a row of its own, and is told of there.
    assert [charge["id"] for charge in told["open_charges"]] == [amended["charge_id"]]
    charge = story(admin, amended["charge_id"])
    assert (charge["kind"], charge["corrects"], charge["cost"], charge["reference"]) == ("amendment", owed, 22, "r")
    assert charge["wait"]["missing_token"] == 2
    top_up(till, 2)
    collect_now(till.container, "u")
    assert (story(admin, amended["charge_id"])["state"], story(admin, owed)["open_charges"]) == ("settled", [])


def test_a_chargeback(admin: Admin, till: Billing) -> None:
    body = {"token": 25, "reference": "cb", "reason": "Card stolen"}
    charged = data(admin.post("/wallets/u/chargebacks", body), 201)
    told = story(admin, charged["charge_id"])
    assert (told["kind"], told["cost"], told["reference"], told["reason"]) == ("chargeback", 25, "cb", "Card stolen")
    top_up(till, 5)
    collect_now(till.container, "u")
    told = story(admin, charged["charge_id"])
    assert (told["state"], told["cost"], told["base_cost"]) == ("settled", 25, None)


def test_in_a_bulk_action(admin: Admin, till: Billing, owed: str) -> None:
    body = {"action": "write_off", "ids": [owed], "reference": "inc-1", "reason": "Outage"}
    number = data(admin.post("/bulk-actions", body), 201)["id"]
    assert story(admin, owed)["bulk_actions"] == []
    data(admin.post(f"/bulk-actions/{number}/confirm", {"ends": 1, "cost": 33}), 202)
    till.container.bulk_actions.work_off(seconds=5)
    told = story(admin, owed)
    [part] = told["bulk_actions"]
    assert (told["state"], part["id"], part["action"], part["outcome"], part["reference"], part["reason"]) == (
        "written_off", number, "write_off", "written_off", "inc-1", "Outage",
    )  # fmt: skip
    assert told["transactions"][0]["reference"] == "inc-1"


def test_written_off(admin: Admin, till: Billing, owed: str) -> None:
    data(admin.post(f"/failed-ends/{owed}/write-off", {"reason": "Left"}), 201)
    told = story(admin, owed)
    assert (told["state"], told["cost"], told["wait"]) == ("written_off", 33, None)
    assert [(entry["kind"], entry["token"]) for entry in told["transactions"]] == [("write_off", 33), ("usage", -33)]


def test_unknown(admin: Admin, till: Billing) -> None:
    failure(admin.get(f"/ends/{UNKNOWN}"), 404, "not_found")
    failure(admin.get("/ends/x"), 404, "not_found")


def test_from_the_command_line(app: Flask, till: Billing, owed: str) -> None:
    till.settle_everything()

    def run(*arguments: str) -> Any:
        return app.test_cli_runner().invoke(cli, ("ends", "show", *arguments))

    text = run(owed).stdout
    assert "\nIt costs 33 tokens, and its wallet has 20 tokens for it: a top-up of 13 tokens pays it.\n" in text
    assert "answered_status      not-return-able" in text
    assert "number  attempted_at" in text
    assert simplejson.loads(run(owed, "--json").stdout)["wait"]["missing_token"] == 13
    missing = run(UNKNOWN)
    assert (missing.exit_code, missing.stderr) == (1, "Error: End not found\n")
