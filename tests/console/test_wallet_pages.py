"""The pages of wallets: found, looked at, and changed, each with a reason and a confirmation."""

from __future__ import annotations

import pytest

from app.billing.start import StartRequest
from app.domain.keys import KeyScope
from tests.console.browser import Browser
from tests.support import FEATURE, PACKAGE, Billing, assert_conserved

HOSTILE = '<img src=x onerror="alert(1)">/\'&amp;'


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """`u` has 100 tokens, has run for 11 and holds 5; `poor` owes 11."""
    billing.catalog()
    billing.wallet("u", tokens=100)
    billing.wallet("poor", tokens=0)
    for user_id in ("u", "poor"):
        billing.container.end.end(billing.usage(user_id, model="large"))
    billing.settle_everything()
    billing.container.start.start(StartRequest("u", FEATURE, hold_micros=5_000_000))
    return billing


def test_the_list_is_filtered_and_sorted(reader: Browser, shop: Billing) -> None:
    assert "poor" in reader.page("/wallets").text
    for query, there, away in (
        ("search=OO", "poor", ">u<"),
        ("in_debt=yes", "poor", ">u<"),
        ("in_debt=no", ">u<", "poor"),
        ("with_holds=yes", ">u<", "poor"),
        ("balance_above=50", ">u<", "poor"),
        ("balance_below=50&status=active&package_id=" + PACKAGE, "poor", ">u<"),
    ):
        html = reader.page(f"/wallets?{query}").html
        assert there in html, query
        assert away not in html, query
    sorted_by = reader.page("/wallets?sort=-balance&limit=1")
    assert ">u<" in sorted_by.html
    assert "poor" in reader.page("/wallets?sort=-debt&limit=1").html
    assert "Clear the filters" in reader.page("/wallets?search=nobody").text
    reader.page("/wallets?sort=odd", 400)
    reader.page("/wallets?owes=1", 400)


def test_one_wallet(reader: Browser, shop: Billing) -> None:
    found = reader.page("/wallets/show/u")
    for words in ("Spendable", "84", "Held", PACKAGE, "Open holds", "usage", "top up", "Posted balance at the end"):
        assert words in found.text, words
    # Who may only look is offered no change, and isn't told who made any.
    assert "Top up" not in found.text
    assert "Who changed it" not in found.text
    reader.page("/wallets/show/nobody", 404)
    assert "nothing starts while it is open" in reader.page("/wallets/show/poor").text


def test_a_statement_and_its_file(reader: Browser, shop: Billing) -> None:
    found = reader.page("/wallets/statement/u")
    assert "Opening balance" in found.text
    assert "89" in found.text
    table = reader.get("/wallets/download/csv/u").get_data(as_text=True).splitlines()
    assert (len(table), ",closing," in table[-1]) == (5, True)
    assert "Nothing was posted" in reader.page("/wallets/statement/u?kind=refund").text
    for wrong in ("from=2030-02-01&to=2030-01-01", "from=x"):
        reader.page(f"/wallets/statement/u?{wrong}", 400)
        assert reader.get(f"/wallets/download/csv/u?{wrong}").status_code == 400


def test_a_top_up_says_what_it_does_and_who_did_it(operator: Browser, shop: Billing) -> None:
    fields = {"token": "1,000.5", "reference": "invoice-1", "reason": "Paid"}
    review = operator.review("/wallets/top-up/poor", **fields)
    assert "1,000.5 tokens are posted to poor" in review.text
    assert "Debts of 11 tokens are collected out of it" in review.text
    found = operator.follow(operator.change("/wallets/top-up/poor", **fields))
    assert "were posted" in found.text
    assert "invoice-1" in found.text
    again = operator.follow(operator.change("/wallets/top-up/poor", **fields))
    assert "Nothing was posted now" in again.text
    other = operator.review("/wallets/top-up/poor", **{**fields, "token": "5"})
    refused = operator.send(other.form("/console/wallets/top-up/poor"), step="do")
    assert refused.status_code == 409
    operator.review("/wallets/top-up/poor", 400, token="0", reference="", reason="")
    [entry] = [entry for entry in shop.ledger("poor") if entry.kind == "top_up"]
    assert (entry.actor, entry.reason) == ("admin/Ada", "Paid")
    assert_conserved(shop, "poor")


