"""Pricing past runs anew: a dry run by user and model, then amendments, each run once whatever is killed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from app.cli import cli
from tests.http.admin import Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved

# Half of what the guide's rule says: 40 output tokens cost 5, and 10 % of it.
PRICE = {"input_per_million": 0, "output_per_million": 125_000}


class Killed(BaseException):
    """What a process dies of."""


@pytest.fixture
def price_id(admin: Admin, till: Billing) -> int:
    """A price that holds for nothing that is sent here."""
    return int(data(admin.post("/prices", {**PRICE, "model": "other"}), 201)["id"])


@pytest.fixture
def shop(till: Billing, price_id: int) -> Billing:
    """Runs of 11 tokens: three settled ones of `u` and `v`, and one of `v` that nobody has settled."""
    till.wallet("v", tokens=30)
    for user_id, model in (("u", "large"), ("v", "large"), ("v", "small")):
        till.container.end.end(till.usage(user_id, model=model))
    till.settle_everything()
    till.container.end.end(till.usage("v", model="large"))
    return till


def work_off(till: Billing) -> None:
    """What the worker does."""
    till.container.repricings.work_off(seconds=60)


def created(admin: Admin, price_id: int, **fields: Any) -> int:
    return int(data(admin.post("/repricings", {"price_id": price_id, "reason": "Wrong price", **fields}), 202)["id"])


def posted(till: Billing, user_id: str) -> Decimal:
    assert_conserved(till, user_id)
    return Decimal(till.balance(user_id).posted_micros) / 1_000_000


def test_a_dry_run_by_user_and_model_then_amendments(admin: Admin, shop: Billing, price_id: int) -> None:
    number = created(admin, price_id)
    failure(admin.post(f"/repricings/{number}/apply", {}), 409, "not_ready")
    work_off(shop)
    dry = data(admin.get(f"/repricings/{number}"))
    assert (dry["state"], dry["runs"], dry["old_cost"], dry["new_cost"], dry["amended"]) == ("ready", 4, 44, 22, 0)
    columns = ("user_id", "model", "runs", "old_cost", "new_cost", "difference")
    groups = [tuple(group[name] for name in columns) for group in dry["by_user_and_model"]]
    assert groups == [
        ("v", "large", 2, 22, 11, -11),
        ("u", "large", 1, 11, Decimal("5.5"), Decimal("-5.5")),
        ("v", "small", 1, 11, Decimal("5.5"), Decimal("-5.5")),
    ]
    # A dry run changes nothing.
    assert (posted(shop, "u"), posted(shop, "v")) == (9, 8)

    assert data(admin.post(f"/repricings/{number}/apply", {}), 202)["state"] == "applying"
    work_off(shop)
    done = data(admin.get(f"/repricings/{number}"))
    assert (done["state"], done["amended"], done["unchanged"], done["refused"]) == ("done", 4, 0, 0)
    assert (posted(shop, "u"), posted(shop, "v")) == (Decimal("14.5"), Decimal("13.5"))
    entry = data(admin.get("/wallets/u/transactions"))["items"][0]
    assert (entry["kind"], entry["token"], entry["price_id"], entry["reference"], entry["reason"]) == (
        "amendment",
        Decimal("5.5"),
        price_id,
        f"repricing-{number}",
        "Wrong price",
    )

    # Neither the same one nor another of the same posts anything more.
    ledgers = shop.ledger("u"), shop.ledger("v")
    assert data(admin.post(f"/repricings/{number}/apply", {}), 202)["state"] == "done"
    again = created(admin, price_id)
    work_off(shop)
    assert data(admin.post(f"/repricings/{again}/apply", {}), 202)["runs"] == 0
    work_off(shop)
    assert data(admin.get(f"/repricings/{again}"))["state"] == "done"
    assert (shop.ledger("u"), shop.ledger("v")) == ledgers
    assert [item["id"] for item in admin.items("/repricings")] == [again, number]


def test_killed_half_way_it_goes_on(
    admin: Admin, shop: Billing, price_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = created(admin, price_id)
    work_off(shop)
    data(admin.post(f"/repricings/{number}/apply", {}), 202)
    service = shop.container.repricings
    amended = []

    def amend(*args: Any) -> bool:
        if len(amended) == 2:
            raise Killed
        amended.append(args)
        return original(*args)

    original = service._amend
    monkeypatch.setattr(service, "_amend", amend)
    with pytest.raises(Killed):
        work_off(shop)
    assert data(admin.get(f"/repricings/{number}"))["amended"] == 2
    monkeypatch.setattr(service, "_amend", original)
    work_off(shop)
    assert data(admin.get(f"/repricings/{number}"))["amended"] == 4
    assert (posted(shop, "u"), posted(shop, "v")) == (Decimal("14.5"), Decimal("13.5"))


def test_selecting_goes_on_where_it_was(
    admin: Admin, shop: Billing, price_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.billing.repricings.ENDS_PER_BATCH", 1)
    number = created(admin, price_id)
    for _ in range(10):
        shop.container.repricings.go_on(number, iter([True, False]).__next__)
    dry = data(admin.get(f"/repricings/{number}"))
    assert (dry["state"], dry["runs"]) == ("ready", 4)


def test_what_changed_since_the_dry_run(admin: Admin, shop: Billing, price_id: int) -> None:
    number = created(admin, price_id)
    work_off(shop)
    settled, _, _ = (entry.end_id for entry in [*shop.ledger("u"), *shop.ledger("v")] if entry.kind == "usage")
    data(admin.post(f"/ends/{settled}/reversals", {"reference": "r", "reason": "Empty"}), 201)
    [waiting] = shop.inbox("v")
    shop.execute("UPDATE end_inbox SET state = 'dead', last_error = 'wallet_missing'")
    data(admin.post(f"/failed-ends/{waiting.id}/write-off", {"reason": "Gone"}), 201)
    data(admin.post(f"/repricings/{number}/apply", {}), 202)
    work_off(shop)
    done = data(admin.get(f"/repricings/{number}"))
    assert (done["state"], done["amended"], done["unchanged"], done["refused"]) == ("done", 2, 1, 1)


def test_an_amendment_after_it_is_at_the_new_price(admin: Admin, shop: Billing, price_id: int) -> None:
    number = created(admin, price_id, user_id="u")
    work_off(shop)
    data(admin.post(f"/repricings/{number}/apply", {}), 202)
    work_off(shop)
    end_id = shop.ledger("u")[1].end_id
    body = {"reference": "r", "reason": "Recounted", "input_token": 10, "output_token": 80}
    assert data(admin.post(f"/ends/{end_id}/amendments", body), 201)["cost"] == 11


@pytest.mark.parametrize(
    ("fields", "runs"),
    [
        ({"user_id": "u"}, 1),
        ({"model": "large"}, 3),
        ({"model": "large", "user_id": "v"}, 2),
        ({"model": "unknown"}, 0),
        ({"feature_endpoint_id": FEATURE}, 4),
        ({"to": "2000-01-01T00:00:00Z"}, 0),
        ({"from": "2000-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"}, 4),
        ({"from": "2000-01-01", "to": "2999-01-01"}, 4),
        ({"from": "2999-01-01T00:00:00Z"}, 0),
    ],
)
def test_filters(admin: Admin, shop: Billing, price_id: int, fields: dict[str, str], runs: int) -> None:
    number = created(admin, price_id, **fields)
    work_off(shop)
    assert data(admin.get(f"/repricings/{number}"))["runs"] == runs


def test_dearer_than_the_balance_is_debt(admin: Admin, shop: Billing) -> None:
    dear = data(admin.post("/prices", {"input_per_million": 0, "output_per_million": 1_000_000, "model": "x"}), 201)
    number = created(admin, dear["id"], user_id="u")
    work_off(shop)
    data(admin.post(f"/repricings/{number}/apply", {}), 202)
    work_off(shop)
    wallet = data(admin.get("/wallets/u"))
    assert (wallet["posted_token"], wallet["debt_token"]) == (9, 33)


def test_bad_requests(admin: Admin, till: Billing, price_id: int) -> None:
    assert_invalid(admin.post("/repricings", {}), "price_id", "reason")
    good = {"price_id": price_id, "reason": "Wrong price"}
    for field in ("price_id", "reason", "feature_endpoint_id", "model", "user_id", "from", "to"):
        for value in ("", True, [], "a\nb"):
            assert_invalid(admin.post("/repricings", {**good, field: value}), field)
    backwards = {"from": "2030-01-02T00:00:00Z", "to": "2030-01-01T00:00:00Z"}
    assert_invalid(admin.post("/repricings", {**good, **backwards}), "to")
    assert "price_id" in failure(admin.post("/repricings", {**good, "price_id": 999}), 404, "not_found")["errors"]
    unknown = admin.post("/repricings", {**good, "feature_endpoint_id": "nope"})
    assert "feature_endpoint_id" in failure(unknown, 404, "not_found")["errors"]
    for number in (999, 2**64):
        failure(admin.get(f"/repricings/{number}"), 404, "not_found")
        failure(admin.post(f"/repricings/{number}/apply", {}), 404, "not_found")


def test_from_the_command_line(app: Flask, shop: Billing, price_id: int) -> None:
    def flask(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(cli, ("repricings", *arguments))

    dry = flask("create", "--price", str(price_id), "--reason", "Wrong price")
    assert dry.exit_code == 0, dry.output
    assert "ready" in dry.output
    assert "large" in dry.output
    number = dry.output.split()[dry.output.split().index("id") + 1]
    applied = flask("apply", number)
    assert (applied.exit_code, "done" in applied.output) == (0, True), applied.output
    assert posted(shop, "u") == Decimal("14.5")
    assert flask("show", number, "--json").exit_code == 0
    assert number in flask("list").output
    shown = flask("show", "999")
    assert (shown.exit_code, "Repricing not found" in shown.output) == (1, True)
