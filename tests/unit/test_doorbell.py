"""The doorbell takes from everybody and waits for nobody: what a silent broker would let pile up has a bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from celery import Celery
from fakeredis import FakeRedis
from redis import Redis

from app.stores.postgres.debts import IndebtedWallet
from app.stores.queue import IDS_PER_MESSAGE, KEY_PREFIX, SETTLE_QUEUE, CeleryDoorbell
from tests.processes import wait_until


class SilentBroker:
    """Takes one message and says nothing until it is let go on."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.asked = threading.Event()
        self.sent: list[Any] = []

    def send_task(self, _task: str, args: list[Any], **_options: Any) -> None:
        self.asked.set()
        assert self.goes_on.wait(10)
        self.sent.append(args[0])


@pytest.fixture
def broker() -> Iterator[SilentBroker]:
    broker = SilentBroker()
    yield broker
    broker.goes_on.set()


@pytest.fixture
def redis() -> Redis:
    return FakeRedis(decode_responses=True)


def announced(broker: SilentBroker) -> list[str]:
    return [end_id for message in broker.sent for end_id in message]


def test_what_piles_up_is_bounded_and_the_bell_rings_again_afterwards(broker: SilentBroker, redis: Redis) -> None:
    doorbell = CeleryDoorbell(cast("Celery", broker), redis, pending_max=10)
    ids = [uuid4() for _ in range(100)]
    doorbell.settle(ids[:1])
    assert broker.asked.wait(5)
    for end_id in ids[1:]:
        doorbell.settle([end_id])
    assert doorbell._pending_count == 10
    broker.goes_on.set()
    wait_until(lambda: len(announced(broker)) == 10)
    # The sweep finds the others.
    assert announced(broker) == [str(end_id) for end_id in ids[:10]]
    last = uuid4()
    wait_until(lambda: doorbell._pending_count == 0)
    doorbell.settle([last])
    doorbell.close()
    assert announced(broker)[-1] == str(last)


def test_what_piled_up_becomes_few_messages(broker: SilentBroker, redis: Redis) -> None:
    doorbell = CeleryDoorbell(cast("Celery", broker), redis)
    doorbell.settle([UUID(int=0)])
    assert broker.asked.wait(5)
    for i in range(1, 2_501):
        doorbell.settle([UUID(int=i)])
    broker.goes_on.set()
    doorbell.close()
    assert [len(message) for message in broker.sent] == [1, IDS_PER_MESSAGE, IDS_PER_MESSAGE, 500]


def test_what_comes_in_the_pause_after_a_message_becomes_one(broker: SilentBroker, redis: Redis) -> None:
    broker.goes_on.set()
    doorbell = CeleryDoorbell(cast("Celery", broker), redis, pause_seconds=0.5)
    begun = time.monotonic()
    doorbell.settle([UUID(int=0)])
    wait_until(lambda: len(broker.sent) == 1)
    assert time.monotonic() - begun < 0.4
    for i in range(1, 20):
        doorbell.settle([UUID(int=i)])
        time.sleep(0.01)
    assert len(broker.sent) == 1
    # Nobody rings any more, and they are sent all the same.
    wait_until(lambda: len(broker.sent) == 2)
    assert time.monotonic() - begun >= 0.5
    assert [len(message) for message in broker.sent] == [1, 19]


def test_debts_do_not_wait_for_the_pause_nor_does_the_end(broker: SilentBroker, redis: Redis) -> None:
    broker.goes_on.set()
    doorbell = CeleryDoorbell(cast("Celery", broker), redis, pause_seconds=60)
    doorbell.settle([UUID(int=0)])
    wait_until(lambda: len(broker.sent) == 1)
    doorbell.settle([UUID(int=1)])
    doorbell.collect([IndebtedWallet("u", 5_000_000)])
    wait_until(lambda: len(broker.sent) == 2)
    assert broker.sent[1] == "u"
    doorbell.close()
    assert broker.sent[2] == [str(UUID(int=1))]


def test_a_queue_that_nobody_works_off_gets_no_more_messages(broker: SilentBroker, redis: Redis) -> None:
    broker.goes_on.set()
    queue = KEY_PREFIX + SETTLE_QUEUE
    redis.rpush(queue, *map(str, range(3)))
    doorbell = CeleryDoorbell(cast("Celery", broker), redis, messages_max=3)
    doorbell.settle([uuid4()])
    doorbell.close()
    assert broker.sent == []
    redis.lpop(queue)
    last = uuid4()
    doorbell.settle([last])
    doorbell.close()
    assert announced(broker) == [str(last)]


def test_the_bell_rings_though_nobody_knows_how_many_messages_wait(broker: SilentBroker) -> None:
    broker.goes_on.set()
    nowhere = Redis(port=1, socket_connect_timeout=0.1)
    doorbell = CeleryDoorbell(cast("Celery", broker), nowhere)
    last = uuid4()
    doorbell.settle([last])
    doorbell.close()
    assert announced(broker) == [str(last)]
