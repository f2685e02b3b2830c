"""What somebody on call does in the console, click by click, in front of a real worker and beat."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app.console.factory import PREFIX
from tests.browser.chromium import opened
from tests.browser.till import COST, Till
from tests.processes import wait_until
from tests.support import assert_conserved

pytestmark = pytest.mark.xdist_group("browser")

WALLETS = [f"shop-{i}" for i in range(8)]
ENDS = 200
PAYABLE = 7
STUCK = ENDS - PAYABLE
CLICKS_MAX = 8
SECONDS_MAX = 60.0


class Hand:
    """Clicks, and counts them."""

    def __init__(self) -> None:
        self.clicks = 0

    def click(self, what: Locator) -> None:
        self.clicks += 1
        what.click()


def why(page: Page, reason: str, reference: str) -> None:
    page.get_by_label("Reason").fill(reason)
    page.get_by_label("Reference").fill(reference)


def figure(page: Page, label: str) -> Any:
    return page.locator(".figures > *", has_text=label).first


@pytest.fixture
def page(browser: Browser, till: Till) -> Any:
    with opened(browser, till.url) as page:
        till.sign_in(page)
        yield page


def test_200_ends_that_left_193_stuck_are_found_understood_and_settled(till: Till, page: Page) -> None:
    till.top_up("dora", 12 * COST, "dora-pays")
    for i, user_id in enumerate(WALLETS):
        till.billing.wallet(user_id, tokens=PAYABLE * COST if i == 0 else 0)
    till.container.end.end_all([till.billing.usage(WALLETS[i % 8]) for i in range(ENDS)])
    wait_until(lambda: sum(map(till.failed, WALLETS)) == STUCK and not till.failed("dora"), what="the settlement")
    posted = {user_id: till.posted(user_id) for user_id in WALLETS}

    hand, started = Hand(), time.monotonic()
    # Found: the first page says how much is owed, by whom, since when and why.
    page.goto(f"{PREFIX}/")
    expect(figure(page, "Retry queue")).to_contain_text(f"{STUCK * COST:,}")
    expect(page.get_by_role("table", name="Who owes")).to_contain_text("shop-1")
    why_failed = page.get_by_role("table", name="Why ends failed").get_by_role("row", name="insufficient tokens")
    expect(why_failed).to_contain_text(str(STUCK))
    # Understood: whose, how much, since when, with their sums.
    hand.click(why_failed.get_by_role("link").first)
    expect(figure(page, "Not deducted")).to_contain_text(f"{STUCK * COST:,}")
    expect(figure(page, "Not deducted")).to_contain_text(f"{STUCK} ends of 8 users")
    by_user = page.get_by_role("table", name="By user")
    for user_id in WALLETS[:4]:
        expect(by_user.get_by_role("row", name=user_id)).to_be_visible()
    # Settled: all that match, frozen, with count and amount to confirm.
    hand.click(page.get_by_role("link", name=f"Write off all {STUCK}"))
    why(page, "A model ran wild", "incident-7")
    hand.click(page.get_by_role("button", name="Show what would be done"))
    expect(page.locator("#effect")).to_contain_text(f"{STUCK} ends of 8 users are written off: {STUCK * COST:,} tokens")
    hand.click(page.get_by_role("button", name=f"Write off {STUCK} ends, {STUCK * COST:,} tokens"))
    expect(page.locator("#live").get_by_text("done", exact=True).first).to_be_visible(timeout=30_000)
    outcome = page.get_by_role("table", name="What became of them").get_by_role("row", name="written off")
    expect(outcome).to_contain_text(str(STUCK))
    took_seconds = time.monotonic() - started

    assert hand.clicks <= CLICKS_MAX
    assert took_seconds < SECONDS_MAX
    assert [till.failed(user_id) for user_id in WALLETS] == [0] * 8
    # The balance stays as it was: a run, and what makes it good.
    assert {user_id: till.posted(user_id) for user_id in WALLETS} == posted
    assert_conserved(till.billing, *WALLETS)
    assert all(entry.actor == "admin/Ada" for entry in till.billing.ledger("shop-1") if entry.kind == "write_off")


def test_a_dead_end_is_found_and_replayed_and_the_wallet_pays(till: Till, page: Page) -> None:
    till.owes("frank", 1, error="database_refused")
    till.top_up("frank", 50, "frank-pays")
    page.goto(f"{PREFIX}/")
    hand = Hand()
    hand.click(page.get_by_role("link", name="Failed ends", exact=True))
    hand.click(figure(page, "Dead letters").get_by_role("link"))
    hand.click(page.get_by_role("table", name="Failed ends").get_by_role("link", name="frank"))
    hand.click(page.get_by_role("table", name="Failed ends").get_by_role("rowheader").get_by_role("link").first)
    # Its whole story: what it is, why it waits, and each try.
    expect(page.get_by_role("heading", level=1)).to_contain_text("End of frank")
    expect(page.get_by_role("table", name="Tries that failed")).to_be_visible()
    hand.click(page.get_by_role("link", name="Replay"))
    why(page, "The database is well again", "frank-1")
    hand.click(page.get_by_role("button", name="Show what would be done"))
    hand.click(page.get_by_role("button", name="Replay 1 end"))
    outcome = page.get_by_role("table", name="What became of them").get_by_role("row", name="settled")
    expect(outcome).to_contain_text("1", timeout=30_000)
    assert (till.posted("frank"), till.failed("frank")) == (50 - COST, 0)
    assert hand.clicks <= CLICKS_MAX
    hand.click(page.get_by_role("link", name="Wallets", exact=True))
    hand.click(page.get_by_role("table", name="Wallets").get_by_role("link", name="frank"))
    expect(figure(page, "Posted")).to_contain_text(str(50 - COST))
    expect(figure(page, "Debt")).to_contain_text("owes nothing")


def test_a_wallet_is_found_and_topped_up(till: Till, page: Page) -> None:
    till.billing.wallet("grace", tokens=5)
    hand = Hand()
    hand.click(page.get_by_role("link", name="Wallets", exact=True))
    hand.click(page.get_by_role("table", name="Wallets").get_by_role("link", name="grace"))
    expect(figure(page, "Posted")).to_contain_text("5")
    hand.click(page.get_by_role("link", name="Top up"))
    page.get_by_label("Amount").fill("120.5")
    why(page, "Paid by transfer", "invoice-77")
    hand.click(page.get_by_role("button", name="Go on"))
    # Nothing has happened yet: what would, and who does it, is told first.
    assert till.posted("grace") == 5
    expect(page.locator(".confirm")).to_contain_text("admin/Ada")
    hand.click(page.locator(".confirm button.main"))
    expect(page.get_by_role("status")).to_be_visible()
    expect(figure(page, "Posted")).to_contain_text("125.5")
    [_, entry] = till.billing.ledger("grace")
    assert (entry.amount_micros, entry.reference, entry.actor) == (120_500_000, "invoice-77", "admin/Ada")
    assert hand.clicks <= CLICKS_MAX


def test_who_has_no_key_sees_nothing(till: Till, browser: Browser) -> None:
    with opened(browser, till.url) as page:
        for path in ("", "/failed-ends", "/wallets/alice", "/usage"):
            page.goto(f"{PREFIX}{path}")
            expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        till.sign_in(page)
        page.get_by_role("button", name="Sign out").click()
        page.go_back()
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
