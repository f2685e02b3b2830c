"""Statements: every entry between two moments, and balances that add up, also where entries came out of turn."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import simplejson
from click.testing import Result
from flask import Flask

from app.cli import cli
from tests.http.admin import Admin, assert_invalid, data, failure
from tests.support import Billing

# What was posted to whom and when, in the order of the ledger.
POSTED = [
    ("u", "2030-01-30T10:00:00Z", 100),
    ("noise", "2030-01-31T23:00:00Z", 1),
    ("u", "2030-01-31T23:59:59Z", -10),
    ("u", "2030-02-01T00:00:00Z", -20),
    # It began in January, and waited for the wallet until somebody of February was done.
    ("u", "2030-01-31T23:59:59.9Z", -5),
    ("noise", "2030-02-01T00:30:00Z", 1),
    ("u", "2030-02-10T12:00:00Z", 50),
    ("u", "2030-03-01T00:00:00Z", 7),
    ("late", "2030-03-05T00:00:00Z", 1),
]


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    balances = dict.fromkeys(("u", "noise", "late"), 0)
    for user_id in balances:
        billing.wallet(user_id, tokens=0)
    for i, (user_id, moment, tokens) in enumerate(POSTED):
        balances[user_id] += tokens
        billing.execute_in_postgres(f"""
            INSERT INTO token_transactions (
                wallet_id, user_id, kind, amount_micros, balance_after_micros, reference, created_at
            ) VALUES (
                '{user_id}', '{user_id}', 'adjustment', {tokens * 10**6}, {balances[user_id] * 10**6}, 'r{i}',
                '{moment}'
            )
        """)
    for user_id, balance in balances.items():
        billing.execute_in_postgres(f"UPDATE wallets SET posted_micros = {balance * 10**6} WHERE user_id = '{user_id}'")
    return billing


def told(admin: Admin, **query: str) -> dict[str, Any]:
    return data(admin.get("/wallets/u/statement", **query))


def assert_adds_up(statement: dict[str, Any]) -> None:
    balance = statement["opening_token"]
    for item in statement["items"]:
        balance += item["token"]
        assert item["balance_after"] == balance
    assert balance == statement["closing_token"]


def test_months_follow_each_other_and_add_up(admin: Admin, shop: Billing) -> None:
    months = ["2030-01-01", "2030-02-01", "2030-03-01", "2030-04-01"]
    statements = [told(admin, **{"from": first, "to": then}) for first, then in pairwise(months)]
    for statement in statements:
        assert_adds_up(statement)
    ends = [(statement["opening_token"], statement["closing_token"]) for statement in statements]
    assert ends == [(0, 90), (90, 115), (115, 122)]
    assert [[item["token"] for item in statement["items"]] for statement in statements] == [
        [100, -10],
        # What waited stands where the ledger has it.
        [-20, -5, 50],
        [7],
    ]
    assert (statements[0]["from"], statements[0]["to"], statements[0]["user_id"]) == (
        "2030-01-01T00:00:00.000Z",
        "2030-02-01T00:00:00.000Z",
        "u",
    )


def test_open_ends(admin: Admin, shop: Billing) -> None:
    whole = told(admin)
    assert (whole["from"], whole["to"], whole["opening_token"], whole["closing_token"]) == (None, None, 0, 122)
    assert len(whole["items"]) == 6
    since = told(admin, **{"from": "2030-02-10T12:00:00Z"})
    assert (since["opening_token"], since["closing_token"], len(since["items"])) == (65, 122, 2)
    until = told(admin, to="2030-02-10T12:00:00Z")
    assert (until["opening_token"], until["closing_token"], len(until["items"])) == (0, 65, 4)
    for nothing in ({"from": "2031-01-01"}, {"from": "2020-01-01", "to": "2020-02-01"}):
        empty = told(admin, **nothing)
        assert empty["items"] == []
        assert empty["opening_token"] == empty["closing_token"] == (0 if "to" in nothing else 122)


def test_pages(admin: Admin, shop: Billing) -> None:
    items = admin.items("/wallets/u/statement", limit=2)
    assert items == told(admin)["items"]
    page = told(admin, limit="2")
    assert (page["opening_token"], page["closing_token"]) == (0, 122)


def test_filters_leave_the_balances(admin: Admin, shop: Billing) -> None:
    filtered = told(admin, kind="top_up")
    assert (filtered["items"], filtered["closing_token"]) == ([], 122)
    assert len(told(admin, kind="adjustment")["items"]) == 6


def test_as_a_table(admin: Admin, shop: Billing) -> None:
    answer = admin.get("/wallets/u/statement", accept="text/csv", **{"from": "2030-02-01", "to": "2030-03-01"})
    assert answer.headers["Content-Disposition"] == 'attachment; filename="statement.csv"'
    opening, *lines, closing = csv.DictReader(answer.get_data(as_text=True).splitlines())
    assert (opening["kind"], opening["balance_after"], opening["created_at"]) == (
        "opening",
        "90",
        "2030-02-01T00:00:00.000Z",
    )
    assert (closing["kind"], closing["balance_after"]) == ("closing", "115")
    balance = Decimal(opening["balance_after"])
    for line in lines:
        balance += Decimal(line["token"])
        assert balance == Decimal(line["balance_after"])
    assert (len(lines), balance) == (3, 115)
    assert_invalid(admin.get("/wallets/u/statement", accept="text/csv", limit=5), "limit")


def test_balances_by_day(admin: Admin, shop: Billing) -> None:
    found = data(admin.get("/wallets/u/balances", **{"from": "2030-01-29", "to": "2030-02-12"}))["items"]
    assert [item["balance_token"] for item in found] == [0, 100, 90, *[65] * 9, 115, 115]
    assert (found[0]["day"], found[-1]["day"]) == ("2030-01-29", "2030-02-11")
    # Each is the closing balance of a statement until then.
    for item in found[:4]:
        then = datetime.fromisoformat(item["day"]).replace(tzinfo=UTC) + timedelta(days=1)
        assert told(admin, to=f"{then:%Y-%m-%d}")["closing_token"] == item["balance_token"]
    table = admin.get("/wallets/u/balances", accept="text/csv", **{"from": "2030-01-30", "to": "2030-01-31"})
    assert table.get_data(as_text=True) == "day,balance_token\n2030-01-30,100\n"


def test_balances_of_the_last_days(admin: Admin, shop: Billing) -> None:
    shop.wallet("now", tokens=5)
    found = data(admin.get("/wallets/now/balances"))["items"]
    assert len(found) == 30
    assert [item["balance_token"] for item in found[-2:]] == [0, 5]


def test_what_was_archived(admin: Admin, app: Flask, shop: Billing, tmp_path: Path) -> None:
    # Only months that are over can be archived.
    shop.execute_in_postgres("ALTER TABLE token_transactions DISABLE TRIGGER ALL")
    try:
        shop.execute_in_postgres("UPDATE token_transactions SET created_at = created_at - interval '10 years'")
    finally:
        shop.execute_in_postgres("ALTER TABLE token_transactions ENABLE TRIGGER ALL")
    done = app.test_cli_runner().invoke(cli, ["archive", "--before", "2020-02", "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    refused = failure(admin.get("/wallets/u/statement", **{"from": "2020-01-15"}), 409, "archived")
    assert "2020-02-01" in refused["message"]
    failure(admin.get("/wallets/u/balances", **{"from": "2020-01-15", "to": "2020-02-15"}), 409, "archived")
    for query in ({}, {"from": "2020-02-01"}):
        statement = told(admin, **query)
        assert_adds_up(statement)
        assert (statement["opening_token"], statement["closing_token"]) == (90, 122)
    found = data(admin.get("/wallets/u/balances", **{"from": "2020-02-01", "to": "2020-02-03"}))["items"]
    assert [item["balance_token"] for item in found] == [65, 65]


def test_bad_requests(admin: Admin, shop: Billing) -> None:
    failure(admin.get("/wallets/nobody/statement"), 404, "wallet_not_found")
    failure(admin.get("/wallets/nobody/balances"), 404, "wallet_not_found")
    assert_invalid(admin.get("/wallets/u/statement", **{"from": "x", "to": "y", "kind": "z"}), "from", "to", "kind")
    assert_invalid(admin.get("/wallets/u/statement", **{"from": "2030-02-01", "to": "2030-01-01"}), "to")
    assert_invalid(admin.get("/wallets/u/statement", user_id="u", package_id="p"), "user_id", "package_id")
    assert_invalid(admin.get("/wallets/u/statement", cursor="x"), "cursor")
    assert_invalid(admin.get("/wallets/u/balances", **{"from": "2030-01-01", "to": "2031-02-01"}), "from")
    assert_invalid(admin.get("/wallets/u/balances", kind="usage"), "kind")
    assert_invalid(admin.get("/wallets/u/balances", **{"from": "2030-01-01T00:00:00Z"}), "from")


def test_from_the_command_line(app: Flask, shop: Billing, tmp_path: Path) -> None:
    def flask(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(cli, ("wallets", *arguments))

    shown = flask("statement", "u", "--month", "2030-02")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[0].split() == ["opening_token", "90"]
    assert lines[1].split() == ["closing_token", "115"]
    assert len([line for line in lines if "adjustment" in line]) == 3
    first = flask("statement", "u", "--limit", "2", "--json")
    answer = simplejson.loads(first.stdout)
    assert (len(answer["items"]), answer["closing_token"]) == (2, 122)
    rest = simplejson.loads(flask("statement", "u", "--after", str(answer["next"]), "--json").stdout)
    assert len(rest["items"]) == 4
    target = tmp_path / "statement.csv"
    assert flask("statement", "u", "--format", "csv", "--output", str(target)).exit_code == 0
    assert len(target.read_text().splitlines()) == 9
    days = flask("balances", "u", "--from", "2030-01-30", "--to", "2030-02-01")
    assert [line.split() for line in days.output.splitlines()[1:]] == [["2030-01-30", "100"], ["2030-01-31", "90"]]
    assert flask("balances", "nobody").exit_code == 1
