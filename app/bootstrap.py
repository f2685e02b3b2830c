"""Wires stores to services: the one place where a process is put together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import sqlalchemy as sa
import structlog
from celery import Celery
from redis import Redis, RedisError, ResponseError
from sqlalchemy.exc import SQLAlchemyError

from app.access.changes import WalletChanges
from app.access.clock import StoreClock
from app.access.doorbell import Doorbell
from app.access.gate import Gate
from app.access.intake import Balances, Intake
from app.access.loader import WalletLoader
from app.access.postgres import PostgresAccess
from app.billing.collect import CollectService
from app.billing.corrections import CorrectionService
from app.billing.end import EndService
from app.billing.end_decide import EndDecider
from app.billing.end_record import EndRecorder
from app.billing.estimate import EstimateService
from app.billing.holds import HoldService
from app.billing.postings import PostingService
from app.billing.pricer import Pricer
from app.billing.repricings import RepricingService
from app.billing.settle import SettleService
from app.billing.start import StartService
from app.catalog.admin import CatalogAdmin
from app.catalog.changes import CatalogChanges
from app.catalog.price_imports import PriceImports
from app.catalog.prices import PriceAdmin
from app.catalog.snapshot import CatalogSnapshot
from app.config import Config, ConfigError
from app.operations.demo import DemoSeed
from app.operations.failed_ends import FailedEndService
from app.operations.status import StatusService
from app.operations.wallets import WalletAdmin
from app.stores.postgres.engine import WATCH_POOL_SIZE, create_engine
from app.stores.postgres.failures import failure_of as postgres_failure
from app.stores.postgres.settlement import RetryPolicy
from app.stores.queue import CeleryDoorbell, create_celery
from app.stores.redis.client import create_client
from app.stores.redis.failures import failure_of as redis_failure
from app.stores.redis.in_flight import InFlight
from app.stores.redis.leases import WalletLeases
from app.stores.redis.lost_wallets import LostWallets
from app.stores.redis.probe import Probe
from app.stores.redis.records import Records
from app.stores.redis.scripts import WalletScripts
from app.stores.redis.spool import Spool
from app.stores.redis.wallet_cache import WalletCache
from app.stores.redis.wallet_holds import WalletHolds
from app.stores.redis.wallet_look import WalletLooks
from app.stores.redis.wallet_snapshot import WalletSnapshots
from app.upkeep.cache_audit import CacheAudit
from app.upkeep.ledger_audit import LedgerAudit
from app.upkeep.reconcile import ReconcileService
from app.upkeep.spool import SpoolDrain
from app.upkeep.stale import StaleCopies
from app.upkeep.stranded import StrandedMarks
from app.upkeep.watcher import Watcher

log = structlog.get_logger(__name__)

# Where a Flask application keeps its container.
EXTENSION = "tokentill"
WAIT_SECONDS = 0.5


@dataclass
class Container:
    """Everything a process may use, made when it is first asked for."""

    config: Config
    # A serving process has a watcher, which opens gates again.
    is_watched: bool = False

    @cached_property
    def engine(self) -> sa.Engine:
        return create_engine(self.config)

    @cached_property
    def redis_client(self) -> Redis:
        return create_client(self.config)

    @cached_property
    def celery(self) -> Celery:
        return create_celery(self.config)

    @cached_property
    def postgres_gate(self) -> Gate:
        return Gate("postgres", postgres_failure, is_watched=self.is_watched)

    @cached_property
    def redis_gate(self) -> Gate:
        return Gate("redis", redis_failure, is_watched=self.is_watched)

    @cached_property
    def postgres(self) -> PostgresAccess:
        return PostgresAccess(self.engine, self.postgres_gate, wait_seconds=self.config.database_timeout_seconds)

    @cached_property
    def cache(self) -> WalletCache:
        return WalletCache(self.redis_client, self.scripts, self.records)

    @cached_property
    def scripts(self) -> WalletScripts:
        return WalletScripts(self.redis_client)

    @cached_property
    def records(self) -> Records:
        return Records(self.redis_client, seconds=self.config.idempotency_cache_seconds)

    @cached_property
    def in_flight(self) -> InFlight:
        return InFlight(self.redis_client)

    @cached_property
    def leases(self) -> WalletLeases:
        return WalletLeases(self.redis_client, self.scripts, self.records)

    @cached_property
    def wallet_holds(self) -> WalletHolds:
        return WalletHolds(self.scripts)

    @cached_property
    def spool(self) -> Spool:
        return Spool(self.redis_client)

    @cached_property
    def spool_drain(self) -> SpoolDrain:
        return SpoolDrain(
            postgres=self.postgres,
            cache=self.cache,
            records=self.records,
            spool=self.spool,
            settlement=self.settlement,
        )

    @cached_property
    def stranded_marks(self) -> StrandedMarks:
        return StrandedMarks(postgres=self.postgres, in_flight=self.in_flight, spool=self.spool, loader=self.loader)

    @cached_property
    def stale_copies(self) -> StaleCopies:
        return StaleCopies(postgres=self.postgres, loader=self.loader)

    @cached_property
    def clock(self) -> StoreClock:
        return StoreClock()

    @cached_property
    def watch_engine(self) -> sa.Engine:
        """The connection by which this process looks at Postgres, whatever becomes of the others."""
        return create_engine(self.config, pool_size=WATCH_POOL_SIZE, max_overflow=0)

    @cached_property
    def catalog(self) -> CatalogSnapshot:
        return CatalogSnapshot(self.watch_engine, self.clock)

    @cached_property
    def loader(self) -> WalletLoader:
        return WalletLoader(
            postgres=self.postgres,
            leases=self.leases,
            lost=LostWallets(self.redis_client),
            in_flight=self.in_flight,
            spool=self.spool,
        )

    @cached_property
    def doorbell(self) -> Doorbell:
        return CeleryDoorbell(self.celery, self.redis_client)

    @cached_property
    def watch_client(self) -> Redis:
        """The same for Redis."""
        return create_client(self.config)

    @cached_property
    def watcher(self) -> Watcher:
        return Watcher(
            catalog=self.catalog,
            probe=Probe(self.watch_client, self.redis_client),
            settlement=self.settlement,
            spool=self.spool_drain,
            collection=self.collection,
            postgres=self.postgres_gate,
            redis=self.redis_gate,
        )

    @cached_property
    def holds(self) -> HoldService:
        return HoldService(
            postgres=self.postgres,
            catalog=self.catalog,
            holds=self.wallet_holds,
            records=self.records,
            loader=self.loader,
            redis=self.redis_gate,
        )

    @cached_property
    def start(self) -> StartService:
        return StartService(
            postgres=self.postgres,
            catalog=self.catalog,
            cache=self.cache,
            loader=self.loader,
            holds=self.holds,
            redis=self.redis_gate,
            hold_seconds_default=self.config.hold_seconds_default,
            now=self.clock.now,
            timeout_seconds=self._request_seconds,
        )

    @cached_property
    def pricer(self) -> Pricer:
        return Pricer(catalog=self.catalog, now=self.clock.now)

    @cached_property
    def estimate(self) -> EstimateService:
        return EstimateService(
            pricer=self.pricer,
            catalog=self.catalog,
            looks=WalletLooks(self.scripts),
            loader=self.loader,
            balances=Balances(self.postgres),
            redis=self.redis_gate,
        )

    @cached_property
    def end(self) -> EndService:
        return EndService(
            pricer=self.pricer,
            catalog=self.catalog,
            decider=EndDecider(
                cache=self.cache, balances=Balances(self.postgres), holds=self.holds, redis=self.redis_gate
            ),
            recorder=EndRecorder(
                intake=Intake(self.postgres),
                cache=self.cache,
                in_flight=self.in_flight,
                loader=self.loader,
                spool=self.spool,
                redis=self.redis_gate,
            ),
            loader=self.loader,
            holds=self.holds,
            redis=self.redis_gate,
            doorbell=self.doorbell,
            timeout_seconds=self._request_seconds,
        )

    @cached_property
    def settlement(self) -> SettleService:
        return SettleService(
            postgres=self.postgres,
            changes=self.wallet_changes,
            policy=self.retry_policy,
            batch_size=self.config.settle_batch_size,
        )

    @cached_property
    def collection(self) -> CollectService:
        return CollectService(
            postgres=self.postgres,
            changes=self.wallet_changes,
            policy=self.retry_policy,
            batch_size=self.config.settle_batch_size,
        )

    @cached_property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            attempts_max=self.config.retry_attempts_max,
            base_seconds=self.config.retry_base_seconds,
            cap_seconds=self.config.retry_cap_seconds,
        )

    @cached_property
    def catalog_admin(self) -> CatalogAdmin:
        return CatalogAdmin(postgres=self.postgres, changes=self.catalog_changes, now=self.clock.now)

    @cached_property
    def catalog_changes(self) -> CatalogChanges:
        return CatalogChanges(postgres=self.postgres, snapshot=self.catalog)

    @cached_property
    def price_imports(self) -> PriceImports:
        return PriceImports(postgres=self.postgres, changes=self.catalog_changes, now=self.clock.now)

    @cached_property
    def price_admin(self) -> PriceAdmin:
        return PriceAdmin(postgres=self.postgres, changes=self.catalog_changes, now=self.clock.now)

    @cached_property
    def wallet_changes(self) -> WalletChanges:
        return WalletChanges(postgres=self.postgres, cache=self.cache, redis=self.redis_gate)

    @cached_property
    def wallet_admin(self) -> WalletAdmin:
        return WalletAdmin(
            postgres=self.postgres,
            holds=self.wallet_holds,
            redis=self.redis_gate,
            changes=self.wallet_changes,
            doorbell=self.doorbell,
        )

    @cached_property
    def postings(self) -> PostingService:
        return PostingService(postgres=self.postgres, changes=self.wallet_changes, doorbell=self.doorbell)

    @cached_property
    def corrections(self) -> CorrectionService:
        return CorrectionService(
            postgres=self.postgres,
            changes=self.wallet_changes,
            doorbell=self.doorbell,
            policy=self.retry_policy,
            spool=self.spool,
            redis=self.redis_gate,
        )

    @cached_property
    def repricings(self) -> RepricingService:
        return RepricingService(
            postgres=self.postgres, changes=self.wallet_changes, doorbell=self.doorbell, policy=self.retry_policy
        )

    @cached_property
    def failed_ends(self) -> FailedEndService:
        return FailedEndService(
            postgres=self.postgres,
            changes=self.wallet_changes,
            doorbell=self.doorbell,
        )

    @cached_property
    def cache_audit(self) -> CacheAudit:
        return CacheAudit(
            postgres=self.postgres,
            snapshots=WalletSnapshots(self.redis_client),
            in_flight=self.in_flight,
            spool=self.spool,
            loader=self.loader,
        )

    @cached_property
    def reconciliation(self) -> ReconcileService:
        return ReconcileService(
            postgres=self.postgres,
            ledger=LedgerAudit(self.postgres),
            cache=self.cache_audit,
            redis=self.redis_gate,
        )

    @cached_property
    def demo(self) -> DemoSeed:
        return DemoSeed(
            is_local=self.config.is_local,
            catalog=self.catalog_admin,
            wallets=self.wallet_admin,
            postings=self.postings,
        )

    @cached_property
    def status(self) -> StatusService:
        return StatusService(postgres=self.postgres, client=self.redis_client, spool=self.spool, redis=self.redis_gate)

    def close(self) -> None:
        """Close all connections to the stores. Whoever uses this container again gets new ones."""
        made = vars(self)
        for engine in ("engine", "watch_engine"):
            if engine in made:
                made[engine].dispose()
        for client in ("redis_client", "watch_client"):
            if client in made:
                made[client].close()

    @property
    def _request_seconds(self) -> float:
        """After this long a request stops waiting: both stores have had their time."""
        return 2 * self.config.database_timeout_seconds + self.config.redis_timeout_seconds


def wait_for_postgres(engine: sa.Engine) -> None:
    """Return once Postgres answers, saying what is waited for. Raises ConfigError for a database that can't be used."""

    def ask() -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    _wait("DATABASE_URL", ask)


def wait_for_catalog(container: Container) -> None:
    """Return once Postgres answers with our schema in it, saying what is waited for. Raises ConfigError."""
    _wait("DATABASE_URL (and `alembic upgrade head`)", container.catalog.refresh)


def wait_for_redis(client: Redis) -> None:
    """Return once Redis answers, saying what is waited for. Raises ConfigError for a database that it doesn't have."""

    def ask() -> None:
        try:
            client.ping()
        except ResponseError as error:
            if "DB index" in str(error):
                raise ConfigError("REDIS_URL names a database that this Redis doesn't have.") from None
            raise

    _wait("REDIS_URL", ask)


def _wait(name: str, ask: Callable[[], object]) -> None:
    started = time.monotonic()
    attempts = 0
    while True:
        try:
            ask()
        except (SQLAlchemyError, RedisError) as error:
            if attempts % 10 == 0:
                reason = str(getattr(error, "orig", None) or error).splitlines()[0]
                log.warning(f"waiting for {name}", reason=reason, seconds=round(time.monotonic() - started))
            attempts += 1
            time.sleep(WAIT_SECONDS)
        else:
            if attempts:
                log.warning(f"{name} answers", seconds=round(time.monotonic() - started))
            return
