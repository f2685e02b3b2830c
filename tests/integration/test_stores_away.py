"""What start and end do while a store is away, and that it is used again, rightly, without a restart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.exceptions import ResponseError
from uuid_utils.compat import uuid7

from app.billing.start import StartRequest
from app.domain.errors import IdempotencyConflict, Unavailable
from app.domain.postings import Posting, PostingKind
from app.domain.pricing import Price
from app.domain.wallets import Access, Deduction, wallet_of
from app.stores.redis.wallet_calls import mark_of
from stack.embedded import ValkeyServer
from tests import redis_refusals
from tests.support import FEATURE, Billing, assert_conserved


@pytest.fixture
def shop(make_shop: Callable[..., Billing]) -> Billing:
    return make_shop()


class TestRedisAway:
    def test_start_and_end_answer_from_postgres_and_settle(self, shop: Billing, own_redis: ValkeyServer) -> None:
        services = shop.container
        services.end.end(shop.usage())
        own_redis.kill()

        started = services.start.start(StartRequest("user-1", FEATURE))
        assert (started.access, started.spendable_micros) == (Access.GRANTED, 89_000_000)
        ended = services.end.end(shop.usage(idempotency_key="around"))
        again = services.end.end(shop.usage(idempotency_key="around"))
        assert (ended.spendable_micros, ended.deduction) == (78_000_000, Deduction.COVERED)
        assert (again.spendable_micros, again.replayed) == (78_000_000, True)
        assert not services.redis_gate.is_open

        shop.settle_everything()
        assert shop.balance().posted_micros == 78_000_000
        assert_conserved(shop, "user-1")

    def test_what_was_cached_before_is_right_before_it_is_used_again(
        self, shop: Billing, own_redis: ValkeyServer
    ) -> None:
        services = shop.container
        services.start.start(StartRequest("user-1", FEATURE))
        own_redis.kill()
        services.end.end(shop.usage())
        own_redis.start()
        services.redis_client.connection_pool.reset()
        assert shop.cached_spendable_micros() == 100_000_000
        assert not services.redis_gate.is_open

        services.watcher.look_at_redis()
        assert services.redis_gate.is_open
        started = services.start.start(StartRequest("user-1", FEATURE))
        assert started.spendable_micros == 89_000_000

    def test_a_settlement_that_redis_missed_is_repaired_by_the_sweep(
        self, shop: Billing, own_redis: ValkeyServer
    ) -> None:
        services = shop.container
        services.end.end(shop.usage())
        own_redis.kill()
        shop.settle_everything()
        assert shop.balance().posted_micros == 89_000_000
        own_redis.start()
        assert services.stale_copies.refresh(older_than_seconds=0) == 1
        assert services.stale_copies.refresh(older_than_seconds=0) == 0
        assert shop.cached_spendable_micros() == 89_000_000
        [lease] = services.leases.take(["user-1"])
        assert lease.marked == frozenset()

    def test_a_serving_process_settles_while_no_message_reaches_a_worker(
        self, shop: Billing, own_redis: ValkeyServer
    ) -> None:
        shop.wallet("poor", tokens=5)
        own_redis.kill()
        shop.container.end.end(shop.usage())
        shop.container.end.end(shop.usage("poor"))
        shop.container.postings.post(Posting("poor", PostingKind.TOP_UP, 20_000_000, "paid"))
        shop.execute_in_postgres("UPDATE end_inbox SET accepted_at = now() - interval '2 seconds'")
        shop.container.watcher.look_at_redis()
        shop.container.watcher.step_in()
        assert shop.balance().posted_micros == 89_000_000
        assert shop.balance("poor").posted_micros == 14_000_000
        assert_conserved(shop, "user-1", "poor")

    def test_a_hold_cannot_be_promised_without_redis(self, shop: Billing, own_redis: ValkeyServer) -> None:
        own_redis.kill()
        with pytest.raises(Unavailable):
            shop.container.start.start(StartRequest("user-1", FEATURE, hold_micros=1))

    def test_a_restarted_redis_begins_a_new_epoch(self, shop: Billing, own_redis: ValkeyServer) -> None:
        services = shop.container
        services.watcher.look_at_redis()
        before = services.catalog.epoch
        services.watcher.look_at_redis()
        assert services.catalog.epoch == before
        own_redis.stop()
        own_redis.start()
        services.redis_client.connection_pool.reset()
        services.watcher.look_at_redis()
        assert services.catalog.epoch == before + 1


class TestFlushed:
    def test_a_flush_between_mark_and_insert_is_noticed(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet(tokens=100)
        services = billing.container
        services.start.start(StartRequest("user-1", FEATURE))
        insert = services.postgres.run

        def flush_then_insert(work):  # type: ignore[no-untyped-def]
            services.redis_client.flushall()
            # Somebody else's start loads the wallet while our end isn't recorded yet.
            services.postgres.run = insert  # type: ignore[method-assign]
            assert services.start.start(StartRequest("user-1", FEATURE)).spendable_micros == 100_000_000
            return insert(work)

        services.postgres.run = flush_then_insert  # type: ignore[method-assign]
        services.end.end(billing.usage())
        assert billing.cached_spendable_micros() == 89_000_000

    def test_after_a_flush_unsettled_ends_and_debt_count(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet(tokens=15)
        services = billing.container
        services.end.end(billing.usage(output_tokens=40))
        owed = services.end.end(billing.usage(output_tokens=40))
        assert owed.deduction is Deduction.FAILED
        services.redis_client.flushall()
        started = services.start.start(StartRequest("user-1", FEATURE))
        assert (started.access, started.spendable_micros) == (Access.DENIED, -7_000_000)


class TestPostgresAway:
    def test_a_closed_gate_answers_at_once_and_records_nothing(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet(tokens=100)
        services = billing.container
        assert services.start.start(StartRequest("user-1", FEATURE)).access is Access.GRANTED
        services.postgres_gate.close(ConnectionError("test"))
        assert services.start.start(StartRequest("user-1", FEATURE)).access is Access.GRANTED
        with pytest.raises(Unavailable):
            services.start.start(StartRequest("user-2", FEATURE))
        with pytest.raises(Unavailable):
            services.end.end(billing.usage("user-2"))
        services.watcher.look_at_postgres()
        assert services.postgres_gate.is_open

    def test_the_spool_takes_ends_of_cached_wallets_until_postgres_is_back(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet(tokens=30)
        services = billing.container
        services.start.start(StartRequest("user-1", FEATURE))
        services.postgres_gate.close(ConnectionError("test"))
        first = services.end.end(billing.usage(idempotency_key="spooled"))
        again = services.end.end(billing.usage(idempotency_key="spooled"))
        keyless = services.end.end(billing.usage(idempotency_key=None))
        owed = services.end.end(billing.usage())
        assert [(end.spendable_micros, end.replayed) for end in (first, again, keyless, owed)] == [
            (19_000_000, False),
            (19_000_000, True),
            (8_000_000, False),
            (-3_000_000, False),
        ]
        assert owed.deduction is Deduction.FAILED
        with pytest.raises(IdempotencyConflict):
            services.end.end(billing.usage(idempotency_key="spooled", output_tokens=4))
        with pytest.raises(Unavailable):
            services.end.end(billing.usage("user-2"))
        assert services.spool.size() == 3
        assert billing.inbox() == []

        services.watcher.look_at_postgres()
        # Loaded anew before the spool is drained: what is marked stays marked.
        services.loader.refresh(["user-1"])
        assert billing.cached_spendable_micros() == -3_000_000
        assert services.spool_drain.drain() == 3
        assert services.spool_drain.drain() == 0
        assert billing.balance().posted_micros == 8_000_000
        [waiting] = billing.inbox()
        assert (waiting.state, waiting.cost_micros) == ("retrying", 11_000_000)
        assert billing.cached_spendable_micros() == -3_000_000
        replayed = services.end.end(billing.usage(idempotency_key="spooled"))
        assert (replayed.spendable_micros, replayed.replayed) == (19_000_000, True)
        assert_conserved(billing, "user-1")

    def test_draining_twice_bills_once(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet(tokens=100)
        services = billing.container
        services.start.start(StartRequest("user-1", FEATURE))
        services.postgres_gate.close(ConnectionError("test"))
        services.end.end(billing.usage())
        services.end.end(billing.usage(idempotency_key=None))
        services.watcher.look_at_postgres()
        kept = services.spool.take(10)
        services.spool_drain.drain()
        # The worker died after the commit and before it had cleared the spool.
        services.spool.put([entry.read() for entry in kept])
        services.spool_drain.drain()
        billing.settle_everything()
        assert billing.balance().posted_micros == 78_000_000
        assert billing.cached_spendable_micros() == 78_000_000
        assert_conserved(billing, "user-1")

    @pytest.mark.parametrize("output_tokens", [40, 44])
    def test_a_key_used_long_before_the_outage_bills_once(self, billing: Billing, output_tokens: int) -> None:
        billing.catalog()
        billing.wallet(tokens=100)
        services = billing.container
        services.end.end(billing.usage(idempotency_key="old"))
        billing.settle_everything()
        services.redis_client.flushall()
        services.start.start(StartRequest("user-1", FEATURE))
        services.postgres_gate.close(ConnectionError("test"))
        services.end.end(billing.usage(idempotency_key="old", output_tokens=output_tokens))
        services.watcher.look_at_postgres()
        services.spool_drain.drain()
        assert billing.balance().posted_micros == 89_000_000
        assert services.spool.size() == 0
        if output_tokens == 40:
            assert billing.inbox() == []
            assert billing.cached_spendable_micros() == 89_000_000
        else:
            [dead] = billing.inbox()
            assert (dead.state, dead.last_error) == ("dead", "idempotency_key_reused")


class TestStranded:
    def test_a_mark_whose_process_died_is_forgotten(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet(tokens=100)
        services = billing.container
        services.start.start(StartRequest("user-1", FEATURE))
        request = billing.usage()
        services.cache.end([mark_of(request, wallet_of("user-1"), uuid7(), Price(10_000_000, 1_000_000))], 0)
        assert billing.cached_spendable_micros() == 89_000_000
        assert services.stranded_marks.release(after_seconds=1) == 0
        services.loader.refresh(["user-1"])
        assert billing.cached_spendable_micros() == 89_000_000
        assert services.stranded_marks.release(after_seconds=0) == 1
        assert billing.cached_spendable_micros() == 100_000_000
        assert services.stranded_marks.release(after_seconds=0) == 0

    def test_a_mark_whose_end_is_recorded_stays(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet(tokens=100)
        services = billing.container
        services.start.start(StartRequest("user-1", FEATURE))
        land = services.in_flight.land
        services.in_flight.land = lambda ends: set()  # type: ignore[method-assign]
        services.end.end(billing.usage())
        services.in_flight.land = land  # type: ignore[method-assign]
        assert services.stranded_marks.release(after_seconds=0) == 1
        assert billing.cached_spendable_micros() == 89_000_000
        assert services.stranded_marks.release(after_seconds=0) == 0

    def test_a_mark_that_a_full_redis_keeps_is_found_later(self, billing: Billing) -> None:
        billing.catalog()
        billing.wallet(tokens=100)
        services = billing.container
        services.start.start(StartRequest("user-1", FEATURE))
        mark = mark_of(billing.usage(), wallet_of("user-1"), uuid7(), Price(10_000_000, 1_000_000))
        services.cache.end([mark], 0)
        redis_refusals.full(services.redis_client, True)
        try:
            with pytest.raises(ResponseError, match="maxmemory"):
                services.cache.unmark([mark])
        finally:
            redis_refusals.full(services.redis_client, False)
        assert billing.cached_spendable_micros() == 89_000_000
        assert services.stranded_marks.release(after_seconds=0) == 1
        assert billing.cached_spendable_micros() == 100_000_000
