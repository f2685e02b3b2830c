"""The watcher over fake stores: when gates close and open, and when what is cached is void."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from redis import ConnectionError as RedisConnectionError

from app.access.gate import Gate
from app.domain.errors import TooSlow, Unavailable, WalletBusy
from app.domain.wallets import WalletId
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.failures import failure_of
from app.stores.postgres.system import Counters
from app.stores.redis.probe import RedisState, Seen
from app.upkeep import watcher
from app.upkeep.watcher import Watcher
from tests.unit.fakes import ALICE, gate

AWAY = sa.exc.OperationalError("", {}, Exception("server closed the connection"), connection_invalidated=True)


class FakeCatalog:
    def __init__(self) -> None:
        self.known = Counters(1, 1, 1)
        self.error: Exception | None = None
        self.asked: list[str] = []

    def learn(self, counters: Counters) -> None:
        self.known = self.known.later(counters)

    def refresh(self) -> object:
        return self._ask("refresh")

    def probe(self) -> object:
        return self._ask("probe")

    def reconnect(self) -> None:
        self.asked.append("reconnect")

    def start_new_epoch(self) -> None:
        self._ask("epoch")

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error


class FakeProbe:
    def __init__(self) -> None:
        self.run_id = "first"
        self.is_away = False
        self.told = Seen(0, 0)
        self.reconnected = 0

    def look(self, seen: Seen) -> RedisState:
        if self.is_away:
            raise RedisConnectionError("gone")
        return RedisState(self.run_id, self.told)

    def reconnect(self) -> None:
        self.reconnected += 1


class FakeWork:
    """Settlement, collection and drain: what they were asked."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.errors: dict[str, Exception] = {}

    def sweep(self, older_than_seconds: float) -> object:
        return self._do("sweep")

    def due_wallets(self, limit: int) -> Sequence[IndebtedWallet]:
        return [IndebtedWallet(ALICE, 1), IndebtedWallet(WalletId("bob"), 1)]

    def collect(self, wallet_id: WalletId, seconds: float) -> object:
        return self._do(wallet_id)

    def drain(self) -> int:
        self._do("drain")
        return 0

    def report(self) -> None:
        self._do("report")

    def write_uses(self) -> None:
        self._do("write_uses")

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what in self.errors:
            raise self.errors[what]


class World:
    def __init__(self) -> None:
        self.catalog = FakeCatalog()
        self.probe = FakeProbe()
        self.work = FakeWork()
        self.postgres = Gate("postgres", failure_of, is_watched=True)
        self.redis = gate()
        self.watcher = Watcher(
            catalog=self.catalog,
            probe=self.probe,
            settlement=self.work,
            collection=self.work,
            spool=self.work,
            keys=self.work,
            wrong_keys=self.work,
            postgres=self.postgres,
            redis=self.redis,
        )


@pytest.fixture
def world() -> World:
    return World()


