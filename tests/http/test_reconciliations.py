"""Reconciliation as operators start it: over the admin API, from the command line, and by the clock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import simplejson
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from app.bootstrap import Container
from app.cli import cli
from app.stores.postgres import reconciliation as store
from app.stores.redis.keys import wallet_keys
from app.stores.redis.wallet_snapshot import WalletSnapshots
from app.upkeep.cache_audit import CacheAudit
from app.upkeep.ledger_audit import LedgerAudit
from app.upkeep.reconcile import ReconcileService
from app.upkeep.rollup_audit import RollUpAudit
from tests.conftest import PROJECT
from tests.http.admin import PREFIX, Admin, assert_invalid, data, failure
from tests.support import Billing

Run = Callable[..., Result]


@pytest.fixture
def shop(container: Container, billing: Billing) -> Billing:
    """Two cached wallets, in a process that doesn't wait for its second looks."""
    impatient = CacheAudit(
        postgres=container.postgres,
        snapshots=WalletSnapshots(container.redis_client),
        in_flight=container.in_flight,
        spool=container.spool,
        loader=container.loader,
        pauses_seconds=(0.01,),
    )
    container.reconciliation = ReconcileService(
        postgres=container.postgres,
        ledger=LedgerAudit(container.postgres),
        rollups=RollUpAudit(container.postgres),
        cache=impatient,
        redis=container.redis_gate,
    )
    billing.catalog()
    billing.wallet("alice", tokens=100)
    billing.wallet("bob", tokens=50)
    container.loader.load(["alice", "bob"], container.catalog.epoch)
    return billing


@pytest.fixture
def run(shop: Billing, app: Flask) -> Run:
    runner = app.test_cli_runner()
    return lambda *arguments: runner.invoke(cli, ("reconcile", *arguments))


def break_ledger(shop: Billing) -> None:
    """A quarter of a token that no entry accounts for."""
    with shop.container.engine.begin() as connection:
        connection.execute(sa.text("UPDATE wallets SET posted_micros = posted_micros - 250000 WHERE user_id = 'bob'"))
    shop.container.redis_client.flushall()


def break_cache(shop: Billing) -> None:
    shop.container.redis_client.hincrby(wallet_keys("alice")[0], "available", 2_500_000)


def reconciled(admin: Admin, shop: Billing, **body: bool) -> dict[str, Any]:
    """What an operator gets who asks for one, once a worker has run it."""
    asked = admin.post("/reconciliations", body)
    number = data(asked, 202)["id"]
    assert asked.headers["Location"] == f"{PREFIX}/reconciliations/{number}"
    shop.container.reconciliation.run_requested()
    return data(admin.get(f"/reconciliations/{number}"))


class TestApi:
    def test_nothing_is_wrong(self, admin: Admin, shop: Billing) -> None:
        done = reconciled(admin, shop)
        for name in ("requested_at", "started_at", "finished_at"):
            assert done.pop(name).endswith("Z")
        assert done == {
            "id": 1,
            "state": "done",
            "full": False,
            "checked": 2,
            "cache_checked": True,
            "drifted_count": 0,
            "repaired": 0,
            "drifted": [],
        }

    def test_waits_for_a_worker(self, admin: Admin, shop: Billing) -> None:
        asked = data(admin.post("/reconciliations", {"full": True}), 202)
        assert (asked["state"], asked["full"], asked["checked"]) == ("requested", True, 0)
        assert (asked["started_at"], asked["finished_at"]) == (None, None)
        assert data(admin.get(f"/reconciliations/{asked['id']}")) == asked
        failure(admin.post("/reconciliations", {}), 409, "already_exists")

    def test_drifts_with_their_amounts(self, admin: Admin, shop: Billing) -> None:
        break_ledger(shop)
        shop.container.loader.load(["alice"], shop.container.catalog.epoch)
        break_cache(shop)
        done = reconciled(admin, shop)
        assert (done["checked"], done["drifted_count"], done["repaired"]) == (2, 2, 1)
        assert done["drifted"] == [
            {
                "user_id": "bob",
                "kind": "ledger_sum",
                "expected_token": 50,
                "found_token": Decimal("49.75"),
                "difference_token": Decimal("-0.25"),
                "repaired": False,
                "detail": "the posted balance is not the sum of the ledger",
            },
            {
                "user_id": "alice",
                "kind": "cache",
                "expected_token": 100,
                "found_token": Decimal("102.5"),
                "difference_token": Decimal("2.5"),
                "repaired": True,
                "detail": "available is 2.5 off its own sum (totals counted anew)",
            },
        ]
        assert shop.cached_spendable_micros("alice") == 100_000_000
        assert shop.balance("bob").posted_micros == 49_750_000

    def test_needs_no_body(self, client: FlaskClient, admin_headers: dict[str, str], shop: Billing) -> None:
        data(client.post(f"{PREFIX}/reconciliations", headers=admin_headers), 202)

    @pytest.mark.parametrize("full", ["yes", 1, None])
    def test_bad_body(self, admin: Admin, full: object) -> None:
        assert_invalid(admin.post("/reconciliations", {"full": full}), "full")

    def test_one_at_a_time(self, admin: Admin, shop: Billing) -> None:
        with shop.container.engine.begin() as connection:
            assert store.begin(connection, is_full=False)
        failure(admin.post("/reconciliations", {}), 409, "already_exists")

    @pytest.mark.parametrize("number", ["1", "x", "-1", "9223372036854775808"])
    def test_unknown(self, admin: Admin, number: str) -> None:
        failure(admin.get(f"/reconciliations/{number}"), 404, "not_found")


