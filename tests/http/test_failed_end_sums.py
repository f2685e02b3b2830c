"""Failed ends and debts added up: whose, of what, why, since when, exact to the micro-token, by API and command."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import simplejson
from flask import Flask

from app.cli import cli
from tests.http.admin import Admin, assert_invalid, data
from tests.support import FEATURE, PACKAGE, Billing

HOUR = "interval '1 hour'"


@pytest.fixture
def books(till: Billing) -> Billing:
    """Five failed ends: of `poor` three debts, one of them old, of `u` two dead letters for other reasons.

    Costs: 40 output tokens are 11 tokens.
    """
    till.wallet("poor", tokens=3)
    end = till.container.end.end
    for output_tokens, model in ((40, "large"), (41, "large"), (80, "small")):
        end(till.usage("poor", output_tokens=output_tokens, model=model))
    for output_tokens in (120, 400):
        end(till.usage("u", output_tokens=output_tokens))
    till.settle_everything()
    till.execute("UPDATE end_inbox SET state = 'dead', last_error = 'wallet_missing' WHERE output_tokens = 120")
    till.execute("UPDATE end_inbox SET state = 'dead', last_error = 'too_slow' WHERE output_tokens = 400")
    till.execute(f"UPDATE end_inbox SET accepted_at = now() - 30 * {HOUR} WHERE output_tokens IN (41, 400)")
    return till


def grouped(admin: Admin, by: str, **query: Any) -> list[tuple[Any, ...]]:
    found = data(admin.get("/failed-ends/groups", group_by=by, **query))["items"]
    return [(*(item[name] for name in by.split(",")), item["ends"], item["cost"]) for item in found]


class TestGroups:
    def test_by_user(self, admin: Admin, books: Billing) -> None:
        found = data(admin.get("/failed-ends/groups", group_by="user_id"))
        first = found["items"][0]
        assert first.pop("oldest_accepted_at") < first.pop("newest_accepted_at")
        assert first == {
            "user_id": "u",
            "ends": 2,
            "users": 1,
            "cost": 143,
            "retrying": 0,
            "retrying_cost": 0,
            "dead": 2,
            "dead_cost": 143,
        }
        poor = Decimal("44.275")
        assert [(item["user_id"], item["cost"]) for item in found["items"]] == [("u", 143), ("poor", poor)]
        total = found["total"]
        assert (total["ends"], total["users"], total["cost"]) == (5, 2, 143 + poor)
        assert (total["retrying"], total["retrying_cost"], total["dead"], total["dead_cost"]) == (3, poor, 2, 143)

    def test_by_anything(self, admin: Admin, books: Billing) -> None:
        poor = Decimal("44.275")
        assert grouped(admin, "last_error") == [
            ("too_slow", 1, 110), ("insufficient_tokens", 3, poor), ("wallet_missing", 1, 33),
        ]  # fmt: skip
        assert grouped(admin, "age") == [
            ("1d_to_7d", 2, Decimal("121.275")), ("under_1h", 3, 66),
        ]  # fmt: skip
        assert grouped(admin, "model") == [(None, 2, 143), ("large", 2, Decimal("22.275")), ("small", 1, 22)]
        assert grouped(admin, "state") == [("dead", 2, 143), ("retrying", 3, poor)]
        assert grouped(admin, "package_id") == [(PACKAGE, 5, 143 + poor)]
        assert grouped(admin, "kind,feature_endpoint_id") == [("usage", FEATURE, 5, 143 + poor)]
        assert grouped(admin, "user_id,age")[0] == ("u", "1d_to_7d", 1, 110)

    def test_without_groups_all_together(self, admin: Admin, books: Billing) -> None:
        found = data(admin.get("/failed-ends/groups"))
        assert found["items"] == [found["total"]]
        nothing = data(admin.get("/failed-ends/groups", user_id="nobody"))["total"]
        assert (nothing["ends"], nothing["cost"], nothing["oldest_accepted_at"]) == (0, 0, None)
        assert data(admin.get("/failed-ends/groups", user_id="nobody", group_by="user_id"))["items"] == []

    @pytest.mark.parametrize(
        ("query", "ends"),
        [
            ({"user_id": "poor"}, 3),
            ({"feature_endpoint_id": FEATURE, "model": "large"}, 2),
            ({"package_id": PACKAGE, "state": "dead"}, 2),
            ({"last_error": "too_slow"}, 1),
            ({"older_than": "24h"}, 2),
            ({"younger_than": "24h"}, 3),
            ({"older_than": "24h", "younger_than": "1d"}, 0),
            ({"age": "1d_to_7d", "user_id": "u"}, 1),
            ({"min_cost": "22", "max_cost": "33"}, 2),
            ({"min_cost": "11.275", "max_cost": "11.275"}, 1),
            ({"kind": "chargeback"}, 0),
            ({"to": "2000-01-01"}, 0),
            ({"from": "2000-01-01"}, 5),
        ],
    )
    def test_filters_are_those_of_the_list(
        self, admin: Admin, books: Billing, query: dict[str, str], ends: int
    ) -> None:
        assert data(admin.get("/failed-ends/groups", **query))["total"]["ends"] == ends
        assert len(admin.items("/failed-ends", limit=2, **query)) == ends
        assert data(admin.get("/debts", **query))["total"]["ends"] == ends

    def test_a_group_can_be_drilled_into(self, admin: Admin, books: Billing) -> None:
        names = ("user_id", "feature_endpoint_id", "last_error", "age", "state", "kind", "package_id")
        for item in data(admin.get("/failed-ends/groups", group_by=",".join(names)))["items"]:
            assert len(admin.items("/failed-ends", **{name: item[name] for name in names})) == item["ends"]

    def test_pages(self, admin: Admin, books: Billing) -> None:
        for by in ("model", "user_id,last_error", "age"):
            whole = data(admin.get("/failed-ends/groups", group_by=by))["items"]
            pages = list(admin.pages("/failed-ends/groups", group_by=by, limit=1))
            assert [item for page in pages for item in page] == whole
            assert len(pages) == len(whole)

    def test_as_a_table(self, admin: Admin, books: Billing) -> None:
        table = admin.get("/failed-ends/groups", group_by="user_id", accept="text/csv").text.splitlines()
        assert table[0].startswith("user_id,ends,users,cost,")
        assert [line.split(",")[:4] for line in table[1:]] == [["u", "2", "1", "143"], ["poor", "3", "1", "44.275"]]

    def test_what_is_refused(self, admin: Admin) -> None:
        assert_invalid(admin.get("/failed-ends/groups", user="poor"), "user")
        wrong = {
            "group_by": "users", "last_error": "broke", "age": "old", "older_than": "1", "younger_than": "x",
            "min_cost": "-1", "max_cost": "1e", "state": "accepted",
        }  # fmt: skip
        for path in ("/failed-ends/groups", "/debts"):
            assert_invalid(admin.get(path, **wrong), *wrong)
            assert_invalid(admin.get(path, min_cost="2", max_cost="1"), "max_cost")
            for cursor in ("YWJj", "MA", "W10"):
                assert_invalid(admin.get(path, group_by="user_id", cursor=cursor), "cursor")


class TestDebts:
    def test_by_user_with_what_would_pay_them(self, admin: Admin, books: Billing) -> None:
        poor = Decimal("44.275")
        found = data(admin.get("/debts", group_by="user_id"))
        told = [(item["user_id"], item["debt_token"], item["room_token"], item["missing_token"])
                for item in found["items"]]  # fmt: skip
        assert told == [("u", 143, 20, 123), ("poor", poor, 3, poor - 3)]
        assert (found["total"]["debt_token"], found["total"]["ends"]) == (143 + poor, 5)
        assert found["total"]["debt_token"] == data(admin.get("/totals"))["debt_token"]
        assert found["items"][0]["oldest_accepted_at"].endswith("Z")

    def test_what_is_replayed_is_owed_until_somebody_has_been_at_it(self, admin: Admin, books: Billing) -> None:
        [slow] = admin.items("/failed-ends", last_error="too_slow")
        data(admin.post(f"/failed-ends/{slow['id']}/replay", {}))
        assert data(admin.get("/failed-ends/groups"))["total"]["ends"] == 4
        owed = data(admin.get("/debts"))["total"]
        assert (owed["ends"], owed["debt_token"]) == (5, data(admin.get("/totals"))["debt_token"])

    def test_by_cause(self, admin: Admin, books: Billing) -> None:
        found = data(admin.get("/debts", group_by="last_error,user_id"))["items"]
        assert [(item["last_error"], item["user_id"], item["ends"]) for item in found] == [
            ("too_slow", "u", 1), ("insufficient_tokens", "poor", 3), ("wallet_missing", "u", 1),
        ]  # fmt: skip
        table = admin.get("/debts", group_by="user_id", accept="text/csv").text.splitlines()
        assert table[1].split(",")[:6] == ["u", "2", "1", "143", "20", "123"]

    def test_a_user_without_a_wallet(self, admin: Admin, till: Billing, owed: str) -> None:
        till.execute("UPDATE end_inbox SET wallet_id = 'nobody', user_id = 'nobody', last_error = 'wallet_missing'")
        [item] = data(admin.get("/debts", group_by="user_id"))["items"]
        assert (item["user_id"], item["room_token"], item["missing_token"]) == ("nobody", None, None)


class TestCommands:
    def test_the_same(self, app: Flask, books: Billing) -> None:
        def run(*arguments: str) -> str:
            result = app.test_cli_runner().invoke(cli, arguments)
            assert result.exit_code == 0, result.output
            return result.stdout

        lines = run("failed-ends", "groups", "--by", "user_id,state").splitlines()
        assert lines[0].split() == ["user_id", "state", "ends", "users", "cost", "retrying", "dead",
                                    "oldest_accepted_at"]  # fmt: skip
        assert lines[1].split()[:5] == ["u", "dead", "2", "1", "143"]
        assert ["cost", "187.275"] in [line.split() for line in lines]
        found = simplejson.loads(run("debts", "--by", "user_id", "--older-than", "24h", "--json"), use_decimal=True)
        assert [(item["user_id"], item["debt_token"]) for item in found["items"]] == [
            ("u", 110), ("poor", Decimal("11.275")),
        ]  # fmt: skip
        assert "123" in run("debts", "--by", "user_id")
        first = simplejson.loads(run("failed-ends", "groups", "--by", "model", "--limit", "1", "--json"))
        rest = simplejson.loads(run("failed-ends", "groups", "--by", "model", "--after", first["next"], "--json"))
        assert [item["model"] for item in rest["items"]] == ["large", "small"]
        listed = simplejson.loads(run("failed-ends", "list", "--error", "too_slow", "--min-cost", "1", "--json"))
        assert len(listed["items"]) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ("failed-ends", "groups", "--by", "users"),
            ("failed-ends", "groups", "--by", "user_id", "--after", "x"),
            ("failed-ends", "list", "--error", "broke"),
            ("debts", "--older-than", "1"),
            ("debts", "--feature-endpoint", "x"),
        ],
    )
    def test_bad_options(self, app: Flask, arguments: tuple[str, ...]) -> None:
        assert app.test_cli_runner().invoke(cli, arguments).exit_code == 2
