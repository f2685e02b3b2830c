"""A real worker process behind real queues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.postings import Posting, PostingKind
from app.domain.wallets import Deduction
from app.stores.queue import COLLECT_DEBTS, QUEUES, RETRY_QUEUE, SETTLE_ENDS, message_counts
from tests import processes
from tests.support import Billing, assert_conserved


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    billing.wallet(tokens=100)
    return billing


@pytest.fixture
def worker(shop: Billing, environment: dict[str, str], tmp_path: Path) -> Iterator[processes.Running]:
    with processes.worker(environment, tmp_path) as running:
        yield running


def log_lines(running: processes.Running, message: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == message]


def posted(shop: Billing) -> int:
    return shop.balance().posted_micros


def test_a_message_settles_its_ends_and_the_request_id_follows(shop: Billing, worker: processes.Running) -> None:
    shop.container.end.end(shop.usage(request_id="trace-1"))
    processes.wait_until(lambda: posted(shop) == 89_000_000, seconds=20, what="settlement", log=worker.log)
    processes.wait_until(lambda: bool(log_lines(worker, "ends_settled")), what="the log line", log=worker.log)
    [line] = log_lines(worker, "ends_settled")
    assert line["request_ids"] == ["trace-1"]
    processes.wait_until(lambda: shop.cached_spendable_micros() == 89_000_000, what="the cached balance")


def test_messages_repeated_and_shuffled_settle_once(shop: Billing, worker: processes.Running) -> None:
    ids = []
    for _ in range(30):
        shop.container.end.end(shop.usage(output_tokens=4))
        ids.append([str(end.id) for end in shop.inbox()])
    for known in ids[::-1] * 3 + ids:
        if known:
            shop.container.celery.send_task(SETTLE_ENDS, args=[known], queue="settle")
    processes.wait_until(lambda: not shop.inbox(), what="settlement", log=worker.log)
    assert len(shop.ledger()) == 31
    assert_conserved(shop, "user-1")


def test_garbage_in_the_queue_stops_nobody(shop: Billing, worker: processes.Running) -> None:
    send = shop.container.celery.send_task
    send(SETTLE_ENDS, args=[["not-a-uuid"]], queue="settle")
    send(SETTLE_ENDS, args=[{"a": 1}, 2, 3], queue="settle")
    send("tokentill.no_such_task", args=[1], queue="settle")
    shop.container.end.end(shop.usage())
    processes.wait_until(lambda: posted(shop) == 89_000_000, seconds=20, what="settlement", log=worker.log)


def test_what_a_version_before_has_left_in_the_queues_is_let_go(shop: Billing, worker: processes.Running) -> None:
    shop.wallet("poor", tokens=50)
    shop.container.end.end(shop.usage("poor", output_tokens=320))
    [debt] = shop.inbox("poor")
    for _ in range(300):
        arguments = [str(debt.id), "poor", "88", "insufficient_tokens"]
        shop.container.celery.send_task("tokentill.retry_failed_end", args=arguments, queue=RETRY_QUEUE)
    shop.container.postings.post(Posting("poor", PostingKind.TOP_UP, 100_000_000, "top-up-1"))
    processes.wait_until(
        lambda: shop.balance("poor").posted_micros == 62_000_000, seconds=20, what="the debt", log=worker.log
    )
    processes.wait_until(
        lambda: message_counts(shop.container.redis_client, QUEUES) == dict.fromkeys(QUEUES, 0), what="empty queues"
    )


def test_a_top_up_collects_debt(shop: Billing, worker: processes.Running) -> None:
    shop.wallet("poor", tokens=50)
    ended = shop.container.end.end(shop.usage("poor", output_tokens=320, model=None))
    assert (ended.cost_micros, ended.deduction) == (88_000_000, Deduction.FAILED)
    shop.container.postings.post(Posting("poor", PostingKind.TOP_UP, 100_000_000, "top-up-1"))
    processes.wait_until(
        lambda: shop.balance("poor").posted_micros == 62_000_000, seconds=20, what="the debt", log=worker.log
    )
    assert shop.inbox("poor") == []
    assert_conserved(shop, "poor")


def test_beat_settles_what_no_message_announced(
    shop: Billing, worker: processes.Running, environment: dict[str, str], tmp_path: Path
) -> None:
    shop.container.doorbell.settle = lambda end_ids: None  # type: ignore[method-assign]
    with processes.beat(environment, tmp_path):
        shop.container.end.end(shop.usage())
        processes.wait_until(lambda: posted(shop) == 89_000_000, seconds=20, what="the sweep", log=worker.log)


def test_a_wallet_in_debt_is_one_task_that_says_what_it_is_about(shop: Billing) -> None:
    shop.wallet("poor", tokens=0)
    for _ in range(3):
        shop.container.end.end(shop.usage("poor"))
    shop.settle_everything()
    shop.execute_in_postgres("UPDATE wallets SET collect_at = now() WHERE user_id = 'poor'")
    due = shop.container.collection.due_wallets(10)
    for _ in range(5):
        shop.container.doorbell.collect(due)
    shop.container.doorbell.close()
    messages = shop.container.redis_client.lrange("tokentill:queue:retry", 0, -1)
    headers = json.loads(messages[0])["headers"]
    assert headers["task"] == COLLECT_DEBTS
    assert headers["argsrepr"] == "poor owes 33 tokens"
    assert len(messages) < 5
