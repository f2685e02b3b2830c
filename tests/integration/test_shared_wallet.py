"""Who runs and who pays are two things: with a mapping that has two users draw on one wallet, it pays for both."""

from __future__ import annotations

import sys

import pytest

from app.billing.holds import ExtendRequest
from app.billing.start import StartRequest
from app.domain.errors import HoldNotFound, IdempotencyConflict
from app.domain.failed_ends import Filter
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.domain.wallets import Access, Deduction, WalletId, wallet_of
from tests.support import FEATURE, PACKAGE, Billing, assert_conserved, collect_now

TOKEN = 1_000_000
# 40 output tokens at a profit of 10 percent.
COST = 11 * TOKEN
WALLET = WalletId("team")


@pytest.fixture
def shop(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> Billing:
    """Ann and Bob draw on the wallet that was opened for Ann."""

    def wallet_of_team(_: str) -> WalletId:
        return WALLET

    for name, module in list(sys.modules.items()):
        if name.startswith("app.") and getattr(module, "wallet_of", None) is wallet_of:
            monkeypatch.setattr(module, "wallet_of", wallet_of_team)
    billing.catalog()
    billing.container.wallet_admin.create("ann", PACKAGE)
    billing.container.postings.post(Posting("ann", PostingKind.TOP_UP, 100 * TOKEN, "opening"))
    return billing


def spendable_micros(shop: Billing, user_id: str) -> int:
    return shop.container.start.start(StartRequest(user_id, FEATURE)).spendable_micros


def test_both_spend_from_it_and_each_entry_says_who(shop: Billing) -> None:
    assert spendable_micros(shop, "ann") == spendable_micros(shop, "bob") == 100 * TOKEN
    shop.container.end.end(shop.usage("ann"))
    assert shop.container.end.end(shop.usage("bob")).spendable_micros == 100 * TOKEN - 2 * COST
    assert spendable_micros(shop, "ann") == 100 * TOKEN - 2 * COST

    shop.settle_everything()
    entries = shop.ledger(WALLET)
    assert [(entry.wallet_id, entry.user_id) for entry in entries] == [
        (WALLET, "ann"),
        (WALLET, "ann"),
        (WALLET, "bob"),
    ]
    assert_conserved(shop, WALLET)
    view = shop.container.wallet_admin.get("bob")
    assert (view.user_id, view.balance.posted_micros) == ("ann", 100 * TOKEN - 2 * COST)
    assert shop.container.reconciliation.run(is_full=True).adds_up


def test_a_hold_of_one_binds_the_other(shop: Billing) -> None:
    started = shop.container.start.start(StartRequest("ann", FEATURE, hold_micros=95 * TOKEN))
    assert started.process_id is not None
    assert shop.container.start.start(StartRequest("bob", FEATURE, hold_micros=6 * TOKEN)).access is Access.DENIED

    extended = shop.container.holds.extend(ExtendRequest("ann", started.process_id, 5 * TOKEN, 0))
    assert (extended.access, extended.spendable_micros) == (Access.GRANTED, 0)
    assert shop.container.holds.cancel("ann", started.process_id) == 100 * TOKEN
    with pytest.raises(HoldNotFound):
        shop.container.holds.give_back("bob", started.process_id)


def test_keys_of_starts_are_each_users_own(shop: Billing) -> None:
    first = shop.container.start.start(StartRequest("ann", FEATURE, idempotency_key="again"))
    other = shop.container.start.start(StartRequest("bob", FEATURE, idempotency_key="again"))
    again = shop.container.start.start(StartRequest("ann", FEATURE, idempotency_key="again"))
    assert first.process_id == again.process_id != other.process_id
    assert (first.replayed, other.replayed, again.replayed) == (False, False, True)


def test_a_key_of_an_end_is_one_body_whoever_sends_it(shop: Billing) -> None:
    shop.container.end.end(shop.usage("ann", idempotency_key="once"))
    with pytest.raises(IdempotencyConflict):
        shop.container.end.end(shop.usage("bob", idempotency_key="once"))


def test_debts_of_both_are_one_line(shop: Billing) -> None:
    ends = [shop.usage("ann", output_tokens=400), shop.usage("bob"), shop.usage("ann")]
    answers = shop.container.end.end_all(ends)
    assert [getattr(answer, "deduction", answer) for answer in answers] == [Deduction.FAILED] * 3
    shop.settle_everything()
    assert shop.balance(WALLET).debt_micros == 110 * TOKEN + 2 * COST
    failed = shop.container.failed_ends.list(Filter(user_id="bob"), 10).items
    assert [(end.wallet_id, end.user_id) for end in failed] == [(WALLET, "bob")]

    shop.container.failed_ends.write_off(failed[0].id, "a gift", Caller("test"))
    shop.container.postings.post(Posting("bob", PostingKind.TOP_UP, 100 * TOKEN, "paid"))
    collect_now(shop.container, WALLET)
    assert shop.inbox(WALLET) == []
    assert shop.balance(WALLET).posted_micros == 79 * TOKEN
    assert [entry.user_id for entry in shop.ledger(WALLET)] == ["ann", "bob", "bob", "bob", "ann", "ann"]
    assert_conserved(shop, WALLET)


def test_what_redis_kept_is_billed_to_it(shop: Billing) -> None:
    spendable_micros(shop, "ann")
    shop.container.postgres_gate.close(ConnectionError("test"))
    shop.container.end.end_all([shop.usage("ann"), shop.usage("bob")])
    shop.container.watcher.look_at_postgres()
    assert shop.container.spool_drain.drain() == 2

    assert [(entry.wallet_id, entry.user_id) for entry in shop.ledger(WALLET)[1:]] == [(WALLET, "ann"), (WALLET, "bob")]
    assert spendable_micros(shop, "bob") == 100 * TOKEN - 2 * COST
