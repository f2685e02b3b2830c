"""Wires stores to services: the one place where a process is put together."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import sqlalchemy as sa
from celery import Celery
from redis import Redis

from app.access.archive_books import ArchiveBooks
from app.access.audit_book import AuditBook
from app.access.authentication import Authentication, CountedBrake
from app.access.balance_rule_books import BalanceRuleBooks, TopUpRequestBooks
from app.access.books import BookKeeping, Books
from app.access.bulk_books import BulkBooks
from app.access.catalog_books import CatalogBooks, PriceImportBooks
from app.access.changes import WalletChanges
from app.access.clock import StoreClock
from app.access.console_books import ConsoleBooks
from app.access.doorbell import Doorbell
from app.access.gate import Gate, StoreState
from app.access.intake import Balances, Intake
from app.access.key_books import KeyBooks
from app.access.key_ring import KeyRing
from app.access.loader import WalletLoader
from app.access.open_holds import OpenHolds
from app.access.past_usage import PastUsage
from app.access.postgres import PostgresAccess
from app.access.report_books import SampleBooks, StatementBooks
from app.access.run_books import RepricingBooks, RunBooks
from app.access.story_books import StoryBooks
from app.access.top_up_batches import ScheduleBooks, TopUpBatchBooks
from app.access.top_ups import TopUpBookKeeping
from app.access.wallet_books import WalletBooks
from app.access.webhook_books import DeliveryBooks, EndpointBooks, EventBooks
from app.access.wrong_keys import WrongKeys
from app.billing.collect import CollectService, CollectTransactions
from app.billing.corrections import CorrectionService
from app.billing.counted import CountedCollection, CountedIntake, CountedSettlement, CountedSpool
from app.billing.end import EndService
from app.billing.end_decide import EndDecider
from app.billing.end_record import EndRecorder
from app.billing.estimate import EstimateService
from app.billing.holds import HoldService
from app.billing.postings import PostingService
from app.billing.pricer import Pricer
from app.billing.repricings import RepricingService
from app.billing.settle import SettleService, SettleTransactions
from app.billing.start import StartService
from app.billing.top_up_schedules import TopUpScheduleService
from app.billing.top_up_wallets import WalletTopUp
from app.billing.top_ups import TopUpService
from app.catalog.admin import CatalogAdmin
from app.catalog.changes import CatalogChanges
from app.catalog.price_imports import PriceImports
from app.catalog.prices import PriceAdmin
from app.catalog.snapshot import CatalogSnapshot
from app.config import Config
from app.domain.keys import KeyKind
from app.meters.instruments import Meters
from app.metrics import Metrics
from app.operations.archives import ArchiveService
from app.operations.audit_log import AuditLog
from app.operations.bulk_actions import BulkActionService
from app.operations.console_sessions import ConsoleSessions
from app.operations.demo import DemoSeed
from app.operations.end_stories import EndStoryService
from app.operations.exports import ExportService
from app.operations.failed_end_sums import FailedEndSums
from app.operations.failed_ends import FailedEndService
from app.operations.keys import KeyAdmin
from app.operations.reports import ReportService
from app.operations.samples import SampleService
from app.operations.statements import StatementService
from app.operations.status import StatusService
from app.operations.wallets import WalletAdmin
from app.stores.postgres import watch
from app.stores.postgres.engine import EXPORTS_MAX, POOL_OVERFLOW, POOL_SIZE, WATCH_POOL_SIZE, create_engine
from app.stores.postgres.failures import failure_of as postgres_failure
from app.stores.postgres.settlement import RetryPolicy
from app.stores.queue import QUEUES, CeleryDoorbell, create_celery, message_counts
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
from app.stores.redis.wrong_keys import SharedStrikes
from app.upkeep.cache_audit import CacheAudit
from app.upkeep.ledger_audit import LedgerAudit
from app.upkeep.pulse import Pulse
from app.upkeep.reconcile import ReconcileService
from app.upkeep.rollup_audit import RollUpAudit
from app.upkeep.spool import InboxTransactions, SpoolDrain
from app.upkeep.stale import StaleCopies
from app.upkeep.stranded import StrandedMarks
from app.upkeep.usage_summaries import UsageSummaries
from app.upkeep.watcher import Watcher
from app.webhooks.balance_rules import BalanceRules, TopUpRequests
from app.webhooks.deliver import DeliveryPolicy, DeliveryService
from app.webhooks.endpoints import WebhookEndpoints
from app.webhooks.events import WebhookEvents
from app.webhooks.sender import WebhookSender
from app.wire import webhooks as webhooks_wire

# Where a Flask application keeps its container.
EXTENSION = "tokentill"


class Container:
    """Everything that a process may use, created at once, so that a mistake in the wiring shows at the start.

    Nothing connects and no thread starts before it is used. A container that has been used must not be used in a forked
    process: its connections and threads belong to the parent.
    """

    def __init__(  # noqa: PLR0915 - a line for each thing, all in one place
        self,
        config: Config,
        *,
        is_watched: bool = False,
        celery: Celery | None = None,
        doorbell: Doorbell | None = None,
    ) -> None:
        """`is_watched`: this process serves, and has a watcher that opens closed gates again. If `celery` or `doorbell`
        are given, `close` leaves them open for the caller to close.
        """
        self.config = config
        self.meters = Meters()
        self._made = ExitStack()

        # Connections to the stores. The watcher has its own, so that it works even if all others are in use or broken.
        self.engine = self._engine(create_engine(config))
        self.watch_engine = self._engine(create_engine(config, pool_size=WATCH_POOL_SIZE, max_overflow=0))
        # So do exports, so that they don't take connections that starts and ends need.
        self.export_engine = self._engine(create_engine(config, pool_size=EXPORTS_MAX, max_overflow=0))
        self.redis_client = self._client(create_client(config))
        self.watch_client = self._client(create_client(config))
        self.celery = celery or self._celery(create_celery(config))
        self.doorbell = doorbell or self._doorbell(CeleryDoorbell(self.celery, self.redis_client))

        # Access.
        self.clock = StoreClock()
        self.postgres_gate = Gate("postgres", postgres_failure, is_watched=is_watched)
        self.redis_gate = Gate("redis", redis_failure, is_watched=is_watched)
        self.postgres = PostgresAccess(self.engine, self.postgres_gate, wait_seconds=config.database_timeout_seconds)
        environment = {KeyKind.SERVICE: config.server_api_keys, KeyKind.OPERATOR: config.admin_api_keys}
        self.keys = KeyRing(
            environment,
            postgres=self.postgres,
            clock=self.clock,
            offline_seconds_max=config.api_keys_offline_seconds,
        )
        self.wrong_keys = WrongKeys(SharedStrikes(self.redis_client), self.redis_gate)
        self.authentication = Authentication(self.keys, CountedBrake(self.wrong_keys, self.meters))
        audit_book = AuditBook(self.postgres)
        self.scripts = WalletScripts(self.redis_client)
        self.records = Records(self.redis_client, seconds=config.idempotency_cache_seconds)
        self.in_flight = InFlight(self.redis_client)
        self.leases = WalletLeases(self.redis_client, self.scripts, self.records)
        self.cache = WalletCache(self.redis_client, self.scripts, self.records)
        self.wallet_holds = WalletHolds(self.scripts)
        self.spool = Spool(self.redis_client)
        self.loader = WalletLoader(
            postgres=self.postgres,
            leases=self.leases,
            lost=LostWallets(self.redis_client),
            in_flight=self.in_flight,
            spool=self.spool,
        )
        self.wallet_changes = WalletChanges(postgres=self.postgres, cache=self.cache, redis=self.redis_gate)
        balances = Balances(self.postgres)
        intake = Intake(self.postgres)
        books = BookKeeping(self.postgres, Books)

        # Catalog.
        self.catalog = CatalogSnapshot(self.watch_engine, self.clock, self.keys)
        catalog_books = BookKeeping(self.postgres, CatalogBooks)
        catalog_changes = CatalogChanges(books=catalog_books, copy=self.catalog)
        self.catalog_admin = CatalogAdmin(books=catalog_books, changes=catalog_changes, now=self.clock.now)
        self.price_imports = PriceImports(
            books=BookKeeping(self.postgres, PriceImportBooks),
            past=PastUsage(self.postgres),
            changes=catalog_changes,
            now=self.clock.now,
        )
        self.price_admin = PriceAdmin(books=catalog_books, changes=catalog_changes, now=self.clock.now)

        # Billing.
        self.holds = HoldService(
            balances=balances,
            runs=intake,
            catalog=self.catalog,
            holds=self.wallet_holds,
            records=self.records,
            loader=self.loader,
            redis=self.redis_gate,
            audit=audit_book,
        )
        self.start = StartService(
            balances=balances,
            catalog=self.catalog,
            cache=self.cache,
            loader=self.loader,
            holds=self.holds,
            redis=self.redis_gate,
            hold_seconds_default=config.hold_seconds_default,
            now=self.clock.now,
            timeout_seconds=_request_seconds(config),
        )
        self.pricer = Pricer(catalog=self.catalog, now=self.clock.now)
        self.estimate = EstimateService(
            pricer=self.pricer,
            catalog=self.catalog,
            looks=WalletLooks(self.scripts),
            loader=self.loader,
            balances=balances,
            redis=self.redis_gate,
        )
        self.end = EndService(
            pricer=self.pricer,
            catalog=self.catalog,
            decider=EndDecider(cache=self.cache, balances=balances, holds=self.holds, redis=self.redis_gate),
            recorder=EndRecorder(
                intake=CountedIntake(intake, self.meters),
                cache=self.cache,
                in_flight=self.in_flight,
                loader=self.loader,
                spool=CountedSpool(self.spool, self.meters),
                redis=self.redis_gate,
            ),
            loader=self.loader,
            holds=self.holds,
            redis=self.redis_gate,
            doorbell=self.doorbell,
            timeout_seconds=_request_seconds(config),
        )
        policy = RetryPolicy(
            attempts_max=config.retry_attempts_max,
            base_seconds=config.retry_base_seconds,
            cap_seconds=config.retry_cap_seconds,
        )
        self.settlement = SettleService(
            transactions=CountedSettlement(SettleTransactions(self.postgres, policy), self.meters),
            changes=self.wallet_changes,
            batch_size=config.settle_batch_size,
        )
        self.collection = CollectService(
            transactions=CountedCollection(CollectTransactions(self.postgres, policy), self.meters),
            changes=self.wallet_changes,
            batch_size=config.settle_batch_size,
        )
        self.postings = PostingService(books=books, changes=self.wallet_changes, doorbell=self.doorbell)
        self.corrections = CorrectionService(
            books=BookKeeping(self.postgres, partial(RunBooks, policy=policy)),
            changes=self.wallet_changes,
            doorbell=self.doorbell,
            spool=self.spool,
            redis=self.redis_gate,
        )
        self.repricings = RepricingService(
            books=BookKeeping(self.postgres, partial(RepricingBooks, policy=policy)),
            changes=self.wallet_changes,
            doorbell=self.doorbell,
        )
        self.top_ups = TopUpService(
            books=BookKeeping(self.postgres, TopUpBatchBooks),
            wallets=WalletTopUp(
                books=TopUpBookKeeping(self.postgres), changes=self.wallet_changes, doorbell=self.doorbell
            ),
        )
        self.top_up_schedules = TopUpScheduleService(books=BookKeeping(self.postgres, ScheduleBooks))

        self.exports = ExportService(engine=self.export_engine, gate=self.postgres_gate)
        self.archives = ArchiveService(
            books=BookKeeping(self.postgres, ArchiveBooks),
            exports=self.exports,
            spool=self.spool,
            redis=self.redis_gate,
        )
        self.statements = StatementService(books=BookKeeping(self.postgres, StatementBooks), exports=self.exports)
        open_holds = OpenHolds(self.redis_client, self.wallet_holds, self.redis_gate)
        self.reports = ReportService(postgres=self.postgres, holds=open_holds)
        self.samples = SampleService(
            books=BookKeeping(self.postgres, SampleBooks), held_micros=self.reports.held_micros
        )

        # Upkeep.
        self.spool_drain = SpoolDrain(
            inbox=InboxTransactions(self.postgres),
            cache=self.cache,
            records=self.records,
            spool=self.spool,
            settlement=self.settlement,
        )
        self.stranded_marks = StrandedMarks(
            postgres=self.postgres, in_flight=self.in_flight, spool=self.spool, loader=self.loader
        )
        self.usage_summaries = UsageSummaries(postgres=self.postgres)
        self.stale_copies = StaleCopies(postgres=self.postgres, loader=self.loader)
        self.cache_audit = CacheAudit(
            postgres=self.postgres,
            snapshots=WalletSnapshots(self.redis_client),
            in_flight=self.in_flight,
            spool=self.spool,
            loader=self.loader,
        )
        self.reconciliation = ReconcileService(
            postgres=self.postgres,
            ledger=LedgerAudit(self.postgres),
            rollups=RollUpAudit(self.postgres),
            cache=self.cache_audit,
            redis=self.redis_gate,
        )
        self.watcher = Watcher(
            catalog=self.catalog,
            probe=Probe(self.watch_client, self.redis_client),
            settlement=self.settlement,
            spool=self.spool_drain,
            keys=self.keys,
            wrong_keys=self.wrong_keys,
            collection=self.collection,
            postgres=self.postgres_gate,
            redis=self.redis_gate,
        )
        self._made.callback(self.watcher.stop)

        # Operations.
        self.wallet_admin = WalletAdmin(
            books=BookKeeping(self.postgres, WalletBooks),
            holds=open_holds,
            changes=self.wallet_changes,
            doorbell=self.doorbell,
        )
        self.key_admin = KeyAdmin(
            books=BookKeeping(self.postgres, KeyBooks), changes=catalog_changes, now=self.clock.now
        )
        self.audit_log = AuditLog(self.postgres)
        self.failed_ends = FailedEndService(books=books, changes=self.wallet_changes, doorbell=self.doorbell)
        self.bulk_actions = BulkActionService(
            books=BookKeeping(self.postgres, BulkBooks), changes=self.wallet_changes, doorbell=self.doorbell
        )
        self.failed_end_sums = FailedEndSums(postgres=self.postgres)
        self.end_stories = EndStoryService(books=BookKeeping(self.postgres, StoryBooks))
        self.status = StatusService(
            watch=partial(self.postgres.run, watch.look),
            spooled=self.spool.size,
            messages=partial(message_counts, self.redis_client, QUEUES),
            postgres=self.postgres_gate,
            redis=self.redis_gate,
        )
        self.metrics = Metrics(config=config, meters=self.meters, status=self.status, pulse=Pulse(self.postgres))
        self._made.callback(self.metrics.close)
        self._add_gauges()
        self.console_sessions = ConsoleSessions(
            books=BookKeeping(self.postgres, ConsoleBooks), authentication=self.authentication
        )
        self.demo = DemoSeed(
            is_local=config.is_local,
            catalog=self.catalog_admin,
            wallets=self.wallet_admin,
            postings=self.postings,
        )

        # Webhooks.
        self.webhook_sender = WebhookSender(
            timeout_seconds=config.webhook_timeout_seconds, allow_private=config.webhooks_allow_private
        )
        self._made.callback(self.webhook_sender.close)
        self.webhook_delivery = DeliveryService(
            books=BookKeeping(self.postgres, DeliveryBooks),
            sender=self.webhook_sender,
            render=webhooks_wire.body,
            policy=DeliveryPolicy(
                timeout_seconds=config.webhook_timeout_seconds,
                at_once_max=config.webhook_endpoint_concurrency,
                disable_after_days=config.webhook_disable_after_days,
            ),
        )
        self.webhook_endpoints = WebhookEndpoints(
            books=BookKeeping(self.postgres, EndpointBooks), allow_private=config.webhooks_allow_private
        )
        self.webhook_events = WebhookEvents(
            books=BookKeeping(self.postgres, EventBooks), retention_days=config.webhook_retention_days
        )
        self.balance_rules = BalanceRules(books=BookKeeping(self.postgres, BalanceRuleBooks))
        self.top_up_requests = TopUpRequests(books=BookKeeping(self.postgres, TopUpRequestBooks))

    def close(self) -> None:
        """Stop threads and close connections, in reverse order of creation. The container can't be used after that."""
        self._made.close()

    def _add_gauges(self) -> None:
        """Gauges of this process: how full its pools and queues are, and the state of its gates."""
        gauge = self.meters.gauge
        pools = {"requests": self.engine.pool, "watch": self.watch_engine.pool, "exports": self.export_engine.pool}
        gauge(
            "tokentill_postgres_pool_in_use",
            lambda: {(name,): pool.checkedout() for name, pool in pools.items()},  # type: ignore[attr-defined]
        )
        sizes = {"requests": POOL_SIZE + POOL_OVERFLOW, "watch": WATCH_POOL_SIZE, "exports": EXPORTS_MAX}
        gauge(
            "tokentill_postgres_pool_max",
            lambda: {(name,): size for name, size in sizes.items()},
        )
        gauge(
            "tokentill_batcher_waiting",
            lambda: {("start",): self.start.waiting, ("end",): self.end.waiting},
        )
        bell = self.doorbell
        if isinstance(bell, CeleryDoorbell):
            gauge(
                "tokentill_doorbell_waiting",
                lambda: {(): bell.waiting},
            )
        if self.postgres_gate.is_watched:
            # Without a watcher gates never close, so their state says nothing.
            gauge(
                "tokentill_gate_state",
                lambda: {
                    (gate.store, state): int(gate.state is state)
                    for gate in (self.postgres_gate, self.redis_gate)
                    for state in StoreState
                },
            )

    def _engine(self, engine: sa.Engine) -> sa.Engine:
        self._made.callback(engine.dispose)
        return engine

    def _client(self, client: Redis) -> Redis:
        self._made.callback(client.close)
        return client

    def _celery(self, celery: Celery) -> Celery:
        self._made.callback(celery.close)
        return celery

    def _doorbell(self, doorbell: Doorbell) -> Doorbell:
        self._made.callback(doorbell.close)
        return doorbell


def _request_seconds(config: Config) -> float:
    """How long a request waits for its turn in a batch: the timeouts of the store calls of the batch before it."""
    return 2 * config.database_timeout_seconds + config.redis_timeout_seconds
