"""How often the stores are asked: once for a cached start, once for a load that many wait for, once for many ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from redis.client import Pipeline

from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.catalog import FeatureEndpoint
from app.domain.ends import EndAnswer
from app.domain.errors import WalletNotFound
from app.domain.wallets import Access
from app.stores.postgres import balances, inbox
from tests.processes import wait_until
from tests.support import FEATURE, Billing

START = StartRequest("user-1", FEATURE)


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    billing.wallet(tokens=1_000)
    return billing


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, slowed_by: float = 0) -> list[Any]:
    """Let each call of a function through, and remember it."""
    calls: list[Any] = []
    original = getattr(owner, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        time.sleep(slowed_by)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counting)
    return calls


def test_a_cached_start_is_one_redis_call_and_no_sql(
    shop: Billing, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.container.start.start(START)
    pipelines = count_calls(monkeypatch, Pipeline, "execute")
    statements = count_calls(monkeypatch, shop.container.postgres, "_attempt")
    redis_client.config_resetstat()
    assert shop.container.start.start(START).access is Access.GRANTED
    assert len(pipelines) == 1
    assert statements == []
    stats: dict[str, Any] = redis_client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1


def test_many_waiting_for_one_wallet_load_it_once(shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = count_calls(monkeypatch, balances, "load", slowed_by=0.05)
    together = threading.Barrier(40)

    def start(_: int) -> Access:
        together.wait()
        return shop.container.start.start(START).access

    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(start, range(40))) == {Access.GRANTED}
    assert len(loads) == 1


def test_ends_that_wait_together_share_an_insert_and_a_message(shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.container.start.start(START)
    inserts = count_calls(monkeypatch, inbox, "insert", slowed_by=0.02)
    messages = count_calls(monkeypatch, shop.container.celery, "send_task")
    together = threading.Barrier(60)

    def end(_: int) -> None:
        request = shop.usage(output_tokens=4)
        together.wait()
        shop.container.end.end(request)

    with ThreadPoolExecutor(60) as pool:
        list(pool.map(end, range(60)))
    shop.container.doorbell.close()
    assert shop.inbox_size() == 60
    assert len(inserts) < 20
    assert len(messages) <= len(inserts)


def test_another_process_sees_what_an_administrator_changes(
    shop: Billing, make_container: Callable[[], Container]
) -> None:
    other = make_container()
    other.watcher.start()
    wait_until(lambda: FEATURE in other.catalog.current.features, what="the catalog")
    assert other.start.start(START).access is Access.GRANTED

    shop.container.catalog_admin.update_feature(FEATURE, {"min_micros": 2_000_000_000})
    wait_until(lambda: other.start.start(START).access is Access.DENIED, what="the higher minimum")
    shop.container.catalog_admin.create_feature(FeatureEndpoint("feature-new", "New", 1))
    wait_until(lambda: "feature-new" in other.catalog.current.features, what="the new feature")
    shop.container.wallet_admin.update("user-1", {"status": "closed"})
    with pytest.raises(Exception, match="User wallet not found"):
        other.start.start(START)


def test_a_batch_of_free_and_paid_ends_of_one_user_is_one_commit(
    shop: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.container.start.start(START)
    commits = count_calls(monkeypatch, inbox, "insert")
    pipelines = count_calls(monkeypatch, Pipeline, "execute")
    requests = [
        shop.usage(input_tokens=0, output_tokens=0)
        if i % 2
        else shop.usage(output_tokens=4, idempotency_key=f"key-{i}")
        for i in range(1_000)
    ]
    answers = shop.container.end.end_all(requests)
    assert len(commits) == 1
    # One decides, one takes the marks out of flight.
    assert len(pipelines) == 2
    # A free end is answered the balance after those before it.
    spendable = [answer.spendable_micros for answer in answers if isinstance(answer, EndAnswer)]
    assert spendable == [1_000_000_000 - 1_100_000 * (i // 2 + 1) for i in range(1_000)]
    assert shop.inbox_size() == 500


def test_free_ends_give_their_holds_back_within_the_batch(shop: Billing) -> None:
    process_ids = []
    for _ in range(3):
        held = shop.container.start.start(StartRequest("user-1", FEATURE, hold_micros=100_000_000))
        process_ids.append(held.process_id)
    free = [shop.usage(input_tokens=0, output_tokens=0, process_id=process_id) for process_id in process_ids]
    answers = shop.container.end.end_all([free[0], shop.usage(), free[1], free[2]])
    assert [answer.spendable_micros for answer in answers if isinstance(answer, EndAnswer)] == [
        800_000_000, 789_000_000, 889_000_000, 989_000_000,
    ]  # fmt: skip
    assert shop.inbox_size() == 1


@pytest.mark.parametrize("is_redis_up", [True, False])
def test_a_free_end_of_nobody_is_refused_alone(shop: Billing, *, is_redis_up: bool) -> None:
    if not is_redis_up:
        shop.container.redis_gate.close(ConnectionError("test"))
    free = {"input_tokens": 0, "output_tokens": 0}
    answers = shop.container.end.end_all([shop.usage("nobody", **free), shop.usage(), shop.usage(**free)])
    assert isinstance(answers[0], WalletNotFound)
    assert [answer.spendable_micros for answer in answers[1:] if isinstance(answer, EndAnswer)] == [989_000_000] * 2
