"""The auditor finds each kind of fault in a snapshot, and none in a correct one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.auditor import (
    REUSED,
    Cached,
    Entry,
    Snapshot,
    Stored,
    Waiting,
    check,
    check_ledger,
)
from tests.faults.book import MICROS, Book, End, PricedEnd, TopUp, WalletModel
from tests.faults.prices import Bill, Tariff, check_bill, wrong_amounts

# 40 output tokens cost 11 tokens.
COST = 11 * MICROS


def _book() -> Book:
    book = Book()
    book.add_wallet(WalletModel("user", 100 * MICROS))
    for key in ("settled", "indebted"):
        end = book.add_end(End(key, "user", 40))
        book.answered(end, 200, {"data": {"user_id": "user", "token": 1, "cost": 11, "status": "return-able"}}, "api")
    book.add_end(End("unknown", "user", 40))
    book.add_top_up(TopUp("top", "user", 20, is_acknowledged=True))
    return book


def _snapshot() -> Snapshot:
    return Snapshot(
        wallets={"user": Stored(5 * MICROS, 0)},
        ledger=[
            Entry(1, "user", "top_up", 100 * MICROS, 100 * MICROS, "opening"),
            Entry(2, "user", "usage", -COST, 100 * MICROS - COST, "settled"),
            Entry(3, "user", "top_up", 20 * MICROS, 120 * MICROS - COST, "top"),
            Entry(4, "user", "adjustment", 5 * MICROS - 109 * MICROS, 5 * MICROS, "an adjustment"),
        ],
        inbox=[Waiting("id-1", "user", "retrying", COST, "indebted")],
        cached={"user": Cached(5 * MICROS - COST, 0, COST)},
        aside={"poison-entry"},
    )


def _right() -> tuple[Book, Snapshot]:
    book, snapshot = _book(), _snapshot()
    # The clients don't know of adjustments: these count as part of the opening balance.
    book.wallets["user"].opening_micros -= 104 * MICROS
    book.poisoned_entries.add("poison-entry")
    return book, snapshot


def test_nothing_wrong() -> None:
    book, snapshot = _right()
    assert check(book, snapshot) == []


def _lose_settled(snapshot: Snapshot) -> None:
    del snapshot.ledger[1]


def _lose_indebted(snapshot: Snapshot) -> None:
    snapshot.inbox.clear()


def _bill_twice(snapshot: Snapshot) -> None:
    snapshot.ledger.append(Entry(5, "user", "usage", -COST, 5 * MICROS - COST, "settled"))


def _bill_and_keep(snapshot: Snapshot) -> None:
    snapshot.inbox.append(Waiting("id-2", "user", "retrying", COST, "settled"))


def _bill_unknown(snapshot: Snapshot) -> None:
    # An unknown end may have been recorded, but the clients had to repeat it until they knew.
    snapshot.ledger.append(Entry(5, "user", "usage", -COST, 5 * MICROS - COST, "unknown"))


def _ghost(snapshot: Snapshot) -> None:
    snapshot.ledger.append(Entry(5, "user", "usage", -COST, 5 * MICROS - COST, "nobody's"))


def _wrong_amount(snapshot: Snapshot) -> None:
    snapshot.ledger[1] = replace(snapshot.ledger[1], amount_micros=-COST - 1)


def _wrong_balance(snapshot: Snapshot) -> None:
    snapshot.wallets["user"] = Stored(5 * MICROS - 1, 0)


def _broken_chain(snapshot: Snapshot) -> None:
    snapshot.ledger[2] = replace(snapshot.ledger[2], balance_after_micros=1)


def _post_twice(snapshot: Snapshot) -> None:
    snapshot.ledger.append(Entry(5, "user", "top_up", 20 * MICROS, 25 * MICROS, "top"))


def _overdraw(snapshot: Snapshot) -> None:
    snapshot.wallets["user"] = Stored(-1, 0)


def _stuck(snapshot: Snapshot) -> None:
    snapshot.inbox[0] = replace(snapshot.inbox[0], state="accepted")


def _payable(snapshot: Snapshot) -> None:
    snapshot.wallets["user"] = Stored(5 * MICROS, 6 * MICROS)


def _cache_misses_debt(snapshot: Snapshot) -> None:
    snapshot.cached["user"] = replace(snapshot.cached["user"], debt_micros=0)


def _cache_is_off(snapshot: Snapshot) -> None:
    snapshot.cached["user"] = replace(snapshot.cached["user"], available_micros=5 * MICROS)


def _hold_left(snapshot: Snapshot) -> None:
    snapshot.cached["user"] = replace(snapshot.cached["user"], held_micros=1)


def _poison_lives(snapshot: Snapshot) -> None:
    snapshot.inbox.append(Waiting("id-3", "nobody", "retrying", COST, "poison-1"))


def _leave_in_spool(snapshot: Snapshot) -> None:
    snapshot.spooled = 1


def _put_aside(snapshot: Snapshot) -> None:
    snapshot.aside.add("01a21413-366b-75d1-8586-5a084dcb21ac")


def _drop_poisoned_entry(snapshot: Snapshot) -> None:
    snapshot.aside.clear()


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (_lose_settled, "lost"),
        (_lose_indebted, "lost"),
        (_bill_twice, "double"),
        (_bill_and_keep, "double"),
        (_bill_unknown, "conservation"),
        (_ghost, "ghost"),
        (_wrong_amount, "amount"),
        (_wrong_balance, "conservation"),
        (_broken_chain, "conservation"),
        (_post_twice, "double"),
        (_overdraw, "overdraft"),
        (_stuck, "stuck"),
        (_payable, "stuck"),
        (_cache_misses_debt, "cache"),
        (_cache_is_off, "cache"),
        (_hold_left, "cache"),
        (_poison_lives, "poison"),
        (_leave_in_spool, "stuck"),
        (_put_aside, "aside"),
        (_drop_poisoned_entry, "poison"),
    ],
)
def test_each_wrong_is_found(spoil: Callable[[Snapshot], None], kind: str) -> None:
    book, snapshot = _right()
    spoil(snapshot)
    assert kind in {violation.kind for violation in check(book, snapshot)}


USAGE = (1_000, 500, 300, 100, 200, 2)
PRICE = {
    "model": "gpt-*",
    "tiers": [{"above_input_tokens": 1_000, "input_micros_per_million": 4_000_001}],
    "input_micros_per_million": 2_000_001,
    "output_micros_per_million": 8_000_000,
    "cached_input_micros_per_million": 500_000,
    "cache_write_micros_per_million": None,
    "reasoning_micros_per_million": 9_000_000,
    "request_micros": 7,
}
# 700 * 2.000001 + 300 * 0.5 + 300 * 8 + 200 * 9 + 2 * 7 = 5764.0007, of which 12.5 % are 720.625.
BILL = Bill("gpt-4.1", 1, 2, 5_765, 721, USAGE)
TARIFF = Tariff({1: PRICE, 2: {**PRICE, "model": "gpt-4"}}, {2: (1_250, "gpt-4.1"), 3: (0, None)})


def test_a_bill_that_follows_from_its_price_is_right() -> None:
    assert wrong_amounts(BILL, TARIFF) is None
    assert wrong_amounts(Bill(None, None, None, 500 * 250_000, 0, USAGE), TARIFF) is None
    # In the tier above, plain input and cache writes cost more: 701 * 4.000001 + 150 + 2400 + 1800 + 14.
    above = replace(BILL, usage=(1_001, *USAGE[1:]), base_micros=7_169, profit_micros=897)
    assert wrong_amounts(above, TARIFF) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_micros": 5_764},
        {"profit_micros": 720},
        {"rule_id": None},
        {"rule_id": 3},
        {"price_id": None},
        {"price_id": 2},
        {"price_id": 4},
        {"model": "gpt-4"},
        {"model": None},
        {"usage": (1_001, *USAGE[1:])},
    ],
)
def test_a_bill_that_does_not_is_found(wrong: dict[str, Any]) -> None:
    assert wrong_amounts(replace(BILL, **wrong), TARIFF) is not None


def test_a_priced_end_stands_as_it_was_sent_and_told() -> None:
    book = Book()
    end = PricedEnd("k", "user", 500, model="gpt-4.1", usage=USAGE)
    book.add_end(end)
    assert list(check_bill(book, "k", BILL, TARIFF)) == []
    book.answered(end, 200, {"data": {"cost": 0.006486}}, "api")
    assert list(check_bill(book, "k", BILL, TARIFF)) == []
    end.told_micros = {6_487}
    assert [violation.kind for violation in check_bill(book, "k", BILL, TARIFF)] == ["price"]
    end.told_micros.clear()
    end.usage = (999, *USAGE[1:])
    assert [violation.kind for violation in check_bill(book, "k", BILL, TARIFF)] == ["price"]


def test_what_holds_at_every_moment_is_checked_without_rest() -> None:
    snapshot = _snapshot()
    assert check_ledger(snapshot) == []
    _wrong_balance(snapshot)
    assert [violation.kind for violation in check_ledger(snapshot)] == ["conservation"]


def test_a_repeat_that_is_answered_differently_is_found() -> None:
    book = _book()
    data = {"user_id": "user", "token": 2, "cost": 11, "status": "return-able"}
    book.answered(book.ends["settled"], 200, {"data": data}, "api")
    assert [violation.kind for violation in book.violations] == ["replay"]


def test_a_wrong_price_is_found() -> None:
    book = _book()
    data = {"user_id": "user", "token": 2, "cost": 10.999999, "status": "return-able"}
    book.answered(book.ends["unknown"], 200, {"data": data}, "api")
    assert [violation.kind for violation in book.violations] == ["price"]


@pytest.mark.parametrize("status", [0, 500, 503])
def test_an_answer_that_never_came_stays_open(status: int) -> None:
    book = _book()
    book.answered(book.ends["unknown"], status, {}, "api")
    assert book.open_ends() == [book.ends["unknown"]]
    # Whatever is away, a client must never get an internal error.
    assert [violation.kind for violation in book.violations] == (["crash"] if status == 500 else [])


def test_a_refused_end_is_found() -> None:
    book = _book()
    book.answered(book.ends["unknown"], 409, {"message": "no"}, "api")
    assert [violation.kind for violation in book.violations] == ["refused"]
    assert book.open_ends() == []


@pytest.mark.parametrize("is_first_billed", [True, False])
def test_of_two_bodies_under_one_key_one_is_billed_and_the_other_put_aside(is_first_billed: bool) -> None:
    book, snapshot = _right()
    other = COST + 275_000
    book.maybe_reused["settled"] = book.reused["settled"] = other
    if is_first_billed:
        snapshot.inbox.append(Waiting("id-9", "user", "dead", other, None, REUSED))
    else:
        snapshot.inbox.append(Waiting("id-9", "user", "dead", COST, None, REUSED))
        snapshot.ledger[1] = replace(snapshot.ledger[1], amount_micros=-other)
        book.wallets["user"].opening_micros += 275_000
    found = {violation.kind for violation in check(book, snapshot)}
    assert found <= {"conservation", "cache"}
    snapshot.inbox.pop()
    assert "lost" in {violation.kind for violation in check(book, snapshot)}


def test_what_is_put_aside_must_have_been_sent() -> None:
    book, snapshot = _right()
    snapshot.inbox.append(Waiting("id-9", "user", "dead", COST, None, REUSED))
    assert "ghost" in {violation.kind for violation in check(book, snapshot)}
