"""Bulk actions as workers and beat work them off, and a worker that is killed in the middle of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from app.bootstrap import Container
from app.domain.bulk_actions import BulkKind, BulkState
from app.domain.failed_ends import Filter
from app.domain.keys import Caller
from app.operations.bulk_actions import Asked
from app.stores.postgres.engine import allow_seconds
from tests import processes
from tests.support import FEATURE, Billing, assert_conserved

pytestmark = pytest.mark.long

USERS = ("a", "b", "c")


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    for user_id in USERS:
        billing.wallet(user_id, tokens=0)
    return billing


def owe(shop: Billing, ends_each: int) -> None:
    """Dead debts of 11 tokens, so many of each user."""
    with shop.container.engine.begin() as connection:
        for user_id in USERS:
            connection.execute(
                sa.text("""
                    INSERT INTO end_inbox (id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens,
                        cost_micros, base_cost_micros, profit_micros, state, attempts, last_error, is_debt)
                    SELECT gen_random_uuid(), :user_id, :user_id, :feature, 10, 40, 11000000, 10000000, 1000000, 'dead',
                        12, 'insufficient_tokens', true
                    FROM generate_series(1, :ends)
                """),
                {"user_id": user_id, "feature": FEATURE, "ends": ends_each},
            )
            connection.execute(
                sa.text("UPDATE wallets SET debt_micros = 11000000 * CAST(:ends AS bigint) WHERE user_id = :user_id"),
                {"user_id": user_id, "ends": ends_each},
            )


def confirmed(container: Container, action: BulkKind) -> int:
    drafted, _ = container.bulk_actions.draft(Asked(action, Filter(), {"filter": {}}, action, "Outage", Caller("ops")))
    figures = drafted.action
    container.bulk_actions.confirm(figures.id, ends=figures.ends, cost_micros=figures.cost_micros, caller=Caller("ops"))
    return figures.id


def outcomes(container: Container, number: int) -> dict[str | None, int]:
    return {each.key: each.ends for each in container.bulk_actions.get(number).figures.outcomes}


def test_killed_half_way_another_worker_goes_on(shop: Billing, environment: dict[str, str], tmp_path: Path) -> None:
    owe(shop, 150)
    number = confirmed(shop.container, BulkKind.WRITE_OFF)
    with processes.beat(environment, tmp_path):
        with shop.container.export_engine.begin() as operator:
            # It comes to a wallet that somebody is using, and dies there.
            allow_seconds(operator, None)
            operator.execute(sa.text("SELECT 1 FROM wallets WHERE user_id = 'c' FOR UPDATE"))
            with processes.worker(environment, tmp_path, "first") as first:
                done = {"written_off": 300, None: 150}
                processes.wait_until(
                    lambda: outcomes(shop.container, number) == done, what="two wallets", log=first.log
                )
                first.kill()
        with processes.worker(environment, tmp_path, "second") as second:
            processes.wait_until(
                lambda: shop.container.bulk_actions.get(number).action.state is BulkState.DONE,
                what="the rest",
                log=second.log,
            )
    assert outcomes(shop.container, number) == {"written_off": 450}
    assert shop.inbox_size() == 0
    assert_conserved(shop, *USERS)
    for user_id in USERS:
        assert len(shop.ledger(user_id)) == 300
        assert (shop.balance(user_id).posted_micros, shop.balance(user_id).debt_micros) == (0, 0)


def test_replays_are_settled_by_workers_and_looked_after(
    shop: Billing, environment: dict[str, str], tmp_path: Path
) -> None:
    owe(shop, 40)
    # All of one, some of another, none of the third.
    shop.execute("UPDATE wallets SET posted_micros = 440000000 WHERE user_id = 'a'")
    shop.execute("UPDATE wallets SET posted_micros = 110000000 WHERE user_id = 'b'")
    number = confirmed(shop.container, BulkKind.REPLAY)
    with processes.worker(environment, tmp_path) as worker, processes.beat(environment, tmp_path):
        processes.wait_until(
            lambda: shop.container.bulk_actions.get(number).action.state is BulkState.DONE,
            seconds=60,
            what="the outcomes",
            log=worker.log,
        )
    assert outcomes(shop.container, number) == {"settled": 50, "failed_again": 70}
    assert [len(shop.inbox(user_id)) for user_id in USERS] == [0, 30, 40]