def test_an_adjustment(operator: Browser, shop: Billing) -> None:
    fields = {"token": "-9", "reference": "audit-1", "reason": "Counted twice"}
    assert "9 tokens are taken from u" in operator.review("/wallets/adjust/u", **fields).text
    operator.follow(operator.change("/wallets/adjust/u", **fields))
    assert shop.balance("u").posted_micros == 80_000_000
    too_much = operator.review("/wallets/adjust/u", token="-1000", reference="r", reason="x")
    assert operator.send(too_much.form("/console/wallets/adjust/u"), step="do").status_code == 409


def test_a_run_is_refunded_once(operator: Browser, shop: Billing) -> None:
    [run] = [entry for entry in shop.ledger("u") if entry.kind == "usage"]
    path = f"/console/wallets/refund-run/{run.end_id}"
    assert path in operator.page("/wallets/show/u").html
    fields = {"reference": "ticket-1", "reason": "Empty answer"}
    assert "11 tokens that a run has cost" in operator.review(path, **fields).text
    found = operator.follow(operator.change(path, **fields))
    assert "11 tokens were given back to u" in found.text
    assert "corrected" in found.text
    assert path not in found.html
    assert shop.balance("u").posted_micros == 100_000_000
    assert "refunded before" in operator.follow(operator.change(path, **fields)).text
    second = operator.review(path, reference="ticket-2", reason="x")
    assert "nothing left" in second.text
    assert operator.send(second.form(path), step="do").status_code == 409
    operator.page("/wallets/refund-run/01a20591-939c-7411-9602-9fa0c3c61c49", 404)


def test_suspended_and_activated(operator: Browser, shop: Billing) -> None:
    suspend = operator.change("/wallets/status/suspended/u", reason="Fraud check")
    found = operator.follow(suspend)
    assert "is suspended" in found.text
    for words in ("Who changed it", "wallet.suspended", "Fraud check", "admin/Ada", "Activate"):
        assert words in found.text, words
    assert "is active" in operator.follow(operator.change("/wallets/status/active/u", reason="Cleared")).text
    operator.review("/wallets/status/closed/u", 400, reason="")
    operator.page("/wallets/status/odd/u", 404)


def test_package_and_limit(operator: Browser, shop: Billing) -> None:
    review = operator.review("/wallets/terms/u", package_id=None, overdraft_limit_token="25", reason="Contract")
    assert f"{PACKAGE} → none" in review.text
    assert "can start nothing" in review.text
    found = operator.follow(operator.send(review.form("/console/wallets/terms/u"), step="do"))
    assert "overdraft limit: 25" in " ".join(found.text.split())
    assert operator.page("/wallets/terms/u").form("/console/wallets/terms/u").value("overdraft_limit_token") == "25"


def test_a_hold_is_released(operator: Browser, shop: Billing) -> None:
    [hold] = shop.container.holds.list("u", 5).items
    path = f"/wallets/release-hold/{hold.process_id}/u"
    assert f"/console{path}" in operator.page("/wallets/show/u").html
    assert "5 tokens, which a run reserves of what u has, are free again" in operator.review(path, reason="x").text
    assert "5 tokens are free again" in operator.follow(operator.change(path, reason="Left over")).text
    assert "gone already" in operator.follow(operator.change(path, reason="Left over")).text
    assert "No run holds anything" in operator.page("/wallets/holds/u").text


def test_changes_ask_for_the_scope(reader: Browser, shop: Billing) -> None:
    [hold] = shop.container.holds.list("u", 5).items
    for path in ("top-up/u", "adjust/u", "terms/u", "status/closed/u", f"release-hold/{hold.process_id}/u"):
        reader.page(f"/wallets/{path}", 403)


def test_hostile_ids_are_only_text(operator: Browser, shop: Billing) -> None:
    shop.wallet(HOSTILE, tokens=5)
    found = operator.page("/wallets")
    [link] = [value for _, name, value in found.attributes if name == "href" and "onerror" in (value or "")]
    assert link is not None
    shown = operator.page(link)
    assert "<img" not in found.html + shown.html
    assert HOSTILE in shown.text


def test_without_redis_a_wallet_is_shown(operator: Browser, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.container.redis_gate.close(ConnectionError())
    assert "where holds live, is away" in operator.page("/wallets/show/u").text


def test_who_may_not_see_the_audit_log(operator_with: object, shop: Billing) -> None:
    some = operator_with(KeyScope.READ, KeyScope.WALLETS)  # type: ignore[operator]
    found = some.page("/wallets/show/u")
    assert "Top up" in found.text
    assert "Who changed it" not in found.text
