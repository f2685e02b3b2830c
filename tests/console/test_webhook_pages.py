"""The pages about webhooks: endpoints and how they do, events with what was answered, and what is done about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from app.domain.keys import KeyScope
from tests.console.browser import Browser, Page
from tests.receivers import Receiver, receiver
from tests.support import PACKAGE, Billing
from tests.webhooks_shop import Webhooks

HOSTILE = '<img src=x onerror="alert(1)">\'&amp;'


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def hooks(billing: Billing) -> Webhooks:
    billing.catalog()
    billing.wallet(tokens=1_000)
    return Webhooks(billing)


def test_empty_lists_say_what_to_do(operator: Browser) -> None:
    assert "No endpoints yet" in operator.page("/webhooks").text
    assert "No event matches" in operator.page("/webhooks/events").text


def test_an_endpoint_is_made_tested_and_told(operator: Browser, hooks: Webhooks, there: Receiver) -> None:
    fields = {"url": there.url, "event_types": ["wallet.topped_up"], "description": "The shop", "reason": "new shop"}
    form = operator.review("/webhooks/new", **fields).form("/console/webhooks/new")
    page = Page.of(operator.send(form, step="do"))
    [secret] = re.findall(r"whsec_[A-Za-z0-9+/=]+", page.text)
    # It is told once: neither a reload nor what the session remembers has it.
    again = operator.follow(operator.send(form, step="do"))
    assert "Its secret was shown once" in again.text
    assert secret not in again.html
    assert "The shop" in again.text
    assert secret not in operator.page("/webhooks/endpoints/1").html
    event = operator.follow(operator.change("/webhooks/endpoints/1/test", reason="does it answer"))
    assert "Not attempted yet" in event.text
    assert ("section", "hx-trigger", "every 3s") in event.attributes
    hooks.deliver()
    [received] = there.received
    received.verify(secret)
    [link] = [link for link in operator.page("/webhooks/events").links if "/events/" in link]
    told = operator.page(link)
    assert "delivered" in told.text
    assert "204" in told.text
    assert "every 3s" not in told.html
    assert "webhook.test" in operator.page("/webhooks/endpoints/1").text
    assert "The shop" in operator.page("/webhooks").text


def test_what_fails_is_seen_disabled_enabled_and_replayed(operator: Browser, hooks: Webhooks, there: Receiver) -> None:
    there.answer, there.body = 410, HOSTILE.encode()
    hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    hooks.deliver()
    page = operator.page("/webhooks/endpoints/1")
    assert "disabled" in page.text
    assert "gone" in page.text
    assert "tokentill" in page.text
    [link] = {link for link in page.links if "/events/" in link}
    event = operator.page(link)
    assert "410" in event.text
    assert "<img" not in event.html
    assert HOSTILE in event.text
    there.answer = 200
    page = operator.follow(operator.change("/webhooks/endpoints/1/enable", reason="it is mended"))
    assert "it is mended" in page.text
    page = operator.follow(operator.change("/webhooks/endpoints/1/disable", reason="for a moment"))
    hooks.top_up(5, "b")
    operator.follow(operator.change("/webhooks/endpoints/1/enable", reason="again"))
    review = operator.review("/webhooks/endpoints/1/replay", since="2020-01-01", reason="it was away")
    assert "2020-01-01 00:00:00 UTC" in review.text
    page = operator.follow(operator.send(review.form("/console/webhooks/endpoints/1/replay"), step="do"))
    assert "sent again: 1." in page.text
    hooks.make_due()
    hooks.deliver()
    assert [one.payload["data"]["reference"] for one in there.received] == ["a", "a", "b"]
    page = operator.follow(operator.change(f"{link}/replay", reason="they lost it"))
    hooks.deliver()
    assert len(there.received) == 4
    assert len({received.id for received in there.received}) == 2


def test_changing_rotating_and_deleting(operator: Browser, hooks: Webhooks) -> None:
    hooks.endpoint("http://127.0.0.1:1/", "wallet.depleted")
    path = "/webhooks/endpoints/1/change"
    form = operator.page(path).form("/console" + path)
    assert ("event_types", "wallet.depleted") in form.values
    review = operator.review(path, url="http://127.0.0.1:2/", event_types=[], reason="moved")
    assert "Everything is sent to http://127.0.0.1:2/" in review.text
    assert "wallet.depleted, to http://127.0.0.1:1/" in review.text
    operator.follow(operator.send(review.form("/console" + path), step="do"))
    refused = operator.send(operator.review(path, url="nonsense", reason="x").form("/console" + path), step="do")
    assert "Must begin with https://" in Page.of(refused, 400).text
    review = operator.review("/webhooks/endpoints/1/rotate-secret", overlap_seconds="0", reason="it leaked")
    assert "refuses what comes" in review.text
    page = Page.of(operator.change("/webhooks/endpoints/1/rotate-secret", reason="by the calendar"))
    assert "whsec_" in page.text
    page = operator.follow(operator.change("/webhooks/endpoints/1/delete", reason="no more shop"))
    assert "No endpoints yet" in page.text
    assert operator.get("/webhooks/endpoints/1").status_code == 404
    assert operator.get(f"/webhooks/endpoints/{2**64}").status_code == 404
    assert operator.get("/webhooks/events/01a20591-939c-7411-9602-9fa0c3c61c49").status_code == 404


def test_filters(operator: Browser, hooks: Webhooks) -> None:
    hooks.endpoint()
    hooks.top_up(5, "a")
    for query, found in (
        ("?type=wallet.topped_up", 1),
        ("?type=wallet.depleted", 0),
        ("?user_id=user-1&state=pending&endpoint_id=1", 1),
        ("?since=2999-01-01", 0),
    ):
        page = operator.page(f"/webhooks/events{query}")
        assert len([link for link in page.links if "/events/" in link]) == found, query
    assert operator.get("/webhooks/events?state=lost").status_code == 400
    assert operator.get("/webhooks/events?colour=red").status_code == 400


def test_what_a_key_may_not_is_not_offered(
    operator_with: Callable[..., Browser], reader: Browser, hooks: Webhooks
) -> None:
    hooks.endpoint()
    hooks.top_up(5, "a")
    for path in ("/webhooks", "/webhooks/endpoints/1", "/webhooks/events"):
        assert 'class="button"' not in reader.page(path).html
    assert "History" not in reader.page("/webhooks/endpoints/1").headings
    for path in ("new", "endpoints/1/change", "endpoints/1/test", "endpoints/1/delete", "endpoints/1/replay"):
        assert reader.get(f"/webhooks/{path}").status_code == 403
    other = operator_with(KeyScope.WALLETS, name="other")
    assert other.get("/webhooks").status_code == 403


def test_balance_rules_are_set_changed_and_removed(operator: Browser, hooks: Webhooks) -> None:
    assert "No rules yet" in operator.page("/webhooks/balance-rules").text
    low, auto = "/webhooks/balance-rules/low-balance", "/webhooks/balance-rules/auto-top-up"
    review = operator.review(low, package_id=PACKAGE, below_percent="20", reason="told in time")
    assert f"Wallets with the package {PACKAGE} are told to be low below 20 %" in review.text
    operator.follow(operator.send(review.form("/console" + low), step="do"))
    operator.follow(operator.change(low, user_id="user-1", off="yes", reason="a big customer"))
    review = operator.review(auto, user_id="user-1", below_token="100", token="1,000", reason="asked for it")
    assert "a top-up of 1,000 is asked for, at most 10 times and 10,000 tokens in a month" in review.text
    page = operator.follow(operator.send(review.form("/console" + auto), step="do"))
    assert "20 % of its last top-up's balance" in page.text
    assert "never" in page.text
    [link] = [link for link in page.links if "remove-auto-top-up" in link]
    form = operator.page(link).form("/console/webhooks/balance-rules/remove-auto-top-up")
    review = Page.of(operator.send(form, step="review", reason="asked for it"))
    page = operator.follow(operator.send(review.form(form.action), step="do"))
    assert "The rule was removed" in page.text
    for fields in (
        {"user_id": "user-1"},
        {"user_id": "user-1", "below_token": "1", "below_percent": "1"},
        {"user_id": "user-1", "below_percent": "101"},
        {"below_token": "1"},
        {"user_id": "user-1", "package_id": PACKAGE, "below_token": "1"},
    ):
        assert 'role="alert"' in operator.review(low, 400, reason="x", **fields).html, fields
    for fields in (
        {"user_id": "user-1", "token": "1"},
        {"user_id": "user-1", "token": "2", "below_token": "1", "token_per_month": "1"},
        {"user_id": "user-1", "token": "2", "below_token": "1", "off": "yes"},
    ):
        assert 'role="alert"' in operator.review(auto, 400, reason="x", **fields).html, fields


def test_requests_are_seen_declined_and_resumed(operator: Browser, reader: Browser, hooks: Webhooks) -> None:
    assert "No request matches" in operator.page("/webhooks/top-up-requests").text
    hooks.auto_top_up(below=5_000, tokens=10, failures_max=1)
    hooks.spend(10)
    [link] = [link for link in operator.page("/webhooks/top-up-requests").links if link.endswith("/decline")]
    assert "Decline" not in reader.page("/webhooks/top-up-requests").text
    page = operator.follow(operator.change(link, reason="card refused"))
    assert "is stopped since" in page.text
    assert "card refused" in page.text
    page = operator.follow(operator.change("/webhooks/auto-top-up/resume/user-1", reason="another card"))
    assert "is stopped since" not in page.text
    assert len([link for link in page.links if link.endswith("/decline")]) == 1
    assert operator.page("/webhooks/top-up-requests?state=declined").text.count("card refused") == 1
    assert operator.get("/webhooks/top-up-requests?state=lost").status_code == 400
