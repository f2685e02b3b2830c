"""Background threads of each serving process: two watch Postgres and Redis, one stands in for the workers, one keeps
track of API keys.

The first two probe the stores by a write, on connections of their own, so that calls can't block them. They keep the
catalog fresh, close and open the gates, and begin a new cache epoch whenever Redis may have missed a change (it was
bypassed, or it restarted). While Redis can't be used no message reaches a worker, so the third thread settles ends and
collects debts. The fourth reports wrong API keys, and writes down when valid ones were last used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.access.gate import Gate
from app.domain.errors import TooSlow, Unavailable, WalletBusy
from app.domain.wallets import WalletId
from app.stores.failures import Failure
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.failures import failure_of
from app.stores.postgres.system import Counters
from app.stores.redis.probe import RedisState, Seen

log = structlog.get_logger(__name__)

# A change has to be seen within a second. This leaves time for a slow poll.
INTERVAL_SECONDS = 0.25
# Most polls of Postgres only read. It is written to this often, so that an idle Postgres needn't flush its log at each
# poll.
PROBE_SECONDS = 1.0
SETTLE_AFTER_SECONDS = 1.0
WALLETS_PER_LOOK = 50
COLLECT_SECONDS = 0.2
STOP_SECONDS_MAX = 5.0


class LookAtPostgres(Protocol):
    """Polls Postgres, and knows its counters. All methods but `learn` and `known` raise SQLAlchemyError."""

    @property
    def known(self) -> Counters: ...

    def learn(self, counters: Counters) -> None: ...

    def refresh(self) -> object: ...

    def probe(self) -> object: ...

    def reconnect(self) -> None: ...

    def start_new_epoch(self) -> None: ...


class LookAtRedis(Protocol):
    def look(self, seen: Seen) -> RedisState:
        """Raises RedisError."""

    def reconnect(self) -> None: ...


class Settlement(Protocol):
    def sweep(self, older_than_seconds: float) -> object: ...


class Collection(Protocol):
    def due_wallets(self, limit: int) -> Sequence[IndebtedWallet]: ...

    def collect(self, wallet_id: WalletId, seconds: float) -> object: ...


class Drain(Protocol):
    def drain(self) -> int: ...


class KeyUses(Protocol):
    def write_uses(self) -> None: ...


class WrongKeys(Protocol):
    def report(self) -> None: ...


class Watcher:
    def __init__(
        self,
        *,
        catalog: LookAtPostgres,
        probe: LookAtRedis,
        settlement: Settlement,
        collection: Collection,
        spool: Drain,
        keys: KeyUses,
        wrong_keys: WrongKeys,
        postgres: Gate,
        redis: Gate,
    ) -> None:
        self._catalog = catalog
        self._probe = probe
        self._settlement = settlement
        self._collection = collection
        self._spool = spool
        self._keys = keys
        self._wrong_keys = wrong_keys
        self._postgres = postgres
        self._redis = redis
        self._probed_at = -PROBE_SECONDS
        self._run_id: str | None = None
        self._owes_epoch = False
        self._is_bypassed = False
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for look in (self.look_at_postgres, self.look_at_redis, self.step_in, self.note_keys):
            thread = threading.Thread(target=self._repeat, args=(look,), name=look.__name__, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop the threads. One that is blocked by a store is waited for only up to STOP_SECONDS_MAX."""
        self._stopping.set()
        give_up_at = time.monotonic() + STOP_SECONDS_MAX
        while self._threads:
            self._threads.pop().join(timeout=max(0.0, give_up_at - time.monotonic()))

    def look_at_postgres(self) -> None:
        if not self._postgres.is_open:
            # Judge by new connections: an old one may lead to a server that has been demoted.
            self._catalog.reconnect()
        try:
            self._look_or_probe()
        except SQLAlchemyError as error:
            if failure_of(error) is not Failure.REFUSED:
                self._postgres.close(error)
                return
            # Postgres answers, though it refuses this statement: the row may be locked, for example.
            log.warning("probe_refused", store="postgres", error=type(error).__name__, detail=str(error)[:200])
        self._postgres.open()

    def look_at_redis(self) -> None:
        known = self._catalog.known
        if not self._redis.is_open:
            # Judge by new connections: behind a proxy, an old one may lead to a server that has been demoted.
            self._probe.reconnect()
        try:
            found = self._probe.look(Seen(known.cache_epoch, known.heartbeat))
        except RedisError as error:
            self._redis.close(error)
            return
        self._catalog.learn(Counters(cache_epoch=found.seen.cache_epoch, heartbeat=found.seen.heartbeat))
        is_another = self._run_id is not None and found.run_id != self._run_id
        self._run_id = found.run_id
        self._is_bypassed |= self._redis.take_bypass()
        self._owes_epoch |= is_another or self._is_bypassed
        if self._owes_epoch and not self._start_epoch() and self._is_bypassed:
            # Cached wallets lack the changes that bypassed Redis, so it stays closed until a new epoch has begun.
            return
        self._redis.open()

    def step_in(self) -> None:
        """While Redis can't be used, do the work of beat and the workers. Any number of processes may do so."""
        if self._redis.is_open or not self._postgres.is_open:
            return
        try:
            self._settlement.sweep(older_than_seconds=SETTLE_AFTER_SECONDS)
            for wallet in self._collection.due_wallets(WALLETS_PER_LOOK):
                # A wallet that can't be collected from now doesn't hold up those behind it.
                with suppress(WalletBusy, TooSlow):
                    self._collection.collect(wallet.wallet_id, COLLECT_SECONDS)
            # A Redis that refuses writes may still let the spool be read and removed.
            self._spool.drain()
        except (Unavailable, RedisError):
            # Tried again at the next interval.
            return

    def note_keys(self) -> None:
        """Report wrong API keys, and write down when valid ones were last used."""
        self._wrong_keys.report()
        with suppress(Unavailable):
            self._keys.write_uses()

    def _look_or_probe(self) -> None:
        now = time.monotonic()
        if self._postgres.is_open and now - self._probed_at < PROBE_SECONDS:
            self._catalog.refresh()
            return
        self._catalog.probe()
        self._probed_at = now

    def _start_epoch(self) -> bool:
        try:
            self._catalog.start_new_epoch()
        except SQLAlchemyError as error:
            log.warning("epoch_postponed", error=type(error).__name__)
            return False
        self._owes_epoch = self._is_bypassed = False
        return True

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            try:
                look()
            except Exception:
                # Whatever fails, the thread goes on.
                log.exception("watch_failed", look=look.__name__)
