"""Stores that take connections and calls and are silent: no wait for them is without end, and no end is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa
from kombu.exceptions import OperationalError

from app.billing.start import StartRequest
from app.config import Config
from app.domain.errors import Unavailable
from app.domain.wallets import Access, Deduction
from app.stores.postgres.engine import allow_seconds, create_engine
from app.stores.postgres.failures import NoAnswer
from app.stores.queue import SETTLE_ENDS, SETTLE_QUEUE
from stack.embedded import EmbeddedServer, PostgresServer, ValkeyServer
from tests.faults.stack_under_test import freeze, thaw
from tests.support import FEATURE, Billing, assert_conserved


@pytest.fixture
def shop(make_shop: Callable[..., Billing]) -> Billing:
    return make_shop(database_timeout_seconds=0.3)


@pytest.fixture
def impatient(config: Config) -> Config:
    return replace(config, database_timeout_seconds=0.3)


@contextmanager
def frozen(server: EmbeddedServer) -> Iterator[None]:
    pids = freeze(server.pid)
    try:
        yield
    finally:
        thaw(pids)


def many(call: Callable[[], object], count: int) -> list[object]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result(timeout=20) for future in [pool.submit(call) for _ in range(count)]]


def test_ends_are_kept_in_the_spool_while_postgres_is_silent(shop: Billing, postgres_server: PostgresServer) -> None:
    services = shop.container
    services.end.end(shop.usage())
    with frozen(postgres_server):
        answers = many(lambda: services.end.end(shop.usage(output_tokens=4)).deduction, 5)
        assert answers == [Deduction.COVERED] * 5
        assert not services.postgres_gate.is_open
        assert services.start.start(StartRequest("user-1", FEATURE)).access is Access.GRANTED
        with pytest.raises(Unavailable):
            services.start.start(StartRequest("nobody", FEATURE))
    # What Postgres was told and did when nobody listened any more is in the spool as well: it is billed once.
    deadline = time.monotonic() + 20
    while not services.postgres_gate.is_open and time.monotonic() < deadline:
        services.watcher.look_at_postgres()
    services.spool_drain.drain()
    shop.settle_everything()
    assert shop.balance().posted_micros == 100_000_000 - 11_000_000 - 5 * 1_100_000
    assert_conserved(shop, "user-1")


def test_ends_are_recorded_while_redis_is_silent(shop: Billing, own_redis: ValkeyServer) -> None:
    services = shop.container
    services.end.end(shop.usage())
    with frozen(own_redis):
        answers = many(lambda: services.end.end(shop.usage(output_tokens=4)).deduction, 5)
        assert answers == [Deduction.COVERED] * 5
        assert not services.redis_gate.is_open
    shop.settle_everything()
    assert shop.balance().posted_micros == 100_000_000 - 11_000_000 - 5 * 1_100_000
    services.watcher.look_at_redis()
    started = services.start.start(StartRequest("user-1", FEATURE))
    assert started.spendable_micros == shop.balance().posted_micros


def test_each_wait_for_postgres_has_an_end(impatient: Config, postgres_server: PostgresServer) -> None:
    engine = create_engine(impatient)
    with engine.connect() as reading, engine.connect() as committing:
        reading.execute(sa.text("SELECT 1"))
        committing.execute(sa.text("CREATE TEMPORARY TABLE t (i int)"))
        with frozen(postgres_server):
            with pytest.raises(sa.exc.OperationalError) as raised:
                reading.execute(sa.text("SELECT 1"))
            assert isinstance(raised.value.orig, NoAnswer)
            assert raised.value.connection_invalidated
            with pytest.raises(sa.exc.OperationalError):
                committing.commit()
            with pytest.raises(sa.exc.OperationalError):
                engine.connect()
    engine.dispose()


def test_a_longer_limit_ends_with_its_transaction(impatient: Config, postgres_url: str) -> None:
    engine = create_engine(impatient, pool_size=1)
    slow = sa.text("SELECT pg_sleep(1)")
    with engine.begin() as connection:
        allow_seconds(connection, 5)
        connection.execute(slow)
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match="statement timeout"):
        connection.execute(slow)
    engine.dispose()


def test_no_message_is_waited_for_without_end(shop: Billing, own_redis: ValkeyServer) -> None:
    send = shop.container.celery.send_task
    send(SETTLE_ENDS, args=[[]], queue=SETTLE_QUEUE, retry=False)
    with frozen(own_redis), pytest.raises(OperationalError):
        send(SETTLE_ENDS, args=[[]], queue=SETTLE_QUEUE, retry=False)
    send(SETTLE_ENDS, args=[[]], queue=SETTLE_QUEUE, retry=False)
