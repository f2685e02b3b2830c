"""A run is billed by what was in force when its end was accepted, whichever way it takes from there."""

from __future__ import annotations

from typing import Any

import pytest

from app.catalog.prices import NewPrice
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.domain.rates import RateCard, Rates
from app.domain.wallets import wallet_of
from tests.support import Billing, assert_conserved

TOKEN = 1_000_000
KINDS = {"cached_input_tokens": 4, "cache_write_tokens": 3, "reasoning_tokens": 20, "requests": 2}


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog(basis_points=None)
    billing.wallet(tokens=1_000)
    return billing


def price(shop: Billing, output_tokens_each: int) -> RateCard:
    """A price of so many tokens for each output token, and nothing else."""
    return shop.container.price_admin.add(NewPrice(Rates(0, output_tokens_each * TOKEN * TOKEN), None, "m*"))


def billed(shop: Billing) -> list[Any]:
    return [entry for entry in shop.ledger() if entry.kind == "usage"]


def assert_billed_by(shop: Billing, card: RateCard, cost_tokens: int) -> None:
    [entry] = billed(shop)
    assert (entry.price_id, entry.cost_micros, entry.model) == (card.id, cost_tokens * TOKEN, "m-1")
    assert {name: getattr(entry, name) for name in KINDS} == KINDS
    assert_conserved(shop, "user-1")


def test_while_it_waits_in_the_inbox(shop: Billing) -> None:
    card = price(shop, 2)
    shop.container.end.end(shop.usage(model="m-1", **KINDS))
    price(shop, 3)
    shop.settle_everything()
    assert_billed_by(shop, card, 80)


def test_while_it_waits_in_the_spool(shop: Billing) -> None:
    services = shop.container
    card = price(shop, 2)
    services.loader.load([wallet_of("user-1")], 0)
    services.postgres_gate.close(ConnectionError("test"))
    request = shop.usage(model="m-1", **KINDS)
    answer = services.end.end(request)
    services.watcher.look_at_postgres()
    price(shop, 3)
    again = services.end.end(request)
    assert (again.cost_micros, again.replayed) == (answer.cost_micros, True)
    services.spool_drain.drain()
    shop.settle_everything()
    assert_billed_by(shop, card, 80)


@pytest.mark.parametrize("is_flushed", [False, True])
def test_a_repeat_is_answered_by_the_first_ones_price(shop: Billing, is_flushed: bool) -> None:
    card = price(shop, 2)
    request = shop.usage(model="m-1", **KINDS)
    first = shop.container.end.end(request)
    price(shop, 3)
    if is_flushed:
        shop.container.redis_client.flushall()
    again = shop.container.end.end(request)
    assert (again.cost_micros, again.replayed) == (first.cost_micros, True)
    shop.settle_everything()
    assert_billed_by(shop, card, 80)


def test_as_debt_that_is_paid_later(shop: Billing) -> None:
    card = price(shop, 30)
    shop.container.end.end(shop.usage(model="m-1", **KINDS))
    shop.settle_everything()
    assert billed(shop) == []
    price(shop, 3)
    shop.container.postings.post(Posting("user-1", PostingKind.TOP_UP, 500 * TOKEN, "r"))
    shop.container.collection.collect(wallet_of("user-1"), seconds=60)
    assert_billed_by(shop, card, 1_200)


def test_and_written_off(shop: Billing) -> None:
    card = price(shop, 30)
    shop.container.end.end(shop.usage(model="m-1", **KINDS))
    shop.settle_everything()
    [end] = shop.inbox()
    shop.container.failed_ends.write_off(end.id, "a test", Caller("tester"))
    assert_billed_by(shop, card, 1_200)
