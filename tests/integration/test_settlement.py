"""Settlement under repeated, reordered and concurrent delivery, and with what the database refuses in the batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import sqlalchemy as sa
from redis import RedisError

from app.bootstrap import Container
from app.domain.failed_ends import Filter
from app.domain.wallets import Deduction
from stack.embedded import PostgresServer
from tests.support import Billing, assert_conserved, collect_now


def accepted_ids(billing: Billing) -> list[UUID]:
    with billing.container.engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT id FROM end_inbox ORDER BY id")).scalars())


def test_concurrent_overlapping_batches_settle_each_end_once(
    billing: Billing, make_container: Callable[[], Container], postgres_server: PostgresServer
) -> None:
    billing.catalog()
    users = [billing.wallet(f"user-{i}", tokens=10_000) for i in range(20)]
    rng = random.Random(7)
    billing.container.end.end_all([billing.usage(rng.choice(users), output_tokens=4) for _ in range(800)])
    ids = accepted_ids(billing)
    assert len(ids) == 800
    batches = [rng.sample(ids, 300) for _ in range(24)]
    containers = [billing.container, *(Container(billing.container.config) for _ in range(3))]
    with ThreadPoolExecutor(8) as pool:
        reports = list(
            pool.map(lambda pair: pair[0].settlement.settle(pair[1]), zip(containers * 6, batches, strict=True))
        )
    billing.settle_everything()
    assert sum(report.settled for report in reports) <= 800
    assert sum(len(billing.ledger(user)) - 1 for user in users) == 800
    for user in users:
        assert billing.cached_spendable_micros(user) == billing.balance(user).posted_micros
    assert_conserved(billing, *users)
    assert "deadlock detected" not in postgres_server.log_path.read_text()
    for container in containers[1:]:
        container.close()


def test_an_end_recorded_again_after_it_was_settled_is_dropped(billing: Billing) -> None:
    billing.catalog()
    billing.wallet()
    billing.container.end.end(billing.usage())
    billing.execute("CREATE TABLE copy AS SELECT * FROM end_inbox")
    billing.settle_everything()
    billing.execute("INSERT INTO end_inbox SELECT * FROM copy")
    report = billing.container.settlement.sweep(older_than_seconds=0)
    assert (report.settled, report.repeated) == (0, 1)
    assert billing.inbox() == []
    assert billing.balance().posted_micros == 989_000_000
    billing.execute("DROP TABLE copy")


def test_what_the_database_refuses_is_isolated(billing: Billing) -> None:
    billing.catalog()
    users = [billing.wallet(f"user-{i}") for i in range(10)]
    billing.container.end.end_all([billing.usage(users[i % 10], output_tokens=4) for i in range(1_000)])
    poisoned = accepted_ids(billing)[321]
    # A price whose parts add up to more than a bigint holds: the statement that adds them overflows.
    billing.execute(f"""
        UPDATE end_inbox SET base_cost_micros = 9000000000000000000, profit_micros = 9000000000000000000
        WHERE id = '{poisoned}'
    """)
    report = billing.container.settlement.sweep(older_than_seconds=0)
    assert (report.settled, report.dead) == (999, 1)
    assert accepted_ids(billing) == [poisoned]
    [dead] = [end for user in users for end in billing.inbox(user)]
    assert dead.state == "dead"
    assert dead.last_error
    assert_conserved(billing, *users)


def test_a_quote_that_the_worker_does_not_reach_is_a_dead_letter(billing: Billing) -> None:
    billing.catalog()
    billing.wallet()
    billing.container.end.end(billing.usage())
    billing.execute("UPDATE end_inbox SET cost_micros = cost_micros + 1")
    billing.container.end.end(billing.usage())
    billing.settle_everything()
    [dead] = billing.inbox()
    assert (dead.state, dead.last_error) == ("dead", "quote_disagrees")
    assert billing.balance().posted_micros == 989_000_000


def test_what_waits_is_billed_as_it_was_priced(billing: Billing) -> None:
    """Whatever a later release makes of prices, or somebody of the rules."""
    billing.catalog()
    billing.wallet()
    billing.container.end.end(billing.usage())
    billing.execute("UPDATE profit_rules SET basis_points = 9000")
    billing.execute("UPDATE end_inbox SET base_cost_micros = 4000000, profit_micros = 7000000")
    billing.settle_everything()
    entry = billing.ledger()[-1]
    assert (entry.base_cost_micros, entry.profit_micros, entry.cost_micros) == (4_000_000, 7_000_000, 11_000_000)
    assert billing.inbox() == []


def test_an_end_without_a_wallet_is_a_dead_letter(billing: Billing) -> None:
    billing.catalog()
    billing.wallet()
    billing.container.end.end_all([billing.usage(), billing.usage()])
    billing.execute("UPDATE end_inbox SET wallet_id = 'gone' WHERE id = (SELECT min(id::text)::uuid FROM end_inbox)")
    billing.settle_everything()
    [dead] = billing.inbox("gone")
    assert (dead.state, dead.last_error) == ("dead", "wallet_missing")
    assert billing.inbox() == []


def test_a_change_lost_on_its_way_to_redis_is_found_behind_later_ones(billing: Billing) -> None:
    billing.catalog()
    billing.wallet(tokens=100)
    services = billing.container
    services.end.end(billing.usage())
    apply = services.cache.apply

    def die(changes: object) -> None:
        raise RedisError("killed before it could say so")

    services.cache.apply = die  # type: ignore[method-assign, assignment]
    billing.settle_everything()
    services.cache.apply = apply  # type: ignore[method-assign]
    services.redis_gate.open()
    services.end.end(billing.usage())
    billing.settle_everything()
    assert billing.cached_spendable_micros() == 67_000_000
    assert services.stale_copies.refresh(older_than_seconds=60) == 0
    assert services.stale_copies.refresh(older_than_seconds=0) == 1
    assert billing.cached_spendable_micros() == billing.balance().posted_micros == 78_000_000
    assert services.stale_copies.refresh(older_than_seconds=0) == 0


def test_debt_is_collected_oldest_first_and_only_as_far_as_the_money_reaches(billing: Billing) -> None:
    billing.catalog()
    billing.wallet(tokens=1)
    for output_tokens in (40, 80, 4):
        ended = billing.container.end.end(billing.usage(output_tokens=output_tokens))
        assert ended.deduction is Deduction.FAILED
    billing.execute("UPDATE wallets SET posted_micros = 20000000")
    collect_now(billing.container, "user-1")
    assert [end.output_tokens for end in billing.inbox()] == [80, 4]
    assert billing.balance().posted_micros == 9_000_000


def test_an_end_that_was_covered_is_not_overtaken_by_debt(billing: Billing) -> None:
    billing.catalog(basis_points=0)
    billing.wallet(tokens=100)
    covered = billing.container.end.end(billing.usage(output_tokens=400))
    uncovered = billing.container.end.end(billing.usage(output_tokens=200))
    assert (covered.deduction, uncovered.deduction) == (Deduction.COVERED, Deduction.FAILED)
    first, second = accepted_ids(billing)

    # Its message comes first, and then its time to be collected.
    billing.container.settlement.settle([second])
    assert len(billing.ledger()) == 1
    billing.execute_in_postgres("UPDATE wallets SET collect_at = now()")
    billing.container.collection.collect("user-1", seconds=60)
    assert len(billing.ledger()) == 1

    billing.container.settlement.settle([first])
    assert [entry.end_id for entry in billing.ledger()[1:]] == [first]
    assert [end.id for end in billing.inbox()] == [second]
    assert billing.balance().debt_micros == 50_000_000


def test_a_spent_retry_is_a_dead_letter(billing: Billing) -> None:
    billing.catalog()
    billing.wallet(tokens=0)
    billing.container.end.end(billing.usage())
    attempts_max = billing.container.config.retry_attempts_max
    waits = []
    for _ in range(attempts_max):
        collect_now(billing.container, "user-1")
        [failed] = billing.container.failed_ends.list(Filter(), 1).items
        waits.append(failed.next_attempt_at)
    assert (failed.state, failed.attempts, failed.last_error) == ("dead", attempts_max, "insufficient_tokens")
    assert failed.next_attempt_at is None
    assert all(earlier < later for earlier, later in zip(waits[:4], waits[2:6], strict=True))


def test_ends_decided_before_a_limit_was_lowered_wait_as_debt(billing: Billing) -> None:
    billing.catalog()
    billing.wallet(tokens=0, overdraft_tokens=20)
    assert billing.container.end.end(billing.usage()).deduction is Deduction.COVERED
    billing.execute("UPDATE wallets SET overdraft_limit_micros = 0")
    report = billing.container.settlement.sweep(older_than_seconds=0)
    assert (report.settled, report.indebted) == (0, 1)
    assert billing.balance().posted_micros == 0
    [waiting] = billing.inbox()
    assert waiting.state == "retrying"