class TestPostgres:
    def test_an_error_of_the_store_closes_its_gate_and_an_answer_opens_it(self, world: World) -> None:
        world.catalog.error = AWAY
        world.watcher.look_at_postgres()
        assert not world.postgres.is_open
        world.catalog.error = None
        world.watcher.look_at_postgres()
        assert world.postgres.is_open
        # By a new connection, and by a write.
        assert world.catalog.asked[-2:] == ["reconnect", "probe"]

    def test_a_row_that_somebody_keeps_closes_nothing(self, world: World) -> None:
        world.catalog.error = sa.exc.ProgrammingError("", {}, Exception("no"))
        world.watcher.look_at_postgres()
        assert world.postgres.is_open

    def test_it_writes_once_in_a_while_and_reads_in_between(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [100.0]
        monkeypatch.setattr(watcher.time, "monotonic", lambda: now[0])
        for _ in range(6):
            world.watcher.look_at_postgres()
            now[0] += watcher.PROBE_SECONDS / 2
        assert world.catalog.asked == ["probe", "refresh"] * 3


class TestRedis:
    def test_its_gate_closes_and_opens(self, world: World) -> None:
        world.probe.is_away = True
        world.watcher.look_at_redis()
        assert not world.redis.is_open
        world.probe.is_away = False
        world.watcher.look_at_redis()
        assert world.redis.is_open
        assert world.probe.reconnected == 1
        # Nothing went past it, and it is the same server: what is cached is right.
        assert "epoch" not in world.catalog.asked

    def test_what_went_past_it_voids_what_is_cached_before_it_is_used(self, world: World) -> None:
        world.redis.close(RedisConnectionError("gone"))
        world.redis.bypass()
        world.watcher.look_at_redis()
        assert "epoch" in world.catalog.asked
        assert world.redis.is_open

    def test_another_server_voids_what_is_cached(self, world: World) -> None:
        world.watcher.look_at_redis()
        world.probe.run_id = "second"
        world.watcher.look_at_redis()
        assert world.catalog.asked == ["epoch"]
        world.watcher.look_at_redis()
        assert world.catalog.asked == ["epoch"]

    def test_it_stays_closed_as_long_as_nobody_can_void_what_is_cached(self, world: World) -> None:
        world.redis.close(RedisConnectionError("gone"))
        world.redis.bypass()
        world.catalog.error = AWAY
        world.watcher.look_at_redis()
        world.watcher.look_at_redis()
        assert not world.redis.is_open
        world.catalog.error = None
        world.watcher.look_at_redis()
        assert world.redis.is_open

    def test_another_server_alone_is_used_while_the_epoch_waits(self, world: World) -> None:
        world.watcher.look_at_redis()
        world.probe.run_id = "second"
        world.catalog.error = AWAY
        world.watcher.look_at_redis()
        assert world.redis.is_open
        world.catalog.error = None
        world.watcher.look_at_redis()
        assert world.catalog.asked == ["epoch", "epoch"]

    def test_what_postgres_has_told_others_is_learned(self, world: World) -> None:
        world.probe.told = Seen(cache_epoch=7, heartbeat=9)
        world.watcher.look_at_redis()
        assert (world.catalog.known.cache_epoch, world.catalog.known.heartbeat) == (7, 9)


class TestSteppingIn:
    def test_only_while_redis_is_away_and_postgres_is_not(self, world: World) -> None:
        world.watcher.step_in()
        world.redis.close(RedisConnectionError("gone"))
        world.postgres.close(AWAY)
        world.watcher.step_in()
        assert not world.work.done
        world.postgres.open()
        world.watcher.step_in()
        assert world.work.done == ["sweep", "alice", "bob", "drain"]

    @pytest.mark.parametrize("error", [WalletBusy(), TooSlow()])
    def test_one_wallet_that_can_not_be_collected_from_keeps_nobody_waiting(
        self, world: World, error: Exception
    ) -> None:
        world.redis.close(RedisConnectionError("gone"))
        world.work.errors["alice"] = error
        world.watcher.step_in()
        assert world.work.done == ["sweep", "alice", "bob", "drain"]

    @pytest.mark.parametrize("error", [Unavailable(), RedisConnectionError("gone")])
    def test_the_next_look_tries_again(self, world: World, error: Exception) -> None:
        world.redis.close(RedisConnectionError("gone"))
        world.work.errors["sweep" if isinstance(error, Unavailable) else "drain"] = error
        world.watcher.step_in()
        world.work.errors.clear()
        world.watcher.step_in()
        assert world.work.done[-1] == "drain"


def test_stop_ends_its_threads_and_a_failing_look_doesnt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "INTERVAL_SECONDS", 0.005)
    looked = threading.Event()

    def fail(_: Seen) -> RedisState:
        if world.catalog.asked.count("looked") >= 2:
            looked.set()
        world.catalog.asked.append("looked")
        raise ValueError("whatever")

    monkeypatch.setattr(world.probe, "look", fail)
    before = set(threading.enumerate())
    world.watcher.start()
    assert looked.wait(10)
    world.watcher.stop()
    assert set(threading.enumerate()) <= before
