"""Wallets searched, filtered and sorted, page after page."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from redis import RedisError

from app.billing.start import StartRequest
from app.cli import cli
from tests.http.admin import Admin, assert_invalid, data, failure
from tests.support import FEATURE, PACKAGE, Billing

SORTS = ("user_id", "balance", "debt", "activity")


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """Wallets with posted balances of 0 to 50, two of which owe and one of which holds something."""
    billing.catalog()
    names = ("Alice", "bob@x.org", "carol", "a_b", "a%b", "dave")
    for i, name in enumerate(names):
        billing.wallet(name, tokens=10 * i)
    billing.container.end.end(billing.usage("Alice", output_tokens=40))
    billing.settle_everything()
    # Nobody has settled this one: the wallet's row doesn't tell of it.
    billing.container.end.end(billing.usage("bob@x.org", output_tokens=400))
    billing.container.start.start(StartRequest("carol", FEATURE, hold_micros=5_000_000))
    billing.execute_in_postgres("UPDATE wallets SET status = 'suspended' WHERE user_id = 'dave'")
    return billing


def users(admin: Admin, **query: Any) -> list[str]:
    return [item["user_id"] for item in admin.items("/wallets", **query)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"search": "ALI"}, ["Alice"]),
        ({"search": "@x."}, ["bob@x.org"]),
        ({"search": "_"}, ["a_b"]),
        ({"search": "%"}, ["a%b"]),
        ({"search": "nobody"}, []),
        ({"prefix": "a"}, ["a%b", "a_b"]),
        ({"prefix": "a_"}, ["a_b"]),
        ({"prefix": "alice"}, []),
        ({"in_debt": "true"}, ["Alice", "bob@x.org"]),
        ({"in_debt": "false"}, ["a%b", "a_b", "carol", "dave"]),
        ({"with_holds": "true"}, ["carol"]),
        ({"with_holds": "false"}, ["Alice", "a%b", "a_b", "bob@x.org", "dave"]),
        ({"balance_below": "10"}, ["Alice"]),
        ({"balance_below": "10.000001"}, ["Alice", "bob@x.org"]),
        ({"balance_above": "20"}, ["a%b", "a_b", "dave"]),
        ({"balance_above": "-5", "balance_below": "30"}, ["Alice", "bob@x.org", "carol"]),
        ({"status": "suspended"}, ["dave"]),
        ({"package_id": PACKAGE, "search": "o", "in_debt": "false"}, ["carol"]),
        ({"package_id": "none"}, []),
    ],
)
def test_filters(admin: Admin, shop: Billing, query: dict[str, str], found: list[str]) -> None:
    assert users(admin, **query) == found
    assert users(admin, **query, limit=1) == found


def test_orders(admin: Admin, shop: Billing) -> None:
    data(admin.post("/wallets/carol/top-ups", {"token": 100, "reference": "r"}), 201)
    assert users(admin, sort="balance") == ["Alice", "bob@x.org", "a_b", "a%b", "dave", "carol"]
    assert users(admin, sort="-debt")[:1] == ["Alice"]
    assert users(admin, sort="-activity")[:2] == ["carol", "Alice"]
    assert users(admin, sort="-user_id") == sorted(users(admin), reverse=True)


@pytest.mark.parametrize("sort", [f"{sign}{name}" for sign in ("", "-") for name in SORTS])
def test_pages_of_every_order_have_each_wallet_once(admin: Admin, shop: Billing, sort: str) -> None:
    # Most are equal: the user id decides.
    shop.execute("UPDATE wallets SET posted_micros = 1, changed_at = now() WHERE user_id LIKE 'a%'")
    whole = users(admin, sort=sort)
    assert sorted(whole) == users(admin)
    assert users(admin, sort=sort, limit=1) == users(admin, sort=sort, limit=4) == whole
    # Backwards it is the other way round, equals too.
    assert users(admin, sort=sort.removeprefix("-") if sort[0] == "-" else f"-{sort}") == whole[::-1]
    table = admin.get("/wallets", accept="text/csv", sort=sort).get_data(as_text=True).splitlines()
    assert [line.partition(",")[0] for line in table[1:]] == whole


def test_a_cursor_belongs_to_its_order(admin: Admin, shop: Billing) -> None:
    cursors = {
        sort: data(admin.get("/wallets", sort=sort, limit=1))["next_cursor"] for sort in (*SORTS, "-balance", "-debt")
    }
    for sort, cursor in cursors.items():
        data(admin.get("/wallets", sort=sort, cursor=cursor))
        for other in SORTS:
            if other not in (sort, "user_id"):
                assert_invalid(admin.get("/wallets", sort=other, cursor=cursor), "cursor")


def test_without_redis_nobody_knows_who_holds(admin: Admin, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise RedisError

    monkeypatch.setattr(shop.container.redis_client, "zrange", away)
    failure(admin.get("/wallets", with_holds="true"), 503, "temporarily_unavailable")
    assert len(users(admin)) == 6


def test_when_it_last_changed(admin: Admin, shop: Billing) -> None:
    def changed_at() -> str:
        found: str = data(admin.get("/wallets/dave"))["changed_at"]
        return found

    seen = [changed_at()]
    data(admin.post("/wallets/dave/top-ups", {"token": 1, "reference": "r"}), 201)
    seen.append(changed_at())
    data(admin.patch("/wallets/dave", {"status": "active"}))
    seen.append(changed_at())
    shop.container.end.end(shop.usage("dave", output_tokens=4))
    shop.settle_everything()
    seen.append(changed_at())
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("search", ["", "a\nb", "x" * 129]),
        ("prefix", [""]),
        ("in_debt", ["", "yes", "True", "1"]),
        ("with_holds", ["0"]),
        ("balance_below", ["", "x", "1e", "0.0000001", "1000000001", "NaN"]),
        ("balance_above", ["--1"]),
        ("sort", ["", "token", "--debt", "debt,user_id", "DEBT"]),
        ("owes", ["true"]),
        ("cursor", ["", "x"]),
    ],
)
def test_bad_parameters(admin: Admin, shop: Billing, name: str, values: list[str]) -> None:
    for value in values:
        assert_invalid(admin.get("/wallets", **{name: value}), name)


@pytest.mark.parametrize(
    "text",
    ['["balance"]', '["balance","1","u"]', '["balance",true,"u"]', '["balance",99999999999999999999,"u"]', "{}", "["],
)
def test_bad_positions(admin: Admin, shop: Billing, text: str) -> None:
    from base64 import urlsafe_b64encode

    cursor = urlsafe_b64encode(text.encode()).decode().rstrip("=")
    assert_invalid(admin.get("/wallets", sort="balance", cursor=cursor), "cursor")
    moment = urlsafe_b64encode(b'["activity","2030-01-01","u"]').decode().rstrip("=")
    assert_invalid(admin.get("/wallets", sort="activity", cursor=moment), "cursor")


def test_from_the_command_line(app: Flask, shop: Billing) -> None:
    def flask(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(cli, ("wallets", "list", *arguments))

    first = flask("--in-debt", "--sort=-debt", "--limit", "1")
    assert first.exit_code == 0, first.output
    assert "Alice" in first.output
    position = first.output.splitlines()[-1].partition("--after ")[2].strip("'")
    assert "bob@x.org" in flask("--in-debt", "--sort=-debt", "--after", position).output
    assert "carol" in flask("--with-holds").output
    assert "dave" in flask("--balance-above", "40.5").output
    wrong = flask("--sort=balance", "--after", position)
    assert (wrong.exit_code, "--after" in wrong.output) == (2, True)
    assert flask("--sort=token").exit_code == 2
