"""Stores that answer and refuse: which of it closes a gate, and that all goes on by itself afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from app.access.gate import StoreState
from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.errors import Unavailable, WalletBusy
from app.domain.postings import Posting, PostingKind
from app.domain.wallets import Access, Deduction
from app.stores.postgres.engine import POOL_OVERFLOW, POOL_SIZE
from app.web import create_app
from stack.embedded import PostgresServer
from tests.redis_refusals import REFUSALS, Refusal, full
from tests.support import FEATURE, Billing, assert_conserved

START = StartRequest("user-1", FEATURE)


@pytest.fixture
def shop(make_shop: Callable[..., Billing]) -> Billing:
    return make_shop()


@contextmanager
def read_only(postgres_server: PostgresServer) -> Iterator[None]:
    """Postgres as after a demotion: sessions that are open, and new ones, can't write any more."""
    url = postgres_server.url
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as operator:

        def set_to(value: str) -> None:
            operator.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
            operator.execute("SELECT pg_reload_conf()")
            until(lambda: shown(url) == value)

        set_to("on")
        try:
            yield
        finally:
            set_to("off")


def shown(url: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW default_transaction_read_only").fetchone()
        return None if row is None else row[0]


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@contextmanager
def watched(container: Container) -> Iterator[None]:
    container.watcher.start()
    try:
        yield
    finally:
        container.watcher.stop()


def top_up(user_id: str, reference: str, micros: int = 1_000_000) -> Posting:
    return Posting(user_id, PostingKind.TOP_UP, micros, reference)


class TestPostgresThatTakesNoWrites:
    def test_ends_are_kept_and_recorded_once_writes_are_allowed_again(
        self, shop: Billing, postgres_server: PostgresServer
    ) -> None:
        services = shop.container
        services.end.end(shop.usage())
        with watched(services):
            with read_only(postgres_server):
                # Pooled connections are there from before, and lead to a server that refuses.
                for _ in range(5):
                    assert services.end.end(shop.usage(output_tokens=4)).deduction is Deduction.COVERED
                until(lambda: services.postgres_gate.state is StoreState.REFUSES_WRITES)
                assert services.spool.size() == 5
                assert services.start.start(START).access is Access.GRANTED
                with pytest.raises(Unavailable):
                    services.postings.post(top_up("user-1", "refused"))
                client = create_app(container=services).test_client()
                ready = client.get("/readyz")
                assert ready.json == {
                    "status": "ready",
                    "dependencies": {"postgres": "refuses_writes", "redis": "up"},
                }
                assert 'tokentill_store_up{store="postgres"} 0.0' in client.get("/metrics").text
            began = time.monotonic()
            until(lambda: services.postgres_gate.is_open)
            services.end.end(shop.usage(output_tokens=4))
            assert time.monotonic() - began < 3
        services.spool_drain.drain()
        shop.settle_everything()
        assert shop.balance().posted_micros == 100_000_000 - 11_000_000 - 6 * 1_100_000
        assert_conserved(shop, "user-1")

    def test_the_watcher_finds_it_without_any_call(self, shop: Billing, postgres_server: PostgresServer) -> None:
        services = shop.container
        services.watcher.look_at_postgres()
        with read_only(postgres_server), watched(services):
            until(lambda: services.postgres_gate.state is StoreState.REFUSES_WRITES, seconds=3)

    def test_sessions_that_were_opened_read_only_are_not_kept(
        self, shop: Billing, postgres_server: PostgresServer
    ) -> None:
        services = shop.container
        set_for_new = "ALTER DATABASE tokentill {} default_transaction_read_only"
        with psycopg.connect(postgres_server.url, autocommit=True) as operator:
            operator.execute(set_for_new.format("SET").encode() + b" = on")
            services.engine.dispose()
            try:
                services.start.start(START)
                assert services.end.end(shop.usage(output_tokens=4)).deduction is Deduction.COVERED
                assert services.postgres_gate.state is StoreState.REFUSES_WRITES
            finally:
                operator.execute(set_for_new.format("RESET").encode())
        with watched(services):
            until(lambda: services.postgres_gate.is_open)
            assert services.postings.post(top_up("user-1", "again")).replayed is False

    def test_ends_go_on_without_a_free_connection(self, shop: Billing, postgres_server: PostgresServer) -> None:
        services = shop.container
        services.start.start(START)
        services.watcher.look_at_postgres()
        services.engine.dispose()
        taken: list[psycopg.Connection] = []

        def take() -> bool:
            try:
                taken.append(psycopg.connect(postgres_server.url))
            except psycopg.OperationalError:
                return False
            return len(taken) < 500

        try:
            while take():
                pass
            assert services.end.end(shop.usage(output_tokens=4)).deduction is Deduction.COVERED
            assert services.postgres_gate.state is StoreState.REFUSES_WRITES
        finally:
            for connection in taken:
                connection.close()
        with watched(services):
            until(lambda: services.postgres_gate.is_open)
        services.spool_drain.drain()
        shop.settle_everything()
        assert shop.balance().posted_micros == 98_900_000


class TestOneWalletThatIsLocked:
    def test_forty_top_ups_of_it_keep_nobody_else_waiting(self, shop: Billing, postgres_server: PostgresServer) -> None:
        services = shop.container
        shop.wallet("locked", tokens=10)
        shop.wallet("other", tokens=10)
        with psycopg.connect(postgres_server.url) as operator, ThreadPoolExecutor(40) as pool:
            operator.execute("SELECT 1 FROM wallets WHERE user_id = 'locked' FOR UPDATE")
            stop = threading.Event()
            answers: list[float] = []

            def knock(number: int) -> None:
                while not stop.is_set():
                    asked = time.monotonic()
                    try:
                        services.postings.post(top_up("locked", f"paid-{number}"))
                    except WalletBusy:
                        answers.append(time.monotonic() - asked)
                        time.sleep(0.1)
                    else:
                        assert stop.is_set(), "posted on a locked wallet"

            knocking = [pool.submit(knock, number) for number in range(40)]
            slowest = 0.0
            try:
                for number in range(30):
                    began = time.monotonic()
                    services.start.start(StartRequest("other", FEATURE))
                    services.end.end(shop.usage("other", output_tokens=4))
                    services.postings.post(top_up("other", f"other-{number}"))
                    slowest = max(slowest, time.monotonic() - began)
                    assert services.postgres_gate.is_open
                    time.sleep(0.1)
            finally:
                stop.set()
                operator.rollback()
            for knocked in knocking:
                knocked.result(timeout=20)
        assert slowest < 2
        # A second for the row, and another for whoever came first to try again.
        assert max(answers) < 4
        assert len(answers) > 100
        for number in range(40):
            services.postings.post(top_up("locked", f"paid-{number}"))
        shop.settle_everything()
        assert shop.balance("locked").posted_micros == 50_000_000
        assert_conserved(shop, "locked", "other")

    def test_it_is_a_503_that_says_so(
        self, billing: Billing, client: FlaskClient, admin_headers: dict[str, str], postgres_url: str
    ) -> None:
        billing.catalog()
        billing.wallet("locked", tokens=10)
        with psycopg.connect(postgres_url) as operator:
            operator.execute("SELECT 1 FROM wallets WHERE user_id = 'locked' FOR UPDATE")
            began = time.monotonic()
            answer = client.post(
                "/api/admin/wallets/locked/top-ups", json={"token": 1, "reference": "r"}, headers=admin_headers
            )
            assert time.monotonic() - began < 3
        assert answer.json is not None
        assert (answer.status_code, answer.json["code"]) == (503, "wallet_busy")
        assert answer.headers["Retry-After"] == "1"
        assert billing.container.postgres_gate.is_open

    def test_top_ups_of_one_wallet_that_nobody_locks_all_succeed(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet("busy", tokens=0)
        with ThreadPoolExecutor(40) as pool:
            list(pool.map(lambda n: billing.container.postings.post(top_up("busy", f"paid-{n}")), range(80)))
        assert billing.balance("busy").posted_micros == 80_000_000


class TestConnections:
    def test_an_exhausted_pool_closes_no_gate(self, make_shop: Callable[..., Billing]) -> None:
        shop = make_shop(database_timeout_seconds=0.3)
        services = shop.container
        services.start.start(START)
        taken = []
        try:
            for _ in range(POOL_SIZE + POOL_OVERFLOW):
                taken.append(services.engine.connect())
            assert services.end.end(shop.usage(output_tokens=4)).deduction is Deduction.COVERED
            with pytest.raises(Unavailable):
                services.postings.post(top_up("user-1", "no-room"))
            # The watcher has connections of its own.
            services.watcher.look_at_postgres()
            assert services.postgres_gate.is_open
        finally:
            for connection in taken:
                connection.close()
        services.spool_drain.drain()
        shop.settle_everything()
        assert shop.balance().posted_micros == 98_900_000

    def test_terminated_sessions_are_not_noticed_by_anybody(self, shop: Billing, postgres_url: str) -> None:
        services = shop.container
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: services.end.end(shop.usage(output_tokens=4)), range(16)))
        with psycopg.connect(postgres_url, autocommit=True) as operator:
            operator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'tokentill' AND pid <> pg_backend_pid()"
            )
        services.postings.post(top_up("user-1", "paid"))
        services.end.end(shop.usage(output_tokens=4))
        assert services.postgres_gate.is_open
        assert services.spool.size() == 0

    def test_whoever_stands_still_in_a_transaction_lets_go(self, make_shop: Callable[..., Billing]) -> None:
        shop = make_shop(database_timeout_seconds=0.3)
        services = shop.container
        stuck = services.engine.connect()
        stuck.exec_driver_sql("SELECT 1 FROM wallets WHERE user_id = 'user-1' FOR UPDATE")
        with pytest.raises(WalletBusy):
            services.postings.post(top_up("user-1", "early"))
        time.sleep(1)
        services.postings.post(top_up("user-1", "late"))
        with pytest.raises(sa.exc.DBAPIError, match="idle-in-transaction"):
            stuck.exec_driver_sql("SELECT 1")
        stuck.close()

    @pytest.mark.parametrize("is_transaction", [True, False])
    def test_every_session_has_its_limits(self, container: Container, is_transaction: bool) -> None:
        work = container.postgres.transaction if is_transaction else container.postgres.run
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        query = f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}"
        assert tuple(work(lambda connection: connection.exec_driver_sql(query).one())) == ("5s", "1s", "10s")


