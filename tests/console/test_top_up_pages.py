"""The pages of top-ups: a dry run, having it applied, schedules."""

from __future__ import annotations

import pytest

from tests.console.browser import Browser
from tests.support import PACKAGE, Billing

NEW = {
    "package_id": PACKAGE,
    "amount": "100",
    "mode": "add",
    "wallet_status": "active",
    "reference": "spring",
    "reason": "Spring gift",
}
SCHEDULE = {**NEW, "period": "monthly", "day": "31", "catch_up": "each", "reference": "monthly"}


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    for user_id in ("a", "b"):
        billing.wallet(user_id, tokens=0)
    return billing


def prepared(operator: Browser, **fields: str) -> str:
    """A dry run; its page."""
    form = operator.page("/top-ups/new").form("/console/top-ups/new")
    response = operator.send(form, step="do", **{**NEW, **fields})
    assert "Nothing is posted yet" in operator.follow(response).text
    return response.headers["Location"].partition("?")[0]


def test_a_dry_run_is_applied_once(operator: Browser, shop: Billing) -> None:
    assert "No package was topped up" in operator.page("/top-ups").text
    path = prepared(operator)
    found = operator.page(path)
    for words in ("A dry run", "as frozen", "200", "Spring gift", "admin/Ada"):
        assert words in found.text, words
    assert shop.balance("a").posted_micros == 0
    apply = path.replace("/show/", "/apply/")
    review = operator.review(apply)
    assert "2 wallets get 200 tokens in all" in review.text
    assert "Workers top the wallets up now" in operator.follow(operator.change(apply)).text
    shop.container.top_ups.work_off(seconds=60)
    done = operator.page(path)
    assert "hx-get" not in done.html
    for words in ("topped up", "Apply it"):
        assert (words in done.text) is (words != "Apply it"), words
    assert [shop.balance(user_id).posted_micros for user_id in "ab"] == [100_000_000] * 2
    assert "No wallet matches" in operator.page(f"{path}?outcome=full").text
    assert "spring" in operator.page("/top-ups").text
    form = operator.page("/top-ups/new").form("/console/top-ups/new")
    assert operator.send(form, step="do", **{**NEW, "amount": "5"}).status_code == 409
    operator.page("/top-ups/show/99", 404)


def test_a_dry_run_is_discarded(operator: Browser, shop: Billing) -> None:
    path = prepared(operator, mode="fill", wallet_status="any")
    assert "filled up to 100 tokens" in operator.page(path).text
    discard = path.replace("/show/", "/discard/")
    assert "was discarded" in operator.follow(operator.change(discard)).text
    operator.page(path, 404)


def test_a_schedule_from_its_first_day_to_its_end(operator: Browser, shop: Billing) -> None:
    assert "No schedule yet" in operator.page("/top-ups/schedules").text
    review = operator.review("/top-ups/schedules/new", **SCHEDULE)
    for words in ("each month on day 31", "It falls due on", "200"):
        assert words in review.text, words
    response = operator.send(review.form("/console/top-ups/schedules/new"), step="do")
    path = response.headers["Location"].partition("?")[0]
    assert "was created" in operator.follow(response).text
    assert "It has not fallen due yet" in operator.page(path).text
    shop.execute_in_postgres("UPDATE top_up_schedules SET next_on = CAST(now() AT TIME ZONE 'UTC' AS date)")
    shop.container.top_up_schedules.work_off(seconds=60)
    shop.container.top_ups.work_off(seconds=60)
    assert "schedule-1:" in operator.page(path).text
    for verb, state in (("pause", "paused"), ("resume", "active"), ("end", "ended")):
        found = operator.follow(operator.change(path.replace("/show/", f"/{verb}/"), reason="Audit"))
        assert f"The schedule is {state}" in found.text
    assert "monthly" in operator.page("/top-ups/schedules").text


def test_what_is_wrong_is_told_beside_the_field(operator: Browser, shop: Billing) -> None:
    for fields, words in (
        ({"day": "32"}, "from 1 to 31"),
        ({"period": "weekly"}, "Must be from 1 to 7"),
        ({"user_id": "a"}, "either a package or a user"),
        ({"starts_on": "2020-01-01"}, "in the past"),
    ):
        assert words in operator.review("/top-ups/schedules/new", 400, **{**SCHEDULE, **fields}).text, words


def test_who_may_only_look(reader: Browser, shop: Billing) -> None:
    assert "Top up a package" not in reader.page("/top-ups").text
    for path in ("/top-ups/new", "/top-ups/apply/1", "/top-ups/schedules/new", "/top-ups/schedules/end/1"):
        reader.page(path, 403)
