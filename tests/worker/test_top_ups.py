"""Top-ups of many wallets through a real worker and beat, whatever is killed and whatever clocks say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.bootstrap import Container
from app.config import Config
from app.domain.errors import Unavailable
from app.domain.top_ups import Calendar, Period, Rhythm, Target, TopUpAmount, TopUpMode
from app.stores.postgres.top_up_schedules import NewSchedule
from app.stores.postgres.top_ups import NewBatch
from stack.embedded import PostgresServer, ValkeyServer
from tests import processes
from tests.conftest import PROJECT
from tests.support import PACKAGE, Billing, assert_conserved

pytestmark = pytest.mark.long

TOKEN = 1_000_000
WALLETS = 300


class Stack:
    """Servers, a worker and a beat of a test's own, to be killed."""

    def __init__(self, environment: dict[str, str], folder: Path, made: ExitStack) -> None:
        self.postgres = made.enter_context(PostgresServer(folder / "postgres", port=processes.free_port()))
        self.redis = made.enter_context(ValkeyServer(folder / "redis", port=processes.free_port()))
        self.environment = {**environment, "DATABASE_URL": self.postgres.url, "REDIS_URL": self.redis.url}
        self._folder, self._made = folder, made
        self._migrate()
        container = Container(Config.from_environment(self.environment), is_watched=True)
        made.callback(container.close)
        self.billing = Billing(container)

    def worker(self) -> processes.Running:
        return self._made.enter_context(processes.worker(self.environment, self._folder))

    def beat(self) -> processes.Running:
        return self._made.enter_context(processes.beat(self.environment, self._folder))

    def _migrate(self) -> None:
        environment = {**os.environ, **self.environment}
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True)


@pytest.fixture
def own_stack(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as made:
        yield Stack(environment, tmp_path, made)


def topped_up(billing: Billing, number: int) -> int:
    """How many wallets were topped up; -1 while no store tells."""
    container = billing.container
    try:
        if not container.postgres_gate.is_open:
            container.watcher.look_at_postgres()
        return container.top_ups.get(number).results.topped_up
    except Unavailable:
        return -1


def test_everything_is_killed_in_the_middle_and_each_wallet_gets_it_once(own_stack: Stack) -> None:
    billing = own_stack.billing
    billing.catalog()
    names = [f"user-{i}" for i in range(WALLETS)]
    billing.execute_in_postgres(f"""
        INSERT INTO wallets (wallet_id, user_id, package_id)
        SELECT 'user-' || i, 'user-' || i, '{PACKAGE}' FROM generate_series(0, {WALLETS - 1}) AS i
    """)
    worker = own_stack.worker()
    beat = own_stack.beat()
    gift = NewBatch("gift", Target(package_id=PACKAGE), TopUpAmount(TopUpMode.ADD, 5 * TOKEN), "Gift")
    number = billing.container.top_ups.create(gift, is_applied=True).batch.id

    def gets_on(by: int) -> int:
        before = max(topped_up(billing, number), 0)
        wanted = min(before + by, WALLETS)
        processes.wait_until(lambda: topped_up(billing, number) >= wanted, seconds=150, what="wallets", log=worker.log)
        return topped_up(billing, number)

    gets_on(1)
    for dying in (worker, beat, own_stack.redis, own_stack.postgres):
        dying.kill()
    own_stack.postgres.start()
    assert 0 < topped_up(billing, number) < WALLETS
    own_stack.redis.start()
    worker = own_stack.worker()
    own_stack.beat()
    gets_on(WALLETS)

    def is_done() -> bool:
        return billing.container.top_ups.get(number).batch.finished_at is not None

    processes.wait_until(is_done, what="the end", log=worker.log)
    with billing.container.engine.connect() as connection:
        entries = connection.execute(sa.text("SELECT wallet_id, amount_micros FROM token_transactions"))
        assert sorted(map(tuple, entries)) == sorted((name, 5 * TOKEN) for name in names)
    assert_conserved(billing, *names[:20])


def test_clocks_that_are_days_off_make_nothing_due_and_delay_nothing(
    billing: Billing, environment: dict[str, str], tmp_path: Path
) -> None:
    billing.catalog()
    for user_id in ("today", "tomorrow"):
        billing.wallet(user_id, tokens=0)
    schedules = billing.container.top_up_schedules
    with billing.container.engine.connect() as connection:
        today = connection.execute(sa.text("SELECT CAST(now() AT TIME ZONE 'UTC' AS date)")).scalar_one()
    for user_id, days in (("today", 0), ("tomorrow", 1)):
        amount = TopUpAmount(TopUpMode.ADD, TOKEN)
        rhythm = Rhythm(Calendar(Period.DAILY))
        starts_on = today + timedelta(days=days)
        schedules.create(NewSchedule(user_id, Target(user_id=user_id), amount, rhythm, starts_on, "Allowance"))
    off_seconds = 3 * 86_400
    with (
        processes.worker(environment, tmp_path, clock_seconds=off_seconds) as worker,
        processes.beat(environment, tmp_path, clock_seconds=-off_seconds),
    ):
        processes.wait_until(lambda: billing.balance("today").posted_micros > 0, what="today's", log=worker.log)
    assert [schedules.get(number).schedule.next_on for number in (1, 2)] == [today + timedelta(days=1)] * 2
    assert (billing.balance("today").posted_micros, billing.balance("tomorrow").posted_micros) == (TOKEN, 0)