@pytest.mark.parametrize("refusal", REFUSALS)
class TestRedisThatTakesNoWrites:
    @pytest.fixture
    def refuse(self, shop: Billing, refusal: Refusal) -> Iterator[Callable[[bool], None]]:
        is_on = False

        def refuse(begin: bool) -> None:
            nonlocal is_on
            is_on = begin
            refusal(shop.container.redis_client, begin)

        yield refuse
        if is_on:
            # What closes would wait in vain.
            refuse(False)

    def test_postgres_answers_and_the_web_processes_settle(self, shop: Billing, refuse: Callable[[bool], None]) -> None:
        services = shop.container
        services.end.end(shop.usage())
        services.watcher.look_at_redis()
        refuse(True)
        with watched(services):
            until(lambda: services.redis_gate.state is StoreState.REFUSES_WRITES)
            assert services.end.end(shop.usage(output_tokens=4)).spendable_micros == 87_900_000
            assert services.start.start(START).spendable_micros == 87_900_000
            until(lambda: shop.balance().posted_micros == 87_900_000)
            assert create_app(container=services).test_client().get("/readyz").json == {
                "status": "ready",
                "dependencies": {"postgres": "up", "redis": "refuses_writes"},
            }
            refuse(False)
            until(lambda: services.redis_gate.is_open)
            # What was cached before is void: it lacks what went past it.
            assert services.start.start(START).spendable_micros == 87_900_000
        assert shop.cached_spendable_micros() == 87_900_000
        assert_conserved(shop, "user-1")

    def test_a_call_finds_it_and_the_end_is_taken(self, shop: Billing, refuse: Callable[[bool], None]) -> None:
        services = shop.container
        services.end.end(shop.usage())
        refuse(True)
        assert services.end.end(shop.usage(output_tokens=4)).deduction is Deduction.COVERED
        assert services.redis_gate.state is StoreState.REFUSES_WRITES
        assert len(shop.inbox()) == 2

    def test_it_is_used_again_by_new_connections(self, shop: Billing, refuse: Callable[[bool], None]) -> None:
        services = shop.container
        before = services.redis_client.client_id()
        refuse(True)
        services.watcher.look_at_redis()
        assert not services.redis_gate.is_open
        refuse(False)
        with watched(services):
            until(lambda: services.redis_gate.is_open)
        assert services.redis_client.client_id() > before

    def test_with_nothing_done_past_it_no_epoch_begins(self, shop: Billing, refuse: Callable[[bool], None]) -> None:
        services = shop.container
        services.start.start(START)
        services.watcher.look_at_redis()
        before = services.catalog.epoch
        refuse(True)
        services.watcher.look_at_redis()
        assert services.start.start(START).access is Access.GRANTED
        refuse(False)
        with watched(services):
            until(lambda: services.redis_gate.is_open)
        assert services.catalog.epoch == before


def test_one_wallet_that_redis_cannot_read_concerns_nobody_else(billing: Billing) -> None:
    billing.catalog()
    billing.wallet("sick", tokens=100)
    billing.wallet("other", tokens=100)
    services = billing.container
    services.start.start(StartRequest("other", FEATURE))
    services.redis_client.set("tokentill:{sick}:wallet", "not a hash")
    before = services.catalog.epoch
    assert services.end.end(billing.usage("sick")).spendable_micros == 89_000_000
    assert services.redis_gate.is_open
    services.watcher.look_at_redis()
    assert services.catalog.epoch == before
    assert services.end.end(billing.usage("other")).spendable_micros == 89_000_000


def test_the_spool_of_a_full_redis_is_drained_by_the_web_processes(shop: Billing) -> None:
    services = shop.container
    services.start.start(START)
    services.postgres_gate.close(ConnectionError("test"))
    services.end.end(shop.usage())
    assert services.spool.size() == 1
    full(services.redis_client, True)
    with watched(services):
        until(lambda: shop.balance().posted_micros == 89_000_000)
        until(lambda: services.spool.size() == 0)
        assert services.redis_gate.state is StoreState.REFUSES_WRITES
    full(services.redis_client, False)
    assert_conserved(shop, "user-1")
