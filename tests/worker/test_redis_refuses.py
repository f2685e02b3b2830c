"""A real worker and beat on a Redis that answers and refuses: they outlive it, and work again by themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from stack.embedded import ValkeyServer
from tests import processes
from tests.processes import free_port
from tests.redis_refusals import REFUSALS, Refusal, without_replicas
from tests.support import Billing

pytestmark = pytest.mark.long


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path / "redis", port=free_port()) as server:
        yield server


@pytest.fixture
def admin(own_redis: ValkeyServer) -> Iterator[Redis]:
    """A connection that is there already: new ones may be refused as well."""
    with Redis.from_url(own_redis.url, decode_responses=True) as client:
        client.ping()
        yield client


@pytest.mark.parametrize("refuse", REFUSALS)
def test_worker_and_beat_outlive_it(
    billing: Billing,
    environment: dict[str, str],
    own_redis: ValkeyServer,
    admin: Redis,
    tmp_path: Path,
    refuse: Refusal,
) -> None:
    billing.catalog()
    billing.wallet(tokens=100)
    # Nothing rings for these ends: beat's messages, by way of this Redis, have a worker sweep them.
    billing.container.doorbell.settle = lambda end_ids: None  # type: ignore[method-assign]
    settings = {**environment, "REDIS_URL": own_redis.url}
    with processes.worker(settings, tmp_path) as worker, processes.beat(settings, tmp_path) as beat:
        billing.container.end.end(billing.usage())
        processes.wait_until(
            lambda: billing.balance().posted_micros == 89_000_000, seconds=30, what="the sweep", log=worker.log
        )
        refuse(admin, True)
        time.sleep(5)
        for process in (worker, beat):
            assert process.process.poll() is None, process.log.read_text()[-4_000:]
        size = worker.log.stat().st_size
        refuse(admin, False)
        billing.container.end.end(billing.usage())
        processes.wait_until(
            lambda: billing.balance().posted_micros == 78_000_000, seconds=15, what="the sweep", log=worker.log
        )
        assert size < 200_000, "it logs without a pause"


def test_a_worker_waits_for_a_redis_that_takes_writes(
    billing: Billing, environment: dict[str, str], own_redis: ValkeyServer, admin: Redis, tmp_path: Path
) -> None:
    billing.catalog()
    without_replicas(admin, True)
    settings = {**environment, "REDIS_URL": own_redis.url, "WORKER_NAME": "late@test", "LOG_LEVEL": "INFO"}
    with processes.run("worker", settings, tmp_path / "late.log") as worker:
        time.sleep(4)
        assert worker.process.poll() is None, worker.log.read_text()[-4_000:]
        without_replicas(admin, False)
        processes.wait_until(
            lambda: "late@test ready" in worker.log.read_text(), seconds=20, what="the worker", log=worker.log
        )
