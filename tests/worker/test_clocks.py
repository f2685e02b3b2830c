"""Hosts whose clocks differ by up to a day: nothing changes."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from app.stores.queue import SETTLE_ENDS, is_waiting
from tests import processes
from tests.support import Billing

pytestmark = pytest.mark.long

DAY = 86_400


@pytest.mark.parametrize(("beat_is_off", "worker_is_off"), [(-DAY, 0), (DAY, 0), (-2, 2), (0, DAY)])
def test_beat_and_a_worker_whose_clocks_differ(
    billing: Billing, environment: dict[str, str], tmp_path: Path, beat_is_off: int, worker_is_off: int
) -> None:
    billing.catalog()
    billing.wallet(tokens=100)
    billing.container.doorbell.settle = lambda end_ids: None  # type: ignore[method-assign]
    with (
        processes.worker(environment, tmp_path, clock_seconds=worker_is_off) as worker,
        processes.beat(environment, tmp_path, clock_seconds=beat_is_off),
    ):
        for settled in (89_000_000, 78_000_000):
            billing.container.end.end(billing.usage())
            processes.wait_until(
                lambda settled=settled: billing.balance().posted_micros == settled,  # type: ignore[misc]
                seconds=20,
                what="the sweep",
                log=worker.log,
            )


def test_what_beat_sends_while_no_worker_runs_is_no_heap(
    billing: Billing, environment: dict[str, str], tmp_path: Path
) -> None:
    client = billing.container.redis_client
    client.lpush("tokentill:queue:maintenance", "garbage")
    with processes.beat({**environment, "SWEEP_SECONDS": "0.2"}, tmp_path):
        processes.wait_until(lambda: int(client.llen("tokentill:queue:maintenance")) >= 5, what="beat")
        time.sleep(3)
        messages = client.lrange("tokentill:queue:maintenance", 0, -1)
    assert messages.pop() == "garbage"
    sent = [json.loads(message)["headers"] for message in messages]
    assert max(Counter(headers["task"] for headers in sent).values()) == 1
    assert {"tokentill.sweep", "tokentill.drain_spool"} <= {headers["task"] for headers in sent}
    assert {headers["expires"] for headers in sent} == {None}


def test_a_queue_that_is_full_of_others_gets_no_more(billing: Billing) -> None:
    client = billing.container.redis_client
    assert not is_waiting(client, "maintenance", SETTLE_ENDS)
    client.lpush("tokentill:queue:maintenance", *["{}"] * 100)
    assert is_waiting(client, "maintenance", SETTLE_ENDS)
