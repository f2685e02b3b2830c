"""kombu's transport as we change it; these fail when a new kombu no longer works as that change assumes."""

from __future__ import annotations

import json
import ssl
import threading

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.config import Config
from app.stores import broker
from app.stores.broker import Channel, use_lasting_transport
from app.stores.queue import create_celery
from stack.processes import free_port
from tests.unit.test_config import GOOD


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    """A channel whose connection has gone, as after its Redis died."""
    monkeypatch.setattr(kombu_redis.Channel, "__init__", lambda self: None)
    made = Channel()
    made.connection = kombu_redis.Transport.__new__(kombu_redis.Transport)
    made.connection.client = None
    return made


def test_a_channel_whose_connection_has_gone_says_so_in_a_way_that_celery_recovers_from(channel: Channel) -> None:
    with pytest.raises(AttributeError):
        kombu_redis.Channel._connparams(channel)
    with pytest.raises(RedisConnectionError) as raised:
        channel._connparams()
    assert isinstance(raised.value, kombu_redis.Transport.connection_errors)
    channel.connection = None
    with pytest.raises(RedisConnectionError):
        channel._connparams()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0"])
def test_it_is_the_transport_of_our_urls(url: str) -> None:
    use_lasting_transport()
    connection = Connection(url)
    assert connection.get_transport_cls() is broker.Transport
    # What flower tells Redis by.
    assert connection.as_uri().partition("://")[0] == url.partition("://")[0]
    assert connection.transport.Channel is Channel
    assert Channel.QoS.restore_at_shutdown is False


def test_a_broker_reached_by_tls_has_to_prove_who_it_is() -> None:
    config = Config.from_environment({**GOOD, "REDIS_URL": "rediss://redis.example:6379/0"})
    assert create_celery(config).connection_for_write().ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert not create_celery(Config.from_environment(GOOD)).connection_for_write().ssl


def test_a_lost_broker_is_looked_for_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
    celery = create_celery(Config.from_environment({**GOOD, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}))
    with pytest.raises(OperationalError):
        celery.connection_for_read().ensure_connection(lambda error, wait: waits.append(wait), max_retries=5)
    assert waits == [0.5, 1, 1.5, 2, 2]


@pytest.mark.parametrize(
    "url", ["redis://cache", "redis+sentinel://:secret@one,two/my-master?sentinel_password=hidden"]
)
def test_a_worker_can_tell_its_broker_to_who_asks_for_its_statistics(url: str) -> None:
    """And no password with it: flower shows what it is told."""
    celery = create_celery(Config.from_environment({**GOOD, "REDIS_URL": url}))
    told = json.dumps(celery.connection_for_read().info(), default=str)
    assert json.dumps(celery.conf.broker_transport_options)
    assert "hidden" not in told


def test_a_worker_waits_no_longer_than_a_moment_for_a_broadcast_that_does_not_come(config: Config) -> None:
    """kombu's own would wait for ever: a worker woken for nothing would take no task any more."""
    with create_celery(config).connection_for_read() as connection:
        channel = connection.channel()
        queue = Queue("listener", Exchange("broadcasts", type="fanout"), exclusive=True, auto_delete=True)
        queue(channel).declare()
        consumer = Consumer(channel, [queue], on_message=lambda message: message.ack())
        consumer.consume()
        connection.transport.cycle._register_LISTEN(channel)
        while channel._in_listen.can_read(timeout=0.5):
            channel._receive()
        done = threading.Event()
        reader = threading.Thread(target=lambda: (channel._receive(), done.set()), daemon=True)
        reader.start()
        assert done.wait(timeout=10 * broker.BROADCAST_SECONDS)
        channel.close()
