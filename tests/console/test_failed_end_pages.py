"""Failed ends in the console: found by whose, why and since when; understood one by one; settled all together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from app.domain.keys import KeyScope
from tests.console.browser import Browser, Page
from tests.support import FEATURE, Billing, assert_conserved

HOSTILE = '<img src=x onerror="alert(1)">'
USERS = ("u1", "u2", HOSTILE)


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """Three users with two tokens and four debts of 11 tokens each; one end of the first is broken."""
    billing.catalog()
    for user_id in USERS:
        billing.wallet(user_id, tokens=2)
    billing.container.end.end_all([billing.usage(user_id, model="large") for user_id in USERS for _ in range(4)])
    billing.settle_everything()
    [broken, *_] = billing.inbox("u1")
    billing.execute(f"UPDATE end_inbox SET state = 'dead', last_error = 'quote_disagrees' WHERE id = '{broken.id}'")
    return billing


def path_of(page: Page, text: str) -> str:
    """Where the first link leads whose address has this in it."""
    return next(link for link in page.links if text in link)


def drafted(operator: Browser, path: str, **fields: Any) -> Page:
    """Go on from a list to the confirmation of what would be done."""
    whole = f"/console/failed-ends{path}"
    form = operator.page(whole).form(whole.partition("?")[0])
    return operator.follow(operator.send(form, step="do", **{"reason": "Outage", **fields}))


def number_of(page: Page) -> int:
    return int(next(form.action for form in page.forms if "/bulk-actions/" in form.action).split("/")[-2])


def confirmed(operator: Browser, page: Page) -> Page:
    form = page.form(f"/console/bulk-actions/{number_of(page)}/confirm")
    return operator.follow(operator.send(form))


def test_all_is_found_on_one_page(operator: Browser, shop: Billing) -> None:
    page = operator.page("/failed-ends")
    assert "12 ends of 3 users" in page.text
    # The sum exact, by user, cause, feature and age.
    assert "132" in page.text
    for named in ("u1", "u2", HOSTILE, "insufficient tokens", "quote disagrees", FEATURE, "under 1 h"):
        assert named in page.text
    assert "<img" not in page.html
    assert "Write off all 12" in page.text


def test_a_sum_leads_to_its_ends(operator: Browser, shop: Billing) -> None:
    page = operator.page(path_of(operator.page("/failed-ends"), "user_id=u1"))
    assert "4 ends of 1 user" in page.text
    page = operator.page(path_of(page, "last_error=quote_disagrees"))
    assert "1 end of 1 user" in page.text
    assert "Replay all 1" in page.text
    hostile = operator.page(f"/failed-ends?{urlencode({'user_id': HOSTILE})}")
    assert "4 ends of 1 user" in hostile.text


@pytest.mark.parametrize("group", ["user_id", "last_error", "age", "feature_endpoint_id", "model", "state", "kind",
                                   "package_id"])  # fmt: skip
def test_sums_by_anything(operator: Browser, shop: Billing, group: str) -> None:
    page = operator.page(f"/failed-ends?group_by={group}&min_cost=1")
    assert "All together 12 ends of 3 users: 132 tokens." in page.text
    if group == "user_id":
        paged = operator.page("/failed-ends?group_by=user_id&limit=2")
        assert "rest" not in paged.text
        assert len([link for link in operator.page(path_of(paged, "cursor=")).links if "user_id=" in link]) == 1


def test_filters(operator: Browser, shop: Billing) -> None:
    assert "11 ends" in operator.page("/failed-ends?last_error=insufficient_tokens&younger_than=1h&max_cost=11").text
    assert "No failed end matches" in operator.page("/failed-ends?older_than=1h").text
    assert "Must be a duration" in operator.page("/failed-ends?older_than=1", status=400).text
    operator.page("/failed-ends?user=u1", status=400)


def test_one_end_says_why_it_waits(operator: Browser, shop: Billing) -> None:
    [first, *_, last] = shop.inbox("u2")
    page = operator.page(f"/failed-ends/ends/{last.id}")
    assert "3 older debts of 33 tokens together are paid before this one of 11 tokens" in page.text
    assert "a top-up of 42 tokens pays it" in page.text
    assert "insufficient tokens" in page.text
    assert str(first.id) not in page.html
    operator.page("/failed-ends/ends/01890a5d-ac96-774b-bcce-b302099a8057", status=404)
    shop.container.end.end(shop.usage("u2", output_tokens=0, input_tokens=1))
    shop.settle_everything()


def test_all_that_match_are_written_off_under_their_figures(operator: Browser, shop: Billing) -> None:
    confirmation = drafted(operator, "/write-off")
    assert "12 ends of 3 users are written off: 132 tokens are given up for good" in confirmation.text
    assert "Nothing is done yet" in confirmation.text
    assert shop.inbox_size() == 12
    # What fails meanwhile isn't meant.
    shop.container.end.end(shop.usage("u1"))
    page = confirmed(operator, confirmation)
    assert "not known yet" in page.text
    # The page asks for itself until it is done.
    assert "hx-get" in page.html
    shop.container.bulk_actions.work_off(seconds=5)
    page = operator.page(f"/bulk-actions/{number_of(confirmation)}")
    assert "hx-get" not in page.html
    assert "12 of 12" in page.text
    assert page.text.count("written off") >= 12
    assert shop.inbox_size() == 1
    assert_conserved(shop, *USERS)
    assert {entry.reason for entry in shop.ledger("u2") if entry.kind == "write_off"} == {"Outage"}
    assert "admin" in next(entry.actor for entry in shop.ledger("u2") if entry.kind == "write_off")
    assert "12 132 write-off-" in operator.page("/bulk-actions").text


def test_those_that_are_chosen_are_replayed(operator: Browser, shop: Billing) -> None:
    shop.execute("UPDATE wallets SET posted_micros = 100000000 WHERE user_id = 'u2'")
    chosen = [str(end.id) for end in shop.inbox("u2")[:2]]
    form = operator.page("/failed-ends").form("/console/failed-ends/replay")
    page = Page.of(operator.send(form, id=chosen))
    assert "Replay 2 failed ends" in page.text
    confirmation = operator.follow(
        operator.send(page.form("/console/failed-ends/replay"), step="do", reason="Topped up")
    )
    assert "2 ends of 1 user, 22 tokens, are tried again" in confirmation.text
    confirmed(operator, confirmation)
    container = shop.container
    container.bulk_actions.work_off(seconds=5)
    container.collection.collect("u2", seconds=5)
    container.bulk_actions.work_off(seconds=5)
    number = number_of(confirmation)
    assert "settled" in operator.page(f"/bulk-actions/{number}?outcome=settled").text
    assert "None with this outcome" in operator.page(f"/bulk-actions/{number}?outcome=failed_again").text
    assert f"{number} Replay settled" in operator.page(f"/failed-ends/ends/{chosen[0]}").text


def test_one_end_from_its_story(operator: Browser, shop: Billing) -> None:
    [end, *_] = shop.inbox("u2")
    story = operator.page(f"/failed-ends/ends/{end.id}")
    confirmation = drafted(operator, path_of(story, "/write-off?id=").removeprefix("/console/failed-ends"))
    assert "1 end of 1 user is written off: 11 tokens" in confirmation.text
    confirmed(operator, confirmation)
    shop.container.bulk_actions.work_off(seconds=5)
    assert "written off" in operator.page(f"/failed-ends/ends/{end.id}").text


def test_a_draft_is_let_be(operator: Browser, shop: Billing) -> None:
    confirmation = drafted(operator, "/write-off?user_id=u1")
    number = number_of(confirmation)
    page = operator.follow(operator.send(confirmation.form(f"/console/bulk-actions/{number}/cancel")))
    assert "cancelled" in page.text
    response = operator.send(confirmation.form(f"/console/bulk-actions/{number}/confirm"))
    assert "was cancelled" in Page.of(response, 409).text
    shop.container.bulk_actions.work_off(seconds=5)
    assert shop.inbox_size() == 12


def test_other_figures_are_refused(operator: Browser, shop: Billing) -> None:
    confirmation = drafted(operator, "/write-off")
    form = confirmation.form(f"/console/bulk-actions/{number_of(confirmation)}/confirm")
    assert "It is about 12." in Page.of(operator.send(form, ends="11"), 409).text
    Page.of(operator.send(form, ends=None), 400)
    assert shop.container.bulk_actions.get(number_of(confirmation)).action.state == "draft"


def test_what_is_wrong_with_a_draft_is_said(operator: Browser, shop: Billing) -> None:
    form = operator.page("/failed-ends/write-off?user_id=u1").form("/console/failed-ends/write-off")
    assert "Must be filled in." in Page.of(operator.send(form, step="do", reason=""), 400).text
    for slip in ("", "x", '{"filter": {"user": "u1"}}', '{"ids": []}', '{"ids": ["x"]}', '{"filter": {"age": "old"}}'):
        page = Page.of(operator.send(form, step="do", reason="x", selection=slip), 400)
        assert "Selection" in page.text
    operator.page("/failed-ends/write-off?user=u1", status=400)
    operator.page("/failed-ends/replay?age=old", status=400)


def test_who_may_only_look(operator_with: Callable[..., Browser], shop: Billing, operator: Browser) -> None:
    reader = operator_with(KeyScope.READ)
    page = reader.page("/failed-ends")
    assert "Write off" not in page.text
    for path in ("/failed-ends/replay", "/failed-ends/write-off"):
        assert "failed-ends" in reader.page(path, status=403).text
    confirmation = drafted(operator, "/write-off")
    page = reader.page(f"/bulk-actions/{number_of(confirmation)}")
    assert [form.action for form in page.forms if "/bulk-actions/" in form.action and form.method == "post"] == []


def test_when_nothing_has_failed(operator: Browser, billing: Billing) -> None:
    assert "nothing has failed" in operator.page("/failed-ends").text
    assert "None so far" in operator.page("/bulk-actions").text
    operator.page("/bulk-actions/9", status=404)
