"""A key whose first call died before it recorded its end: the next call under it is marked like any other.

The record of a key outlives the mark, which is given back half a minute after the process died. A repeat that trusts
the record alone would be recorded without a mark, and start would grant what is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.ends import EndRequest
from app.domain.wallets import Access
from app.stores.postgres import inbox
from app.stores.redis.wallet_calls import mark_of
from tests.support import FEATURE, Billing, assert_conserved

TOKEN = 1_000_000


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    billing.wallet(tokens=100)
    return billing


@pytest.fixture
def die_before_recording(shop: Billing, monkeypatch: pytest.MonkeyPatch) -> Callable[[EndRequest], UUID]:
    """Has an end of 90.2 tokens marked by a process that doesn't get to record it; the end's id."""
    services = shop.container

    def die(request: EndRequest) -> UUID:
        assert services.start.start(StartRequest("user-1", FEATURE)).access is Access.GRANTED
        priced = services.end._priced(request)
        mark = mark_of(request, priced.wallet_id, priced.id, priced.price)
        [reply] = services.cache.end([mark], services.catalog.epoch)
        assert reply is not None
        return reply.end_id

    return die


def hold_100(shop: Billing) -> Access:
    return shop.container.start.start(StartRequest("user-1", FEATURE, hold_micros=100 * TOKEN)).access


def keyed(shop: Billing, by: str) -> EndRequest:
    keys: dict[str, Any] = {"idempotency_key": None, by: "k"}
    return shop.usage(output_tokens=328, **keys)


@pytest.mark.parametrize("by", ["idempotency_key", "process_id"])
def test_a_repeat_is_marked_anew(shop: Billing, die_before_recording: Callable[[EndRequest], UUID], by: str) -> None:
    services = shop.container
    request = keyed(shop, by)
    died = die_before_recording(request)
    services.stranded_marks.release(after_seconds=0)
    assert shop.cached_spendable_micros() == 100 * TOKEN

    answer = services.end.end(request)
    assert (answer.cost_micros, answer.spendable_micros, answer.replayed) == (90_200_000, 9_800_000, False)
    assert hold_100(shop) is Access.DENIED
    assert services.end.end(request).replayed
    assert [row.id == died for row in shop.inbox()] == [False]
    shop.settle_everything()
    assert (shop.balance().posted_micros, shop.cached_spendable_micros()) == (9_800_000, 9_800_000)
    assert_conserved(shop, "user-1")


def test_also_with_postgres_away(shop: Billing, die_before_recording: Callable[[EndRequest], UUID]) -> None:
    services = shop.container
    request = keyed(shop, "idempotency_key")
    die_before_recording(request)
    services.stranded_marks.release(after_seconds=0)
    services.postgres_gate.close(ConnectionError("test"))
    assert services.end.end(request).spendable_micros == 9_800_000
    assert hold_100(shop) is Access.DENIED
    services.postgres_gate.open()
    services.spool_drain.drain()
    assert shop.cached_spendable_micros() == 9_800_000


def test_a_repeat_before_its_mark_is_given_back_keeps_it(
    shop: Billing, die_before_recording: Callable[[EndRequest], UUID]
) -> None:
    services = shop.container
    request = keyed(shop, "idempotency_key")
    died = die_before_recording(request)
    assert services.end.end(request).replayed
    services.stranded_marks.release(after_seconds=0)
    assert [row.id for row in shop.inbox()] == [died]
    assert shop.cached_spendable_micros() == 9_800_000
    assert hold_100(shop) is Access.DENIED


def test_a_mark_given_back_while_its_repeat_is_recorded_is_put_back(
    shop: Billing, die_before_recording: Callable[[EndRequest], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = shop.container
    request = keyed(shop, "idempotency_key")
    die_before_recording(request)
    real = inbox.insert

    def insert(connection: sa.Connection, *ends: Any) -> set[UUID]:
        services.stranded_marks.release(after_seconds=0)
        return real(connection, *ends)

    monkeypatch.setattr(inbox, "insert", insert)
    services.end.end(request)
    monkeypatch.undo()
    assert hold_100(shop) is Access.DENIED
    assert shop.cached_spendable_micros() == 9_800_000


def test_an_end_recorded_after_its_mark_was_given_back_bills_once(
    shop: Billing, make_container: Callable[[], Container], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process wasn't dead, only slow: by the time it records its end the repeat has been recorded."""
    services = shop.container
    other_process = make_container()
    request = keyed(shop, "idempotency_key")
    real = inbox.insert

    def insert(connection: sa.Connection, *ends: Any) -> set[UUID]:
        monkeypatch.setattr(inbox, "insert", real)
        services.stranded_marks.release(after_seconds=0)
        assert other_process.end.end(request).spendable_micros == 9_800_000
        return real(connection, *ends)

    monkeypatch.setattr(inbox, "insert", insert)
    services.start.start(StartRequest("user-1", FEATURE))
    assert services.end.end(request).spendable_micros == 9_800_000
    assert shop.cached_spendable_micros() == 9_800_000
    shop.settle_everything()
    assert (shop.balance().posted_micros, shop.cached_spendable_micros()) == (9_800_000, 9_800_000)


def test_who_dies_before_putting_it_back_leaves_it_to_the_sweep(
    shop: Billing, die_before_recording: Callable[[EndRequest], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = shop.container
    request = keyed(shop, "idempotency_key")
    die_before_recording(request)
    real = inbox.insert

    def insert(connection: sa.Connection, *ends: Any) -> set[UUID]:
        services.stranded_marks.release(after_seconds=0)
        monkeypatch.setattr(services.end._recorder, "_land", lambda *_: None)
        return real(connection, *ends)

    monkeypatch.setattr(inbox, "insert", insert)
    services.end.end(request)
    monkeypatch.undo()
    assert shop.cached_spendable_micros() == 100 * TOKEN
    assert services.stale_copies.refresh(older_than_seconds=0) == 1
    assert shop.cached_spendable_micros() == 9_800_000