class TestCommand:
    def test_money_adds_up(self, run: Run) -> None:
        result = run()
        assert (result.exit_code, result.stderr) == (0, "Money adds up.\n")
        assert "checked        2\n" in result.stdout

    def test_repaired_is_right(self, run: Run, shop: Billing) -> None:
        break_cache(shop)
        result = run("--json")
        assert (result.exit_code, result.stderr) == (
            0,
            "Money adds up. 1 copy had drifted and was repaired.\n",
        )
        assert simplejson.loads(result.stdout)["repaired"] == 1
        assert run().stderr == "Money adds up.\n"

    def test_money_does_not_add_up(self, run: Run, shop: Billing) -> None:
        break_ledger(shop)
        for _ in range(2):
            result = run()
            assert (result.exit_code, result.stderr) == (1, "Money does not add up: 1 difference is left.\n")
            assert "bob      ledger_sum  50              49.75        -0.25" in result.stdout

    def test_without_redis(self, run: Run, shop: Billing) -> None:
        shop.container.redis_gate.close(ConnectionError("test"))
        result = run()
        assert (result.exit_code, result.stderr) == (
            0,
            "Money adds up. Redis is away: the cache was not checked.\n",
        )
        break_ledger(shop)
        assert run().exit_code == 1

    def test_while_one_is_running(self, run: Run, shop: Billing) -> None:
        with shop.container.engine.begin() as connection:
            assert store.begin(connection, is_full=False)
        result = run()
        assert (result.exit_code, result.stderr) == (1, "Error: A reconciliation is running already\n")

    def test_as_a_process(self, environment: dict[str, str], shop: Billing) -> None:
        def call() -> Any:
            return subprocess.run(
                [sys.executable, "-m", "flask", "reconcile"],
                cwd=PROJECT,
                env={"PATH": os.environ["PATH"], **environment},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        assert call().returncode == 0
        break_ledger(shop)
        assert call().returncode == 1


def test_the_tasks(environment: dict[str, str], shop: Billing) -> None:
    # In a process of its own: the worker's application reads the environment when it is imported.
    script = """
import worker.tasks.reconcile as tasks
from worker.celery_app import celery, config, container
schedule = celery.conf.beat_schedule
assert schedule["reconcile"]["schedule"] == config.reconcile_seconds == 45
assert schedule["run-requested-reconciliation"]["task"] == tasks.run_requested_reconciliation.name
tasks.run_requested_reconciliation()
tasks.reconcile()
"""

    def call() -> None:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], **environment, "RECONCILE_SECONDS": "45"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    service = shop.container.reconciliation
    service.request(is_full=True)
    call()
    assert [(service.get(number).state, service.get(number).is_full) for number in (1, 2)] == [
        ("done", True),
        ("done", False),
    ]
    with shop.container.engine.begin() as connection:
        assert store.begin(connection, is_full=False)
    call()
    with shop.container.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM reconciliations")).scalar_one() == 3
