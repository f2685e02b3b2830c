"""Events are written in the transaction that causes them: none without it, none is lost, each once."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from app.domain.corrections import Chargeback
from app.domain.reasons import FailureReason
from app.domain.wallets import wallet_of
from app.domain.webhooks import SUBSCRIBABLE, EventType
from app.stores.postgres import settlement
from app.stores.postgres.settlement import RetryPolicy
from tests.support import PACKAGE, Billing, assert_conserved, collect_now
from tests.webhooks_shop import Webhooks


@pytest.fixture
def hooks(billing: Billing) -> Webhooks:
    """The wallet `user-1` with 1,000 tokens; a run costs what it is said to."""
    billing.catalog(basis_points=None)
    billing.wallet(tokens=1_000)
    return Webhooks(billing)


def test_the_triggers_know_the_same_types(hooks: Webhooks) -> None:
    with hooks.container.engine.connect() as connection:
        sources = connection.execute(
            sa.text("SELECT string_agg(prosrc, ' ') FROM pg_proc WHERE prolang <> 12")
        ).scalar_one()
    for kind in SUBSCRIBABLE:
        assert f"'{kind}'" in sources


def test_nothing_is_written_where_nobody_asks(hooks: Webhooks) -> None:
    hooks.spend(1_000)
    hooks.top_up(5, "a")
    hooks.spend(10)
    assert hooks.events() == []


class TestLowBalance:
    def test_once_below_and_again_only_after_a_clear_rise(self, hooks: Webhooks) -> None:
        hooks.endpoint()
        hooks.low_balance(100, user_id="user-1")
        hooks.spend(900)
        assert hooks.data("wallet.low_balance") == []
        hooks.spend(1)
        assert hooks.data("wallet.low_balance") == [
            {
                "user_id": "user-1",
                "balance_token": 99,
                "posted_token": 99,
                "debt_token": 0,
                "below_token": 100,
                "below_percent": None,
            }
        ]
        hooks.spend(1)
        # 109 of 100 is not clearly above.
        hooks.top_up(11, "a")
        hooks.spend(20)
        assert len(hooks.data("wallet.low_balance")) == 1
        # 110 is.
        hooks.top_up(21, "b")
        hooks.spend(11)
        assert [found["balance_token"] for found in hooks.data("wallet.low_balance")] == [99, 99]

    def test_percent_of_what_it_had_after_its_last_top_up(self, hooks: Webhooks) -> None:
        hooks.endpoint()
        hooks.low_balance(percent=20, user_id="user-1")
        hooks.spend(801)
        [found] = hooks.data("wallet.low_balance")
        assert (found["below_token"], found["below_percent"], found["balance_token"]) == (200, 20, 199)
        hooks.top_up(801, "a")
        hooks.spend(800)
        assert len(hooks.data("wallet.low_balance")) == 1
        hooks.spend(1)
        assert len(hooks.data("wallet.low_balance")) == 2

    def test_the_packages_rule_unless_the_wallet_has_one(self, hooks: Webhooks) -> None:
        hooks.billing.wallet("user-2", tokens=1_000)
        hooks.billing.wallet("user-3", tokens=1_000)
        hooks.low_balance(500, package_id=PACKAGE)
        hooks.low_balance(100, user_id="user-2")
        # Neither amount: never, whatever the package says.
        hooks.low_balance(None, user_id="user-3")
        for user_id in ("user-1", "user-2", "user-3"):
            hooks.spend(600, user_id)
        assert [event.user_id for event in hooks.events()] == ["user-1"]
        hooks.spend(301, "user-2")
        assert [event.user_id for event in hooks.events()] == ["user-1", "user-2"]

    def test_a_debt_counts(self, hooks: Webhooks) -> None:
        """Posted stays: what the wallet owes is gone all the same."""
        hooks.low_balance(500, user_id="user-1")
        hooks.spend(1_200)
        [found] = hooks.data("wallet.low_balance")
        assert (found["balance_token"], found["posted_token"], found["debt_token"]) == (-200, 1_000, 1_200)

    def test_a_closed_wallet_is_told_of_no_more(self, hooks: Webhooks) -> None:
        hooks.endpoint()
        hooks.low_balance(500, user_id="user-1")
        hooks.container.wallet_admin.update("user-1", {"status": "closed"})
        hooks.spend(1_000)
        assert hooks.types() == []

    def test_many_wallets_in_one_settlement(self, hooks: Webhooks) -> None:
        hooks.low_balance(500, package_id=PACKAGE)
        users = [f"many-{i:03}" for i in range(200)]
        for user_id in users:
            hooks.billing.wallet(user_id, tokens=1_000)
        # 1,000 ends of 200 wallets: half of the wallets fall below 500 tokens.
        ends = [
            hooks.billing.usage(user_id, output_tokens=4 * (101 if i % 2 else 99))
            for i, user_id in enumerate(users)
            for _ in range(5)
        ]
        hooks.container.end.end_all(ends)
        hooks.billing.settle_everything()
        assert sorted(event.user_id or "" for event in hooks.events("wallet.low_balance")) == users[1::2]
        assert_conserved(hooks.billing, *users)


class TestDepleted:
    def test_when_no_token_is_left(self, hooks: Webhooks) -> None:
        hooks.endpoint("http://127.0.0.1:1/", "wallet.depleted")
        hooks.spend(999)
        assert hooks.types() == []
        hooks.spend(1)
        hooks.top_up(10, "a")
        hooks.spend(10)
        assert hooks.types() == ["wallet.depleted"] * 2
        assert hooks.data("wallet.depleted")[0] == {
            "user_id": "user-1",
            "balance_token": 0,
            "posted_token": 0,
            "debt_token": 0,
            "overdraft_limit_token": 0,
        }

    def test_by_debt_and_once_for_all_of_it(self, hooks: Webhooks) -> None:
        hooks.endpoint("http://127.0.0.1:1/", "wallet.depleted")
        hooks.spend(1_001)
        hooks.spend(1_001)
        assert [found["debt_token"] for found in hooks.data("wallet.depleted")] == [1_001]

    def test_an_overdraft_limit_is_left_too(self, hooks: Webhooks) -> None:
        hooks.endpoint("http://127.0.0.1:1/", "wallet.depleted")
        hooks.container.wallet_admin.update("user-1", {"overdraft_limit_micros": 50_000_000})
        hooks.spend(1_000)
        assert hooks.types() == []
        hooks.spend(50)
        [found] = hooks.data("wallet.depleted")
        assert (found["balance_token"], found["overdraft_limit_token"]) == (-50, 50)

    def test_by_a_chargeback(self, hooks: Webhooks) -> None:
        hooks.endpoint("http://127.0.0.1:1/", "wallet.depleted")
        hooks.container.corrections.charge_back(Chargeback("user-1", amount_micros=1_000_000_000, reference="dispute"))
        assert hooks.types() == ["wallet.depleted"]


class TestToppedUp:
    def test_each_top_up_once(self, hooks: Webhooks) -> None:
        hooks.endpoint("http://127.0.0.1:1/", "wallet.topped_up")
        for _ in range(3):
            hooks.top_up(50, "invoice-17")
        [found] = hooks.data("wallet.topped_up")
        entry = hooks.billing.ledger()[-1]
        assert found == {
            "user_id": "user-1",
            "transaction_id": entry.id,
            "token": 50,
            "balance_after": 1_050,
            "reference": "invoice-17",
            "reason": None,
            "actor": entry.actor,
        }


class TestDeadLetters:
    def test_a_debt_that_is_given_up(self, hooks: Webhooks) -> None:
        hooks.endpoint("http://127.0.0.1:1/", "end.dead_lettered")
        hooks.spend(2_000)
        for _ in range(hooks.container.config.retry_attempts_max):
            collect_now(hooks.container, "user-1")
        [end] = hooks.billing.inbox()
        assert end.state == "dead"
        [found] = hooks.data("end.dead_lettered")
        assert found.pop("accepted_at").endswith("Z")
        assert found == {
            "end_id": str(end.id),
            "user_id": "user-1",
            "kind": "usage",
            "feature_endpoint_id": "feature-text",
            "model": None,
            "process_id": None,
            "cost": 2_000,
            "attempts": hooks.container.config.retry_attempts_max,
            "last_error": "insufficient_tokens",
        }

    def test_one_that_is_put_aside_and_again_after_a_replay(self, hooks: Webhooks) -> None:
        hooks.endpoint("http://127.0.0.1:1/", "end.dead_lettered")
        hooks.container.end.end(hooks.billing.usage(output_tokens=40))
        hooks.billing.execute("UPDATE end_inbox SET cost_micros = 1")
        hooks.billing.settle_everything()
        assert [found["last_error"] for found in hooks.data("end.dead_lettered")] == ["quote_disagrees"]
        [end] = hooks.billing.inbox()
        hooks.container.failed_ends.replay(end.id)
        hooks.billing.settle_everything()
        assert len(hooks.data("end.dead_lettered")) == 2

    def test_without_a_wallet(self, hooks: Webhooks) -> None:
        hooks.endpoint("http://127.0.0.1:1/", "end.dead_lettered")
        hooks.container.end.end(hooks.billing.usage())
        hooks.billing.execute("UPDATE end_inbox SET wallet_id = 'nobody'")
        hooks.billing.settle_everything()
        assert [found["last_error"] for found in hooks.data("end.dead_lettered")] == ["wallet_missing"]


def test_a_roll_back_makes_no_event(hooks: Webhooks) -> None:
    hooks.endpoint()
    hooks.low_balance(500, user_id="user-1")
    hooks.container.end.end(hooks.billing.usage(output_tokens=4_000))
    hooks.container.end.end(hooks.billing.usage(output_tokens=40))
    ends = [end.id for end in hooks.billing.inbox()]
    policy = RetryPolicy(attempts_max=12, base_seconds=5, cap_seconds=3_600)
    with hooks.container.engine.connect() as connection:
        settlement.claim(connection, ends)
        settlement.settle(connection, ends, policy)
        told = set(connection.execute(sa.text("SELECT type FROM webhook_events")).scalars())
        assert told == {"wallet.low_balance", "wallet.depleted"}
        connection.rollback()
    assert hooks.events() == []
    assert hooks.deliveries() == []


def test_each_event_is_delivered_to_all_that_want_it(hooks: Webhooks) -> None:
    everything = hooks.endpoint()
    top_ups = hooks.endpoint("http://127.0.0.1:1/", "wallet.topped_up")
    hooks.endpoint("http://127.0.0.1:1/", "end.dead_lettered")
    disabled = hooks.endpoint()
    hooks.container.webhook_endpoints.disable(disabled.id)
    hooks.top_up(1, "a")
    [event] = hooks.events()
    assert [(one.event_id, one.endpoint_id) for one in hooks.deliveries()] == [
        (event.id, everything.id),
        (event.id, top_ups.id),
    ]


def test_events_stand_in_the_order_of_their_ids(hooks: Webhooks) -> None:
    hooks.endpoint()
    for i in range(3):
        hooks.top_up(1, f"a-{i}")
        # Within a millisecond they stand in any order.
        time.sleep(0.002)
    assert [found["reference"] for found in hooks.data("wallet.topped_up")] == ["a-0", "a-1", "a-2"]
    for event in hooks.events():
        assert (event.id.version, event.id.variant) == (7, uuid.RFC_4122)
        assert abs((event.id.int >> 80) / 1_000 - event.occurred_at.timestamp()) < 0.1


def test_two_workers_at_once_tell_once(hooks: Webhooks) -> None:
    """Whoever writes about a wallet has it locked."""
    hooks.endpoint("http://127.0.0.1:1/", "wallet.low_balance")
    hooks.low_balance(900, package_id=PACKAGE)
    users = ["user-1", *(hooks.billing.wallet(f"more-{i}", tokens=1_000) for i in range(9))]
    for _ in range(10):
        hooks.container.end.end_all([hooks.billing.usage(user_id, output_tokens=80) for user_id in users])
    ends = [end.id for user_id in users for end in hooks.billing.inbox(user_id)]
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(hooks.container.settlement.settle, ends[i::4]) for i in range(4)]:
            done.result()
    hooks.billing.settle_everything()
    assert sorted(event.user_id or "" for event in hooks.events()) == sorted(users)


def test_a_watch_that_somebody_keeps_delays_its_own_wallet_only(hooks: Webhooks) -> None:
    hooks.low_balance(500, package_id=PACKAGE)
    hooks.billing.wallet("user-2", tokens=1_000)
    with hooks.container.engine.connect() as connection:
        connection.execute(sa.text("SELECT FROM wallet_watches WHERE wallet_id = 'user-1' FOR UPDATE"))
        for user_id in ("user-1", "user-2"):
            hooks.container.end.end(hooks.billing.usage(user_id, output_tokens=4 * 600))
        hooks.billing.settle_everything()
        assert [event.user_id for event in hooks.events()] == ["user-2"]
        assert (len(hooks.billing.inbox("user-1")), len(hooks.billing.inbox("user-2"))) == (1, 0)
        connection.rollback()
    hooks.billing.settle_everything()
    assert [event.user_id for event in hooks.events()] == ["user-2", "user-1"]


def test_amounts_past_what_a_float_holds_are_exact(hooks: Webhooks) -> None:
    hooks.endpoint("http://127.0.0.1:1/", "wallet.topped_up")
    hooks.billing.wallet("rich", tokens=0)
    hooks.billing.execute("UPDATE wallets SET posted_micros = 3000000000000000 WHERE wallet_id = 'rich'")
    hooks.container.postings.post(_posting("rich", 999_999_999_999_999))
    [found] = hooks.data("wallet.topped_up")
    assert found["token"] == Decimal("999999999.999999")
    assert found["balance_after"] == Decimal("3999999999.999999")


def _posting(user_id: str, micros: int) -> Any:
    from app.domain.postings import Posting, PostingKind

    return Posting(user_id, PostingKind.TOP_UP, micros, "a")


def test_reasons_of_dead_letters_are_those_of_failed_ends(hooks: Webhooks) -> None:
    hooks.endpoint("http://127.0.0.1:1/", EventType.DEAD_LETTERED)
    hooks.container.end.end(hooks.billing.usage())
    [end] = hooks.billing.inbox()
    with hooks.container.engine.begin() as connection:
        settlement.bury(connection, [end.id], FailureReason.TOO_SLOW)
    [found] = hooks.data("end.dead_lettered")
    assert (found["last_error"], found["user_id"]) == ("too_slow", wallet_of("user-1"))
