"""Each process's own copy of the catalog, kept fresh in the background.

A request never waits for it. A change shows in every process within the poll interval, and at once in the
process that made it. While Postgres is away the last copy goes on serving.

The same poll keeps the API keys fresh (`app/access/key_ring.py`).

Each poll also checks whether Postgres has lost something that it had told us before, as after a fail-over to an older
standby. Wallets cached from the lost state are then void: a new epoch begins, above all epochs known anywhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa
import structlog

from app.access.clock import StoreClock
from app.access.key_ring import KeyRing
from app.domain.catalog import Catalog
from app.stores.postgres import catalog as catalog_store
from app.stores.postgres import system
from app.stores.postgres.system import Counters

log = structlog.get_logger(__name__)


class CatalogSnapshot:
    def __init__(self, engine: sa.Engine, clock: StoreClock, keys: KeyRing) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._clock = clock
        self._keys = keys
        # Held while polling and while the connection is replaced, so that one never happens during the other.
        self._looking = threading.Lock()
        self._lock = threading.Lock()
        self._catalog = Catalog(version=0)
        self._known = Counters()
        self._timeline: str | None = None
        self._is_new_connection = True

    @property
    def current(self) -> Catalog:
        return self._catalog

    @property
    def epoch(self) -> int:
        """The newest cache epoch that this process knows. Wallets cached in an older one are loaded anew."""
        return self._known.cache_epoch

    @property
    def known(self) -> Counters:
        """The highest counters that Postgres has told this process or others."""
        return self._known

    def refresh(self) -> Catalog:
        """Poll Postgres, and load the catalog if it has changed. Raises SQLAlchemyError when Postgres is away."""
        return self._look(system.read, beats=0)

    def probe(self) -> Catalog:
        """Like `refresh`, but with a write. Raises SQLAlchemyError when Postgres is away or takes no writes."""
        return self._look(system.beat, beats=1)

    def reconnect(self) -> None:
        """Poll by new connections from now on: the address may lead to another server now."""
        with self._looking:
            self._engine.dispose()
            self._is_new_connection = True

    def learn(self, counters: Counters) -> None:
        """Take over counters that Postgres has told others. From the next poll on it must not fall behind them."""
        with self._lock:
            self._known = self._known.later(counters)

    def start_new_epoch(self) -> None:
        """Void every wallet cached so far, in all processes. Raises SQLAlchemyError when Postgres is away."""
        with self._looking, self._autocommit.connect() as connection:
            self.learn(Counters(cache_epoch=system.bump_epoch(connection)))

    def _look(self, ask: Callable[[sa.Connection], system.SystemState], *, beats: int) -> Catalog:
        with self._looking, self._autocommit.connect() as connection:
            # Read before asking: what other threads learn meanwhile may be newer than the answer.
            known = self._known
            asked_at = time.monotonic()
            state = ask(connection)
            self._clock.learn(state.now, asked_at)
            counters = state.counters
            is_promoted = self._is_on_another_timeline(connection)
            if is_promoted or not counters.follows(replace(known, heartbeat=known.heartbeat + beats)):
                counters = system.overtake(connection, known)
                log.error("postgres_is_older", known=known, told=state.counters)
            self.learn(counters)
            # Before the catalog: a revoked key must not stay in force while a catalog is loaded.
            self._keys.look(connection, counters.keys_version)
            if counters.catalog_version <= self._catalog.version:
                return self._catalog
            loaded = catalog_store.load(connection)
        with self._lock:
            if loaded.version > self._catalog.version:
                self._catalog = loaded
            return self._catalog

    def _is_on_another_timeline(self, connection: sa.Connection) -> bool:
        """Whether a standby was promoted since the connection before this one. It may lack the latest commits."""
        if not self._is_new_connection:
            return False
        timeline = system.timeline(connection)
        before, self._timeline = self._timeline, timeline or self._timeline
        self._is_new_connection = False
        return None not in (before, timeline) and before != timeline
