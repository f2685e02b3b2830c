"""A Postgres that has lost what it told before (a fail-over, a restored backup): served again, and rightly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.errors import DomainError
from app.domain.wallets import Deduction
from app.stores.postgres import system
from app.stores.postgres.system import Counters
from app.stores.redis.spool import SPOOL_KEY
from stack.embedded import PostgresServer
from tests.support import FEATURE, Billing, assert_conserved

START = StartRequest("user-1", FEATURE)


@pytest.fixture
def shop(make_shop: Callable[..., Billing]) -> Billing:
    return make_shop()


class Copies:
    """The server's database, and a copy of it as it was at some moment."""

    def __init__(self, server: PostgresServer, container: Container) -> None:
        self._container = container
        self._url = server.url_of("postgres")
        self._is_older = False

    def _execute(self, *statements: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as operator:
            for statement in statements:
                operator.execute(statement.encode())

    def _alone(self, *statements: str) -> None:
        """Nobody may be connected, nor come back meanwhile."""
        self._execute(
            "ALTER DATABASE tokentill ALLOW_CONNECTIONS false",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tokentill'",
        )
        time.sleep(0.2)
        self._execute(*statements, "ALTER DATABASE tokentill ALLOW_CONNECTIONS true")

    def disconnect(self) -> None:
        """What is used after this connects anew."""
        self._container.engine.dispose()
        self._container.watch_engine.dispose()

    def keep(self) -> None:
        self.disconnect()
        self._alone("CREATE DATABASE older TEMPLATE tokentill")

    def fail_over(self) -> None:
        self._alone("ALTER DATABASE tokentill RENAME TO lost", "ALTER DATABASE older RENAME TO tokentill")
        self._execute("ALTER DATABASE lost ALLOW_CONNECTIONS true")
        self._is_older = True

    def put_back(self) -> None:
        if self._is_older:
            self._alone("ALTER DATABASE tokentill RENAME TO older", "ALTER DATABASE lost RENAME TO tokentill")
        self._execute("DROP DATABASE IF EXISTS older WITH (FORCE)")


@pytest.fixture
def copies(postgres_server: PostgresServer, shop: Billing) -> Iterator[Copies]:
    made = Copies(postgres_server, shop.container)
    yield made
    shop.container.close()
    made.put_back()


@contextmanager
def watched(container: Container) -> Iterator[None]:
    container.watcher.start()
    try:
        yield
    finally:
        container.watcher.stop()


def until_served(shop: Billing, spendable_micros: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if shop.container.start.start(START).spendable_micros == spendable_micros:
                return
        except DomainError:
            pass
        assert time.monotonic() < deadline, "it isn't served again"
        time.sleep(0.05)


@pytest.mark.parametrize("epochs_lost", [3, 0])
def test_it_is_served_again_with_what_it_knows(shop: Billing, copies: Copies, epochs_lost: int) -> None:
    services = shop.container
    services.start.start(START)
    services.watcher.look_at_postgres()
    services.watcher.look_at_redis()
    copies.keep()
    # All of this will be lost: a settled end, one that waits, and epochs.
    services.end.end(shop.usage())
    shop.settle_everything()
    services.end.end(shop.usage(output_tokens=4))
    for _ in range(epochs_lost):
        services.catalog.start_new_epoch()
    assert services.start.start(START).spendable_micros == 87_900_000
    services.catalog.probe()

    with watched(services):
        copies.fail_over()
        until_served(shop, 100_000_000)
        held = services.start.start(StartRequest("user-1", FEATURE, hold_micros=1_000_000))
        assert held.spendable_micros == 99_000_000
        ended = services.end.end(shop.usage(process_id=held.process_id))
        assert (ended.deduction, ended.spendable_micros) == (Deduction.COVERED, 89_000_000)
        shop.settle_everything()
    assert shop.balance().posted_micros == 89_000_000
    assert shop.cached_spendable_micros() == 89_000_000
    # Each change reaches the copy again.
    services.end.end(shop.usage(output_tokens=4))
    shop.settle_everything()
    assert shop.cached_spendable_micros() == 87_900_000
    assert_conserved(shop, "user-1")


def test_a_process_that_starts_afterwards_learns_it_from_redis(
    shop: Billing, copies: Copies, make_another: Callable[[Billing], Container]
) -> None:
    services = shop.container
    services.watcher.look_at_postgres()
    copies.keep()
    services.end.end(shop.usage())
    shop.settle_everything()
    for _ in range(2):
        services.catalog.probe()
        services.watcher.look_at_redis()
    services.close()
    copies.fail_over()

    other = make_another(shop)
    other.watcher.look_at_redis()
    other.watcher.look_at_postgres()
    assert other.start.start(START).spendable_micros == 100_000_000
    other.close()


def test_what_is_in_flight_or_in_the_spool_stays_marked(shop: Billing, copies: Copies) -> None:
    services = shop.container
    services.start.start(START)
    services.watcher.look_at_postgres()
    copies.keep()
    services.end.end(shop.usage())
    shop.settle_everything()
    services.catalog.probe()
    # While Postgres is away, before the older one takes its place.
    services.postgres_gate.close(ConnectionError("test"))
    services.end.end(shop.usage(output_tokens=4))
    assert services.spool.size() == 1
    copies.disconnect()
    copies.fail_over()
    services.watcher.look_at_postgres()
    assert services.start.start(START).spendable_micros == 98_900_000
    services.spool_drain.drain()
    assert shop.balance().posted_micros == 98_900_000
    assert shop.cached_spendable_micros() == 98_900_000


def test_what_was_put_aside_stays_marked(shop: Billing, copies: Copies) -> None:
    services = shop.container
    services.start.start(START)
    services.watcher.look_at_postgres()
    services.postgres_gate.close(ConnectionError("test"))
    services.end.end(shop.usage())
    [entry] = services.spool.take(1)
    text = entry.text.replace(b'"version": ', b'"version": 9')
    services.redis_client.hset(SPOOL_KEY, entry.field, text)  # type: ignore[arg-type]
    services.watcher.look_at_postgres()
    services.spool_drain.drain()
    copies.keep()
    services.catalog.probe()
    services.catalog.probe()
    services.watcher.look_at_postgres()
    services.watcher.look_at_redis()
    copies.disconnect()
    copies.fail_over()
    services.watcher.look_at_postgres()
    services.watcher.look_at_postgres()
    assert services.start.start(START).spendable_micros == 89_000_000


@pytest.fixture
def make_another() -> Iterator[Callable[[Billing], Container]]:
    made: list[Container] = []

    def make(shop: Billing) -> Container:
        container = Container(shop.container.config, is_watched=True)
        made.append(container)
        container.catalog.refresh()
        return container

    yield make
    for container in made:
        container.close()


def test_a_promotion_is_told_by_the_timeline(tmp_path: Path) -> None:
    settings = {"fsync": "off", "restore_command": "false"}
    with PostgresServer(tmp_path / "own", settings=settings) as server:
        engine = sa.create_engine("postgresql+psycopg://" + server.url.split("://")[1])
        with engine.connect() as connection:
            before = system.timeline(connection)
        engine.dispose()
        server.stop()
        signal = server.folder / "recovery.signal"
        signal.touch()
        owner = server.folder.stat()
        os.chown(signal, owner.st_uid, owner.st_gid)
        server.start()
        with engine.connect() as connection:
            # It takes connections a moment before it is promoted, and tells nothing until then.
            deadline = time.monotonic() + 20
            while (after := system.timeline(connection)) is None and time.monotonic() < deadline:
                connection.rollback()
                time.sleep(0.1)
        assert (before, after) == ("00000001", "00000002")
        engine.dispose()


def test_after_a_promotion_a_new_epoch_begins(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    timelines = iter(["00000001", "00000001", None, "00000002"])
    monkeypatch.setattr(system, "timeline", lambda connection: next(timelines))
    epochs = []
    for _ in range(4):
        container.catalog.reconnect()
        container.catalog.refresh()
        epochs.append(container.catalog.epoch)
    assert epochs[0] == epochs[1] == epochs[2]
    assert epochs[3] >= epochs[0] + system.OVERTAKE


def test_counters_that_only_grow_are_no_sign_of_loss(make_container: Callable[[], Container]) -> None:
    first, second = make_container(), make_container()
    before = first.catalog.epoch
    for _ in range(5):
        first.catalog.probe()
        second.watcher.look_at_redis()
        second.catalog.probe()
        first.watcher.look_at_redis()
        first.catalog.refresh()
    assert first.catalog.epoch == second.catalog.epoch == before


def test_the_first_beat_after_a_lost_one_tells(container: Container) -> None:
    known = Counters(1, 1, 5)
    assert Counters(1, 1, 5).follows(known)
    assert not Counters(1, 1, 4).follows(known)
    container.catalog.probe()
    with container.engine.begin() as connection:
        connection.execute(sa.text("UPDATE system_state SET heartbeat = heartbeat - 1"))
    before = container.catalog.epoch
    container.catalog.probe()
    assert container.catalog.epoch >= before + system.OVERTAKE
