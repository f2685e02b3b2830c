"""Two background threads in each serving process: one keeps an eye on Postgres, one on Redis.

They keep the catalog fresh, open a closed gate when its store answers again, and begin a new cache epoch whenever
Redis may have missed something (it was away, or it restarted). While Redis is away no message reaches a worker: then
this process settles by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from redis import Redis, RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import Unavailable
from app.services.catalog_snapshot import CatalogSnapshot
from app.services.collect import CollectService
from app.services.gate import Gate
from app.services.settle import SettleService

log = structlog.get_logger(__name__)

# A change has to be seen within a second; this leaves room for a slow look.
INTERVAL_SECONDS = 0.25
SETTLE_AFTER_SECONDS = 1.0
WALLETS_PER_LOOK = 50
COLLECT_SECONDS = 0.2


class Watcher:
    def __init__(
        self,
        *,
        catalog: CatalogSnapshot,
        client: Redis,
        settlement: SettleService,
        collection: CollectService,
        postgres: Gate,
        redis: Gate,
    ) -> None:
        self._catalog = catalog
        self._client = client
        self._settlement = settlement
        self._collection = collection
        self._postgres = postgres
        self._redis = redis
        self._run_id: str | None = None
        self._owes_epoch = False
        self._stopping = threading.Event()

    def start(self) -> None:
        for look in (self.look_at_postgres, self.look_at_redis):
            thread = threading.Thread(target=self._repeat, args=(look,), name=look.__name__, daemon=True)
            thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def look_at_postgres(self) -> None:
        try:
            self._catalog.refresh()
        except SQLAlchemyError as error:
            self._postgres.close(error)
        else:
            self._postgres.open()

    def look_at_redis(self) -> None:
        try:
            # A server that is still loading its data tells of itself already, but refuses this.
            self._client.ping()
            run_id = self._client.info("server").get("run_id")
        except RedisError as error:
            self._redis.close(error)
            self._settle_without_workers()
            return
        is_another = self._run_id is not None and run_id != self._run_id
        self._run_id = run_id
        if is_another or not self._redis.is_open:
            self._owes_epoch = True
        if self._owes_epoch:
            try:
                self._catalog.start_new_epoch()
            except SQLAlchemyError as error:
                # Without Postgres nothing was written past Redis: what is cached is as right as it was.
                log.warning("epoch_postponed", error=type(error).__name__)
            else:
                self._owes_epoch = False
        self._redis.open()

    def _settle_without_workers(self) -> None:
        """What beat and the workers do otherwise. Any number of processes may do it at once."""
        try:
            self._settlement.sweep(older_than_seconds=SETTLE_AFTER_SECONDS)
            for wallet in self._collection.due_wallets(WALLETS_PER_LOOK):
                self._collection.collect(wallet.user_id, COLLECT_SECONDS)
        except Unavailable:
            # Both stores are away; the next look tries again.
            return

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            try:
                look()
            except Exception:
                # The watch goes on whatever one look ran into.
                log.exception("watch_failed", look=look.__name__)
