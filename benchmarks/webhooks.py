"""`python -m benchmarks.webhooks`: what webhook events cost settlement, in a database of their own.

Rounds take turns, so that the machine's moods meet all of them: without the triggers that write events, with them and
nothing set up, and with an endpoint for all events and a warning for every wallet. Ratios of rates differ by more than
the triggers take on a machine that does other work; so what they take is asked of Postgres, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from uuid import UUID

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from uuid_utils.compat import uuid7

from app import logs
from app.bootstrap import Container
from app.config import Config
from benchmarks import report
from stack.embedded import PostgresServer, ValkeyServer
from stack.procfile import ROOT

WALLETS = 20_000
WALLETS_PER_BATCH = 200
BATCHES = 5
TRIGGERS = {
    "wallets": "wallets_watched",
    "end_inbox": "end_inbox_dead_letters",
    "token_transactions": "token_transactions_top_ups",
}
BEFORE, IDLE, WARNING, FIRING = (
    "without triggers",
    "triggers, nothing set up",
    "an endpoint, and a warning for every wallet",
    "the same, and a warning for each wallet in each batch",
)
_PLENTY_MICROS = 10**12

_TAKE_IN = sa.text("""
    INSERT INTO end_inbox (id, wallet_id, user_id, feature_endpoint_id, model, input_tokens, output_tokens,
        base_cost_micros, profit_micros, cost_micros, state)
    SELECT id, 'wallet-' || (:first + n % :wallets), 'wallet-' || (:first + n % :wallets), 'feature-1', 'model-1',
        120, 40, 10000000, 1000000, 11000000, 'accepted'
    FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS given (id, n)
""")


def main(rounds: int, batch: int) -> str:
    """Fill a database, measure, and remove everything. Returns the report."""
    logs.configure("ERROR")
    header = report.machine_line()
    with _container() as container:
        _fill(container)
        rates: dict[str, list[float]] = {name: [] for name in (BEFORE, IDLE, WARNING, FIRING)}
        shares: dict[str, list[float]] = {name: [] for name in rates}
        for number in range(rounds):
            # Rotate the order, so that each is measured first in turn.
            names = list(rates)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                _set_up(container, name)
                before = _seconds_in_triggers(container)
                rates[name].append(_settle(container, batch, number))
                spent = _seconds_in_triggers(container) - before
                shares[name].append(spent / (batch * BATCHES / rates[name][-1]))
    return _report(header, rates, shares, batch)


@contextmanager
def _container() -> Iterator[Container]:
    with (
        tempfile.TemporaryDirectory(prefix="tokentill-webhooks-") as folder,
        PostgresServer(Path(folder, "postgres"), settings={"max_wal_size": "4GB", "track_functions": "pl"}) as postgres,
        ValkeyServer(Path(folder, "redis")) as redis,
    ):
        settings = {
            "TOKENTILL_MODE": "local",
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "SERVER_API_KEY": "dev-server-key",
            "ADMIN_API_KEY": "dev-admin-key",
            "LOG_LEVEL": "ERROR",
        }
        with mock.patch.dict(os.environ, settings):
            command.upgrade(AlembicConfig(str(ROOT / "alembic.ini")), "head")
        container = Container(Config.from_environment(settings))
        try:
            yield container
        finally:
            container.close()


def _fill(container: Container) -> None:
    _execute(
        container,
        "INSERT INTO packages (id, name) VALUES ('package-1', 'Basic')",
        """
        INSERT INTO wallets (wallet_id, user_id, package_id, posted_micros)
        SELECT 'wallet-' || n, 'wallet-' || n, 'package-1', :plenty FROM generate_series(0, :last) AS n
        """,
        "INSERT INTO wallet_watches (wallet_id, full_micros) SELECT wallet_id, :plenty FROM wallets",
        plenty=_PLENTY_MICROS,
        last=WALLETS - 1,
    )


def _set_up(container: Container, name: str) -> None:
    switch = "DISABLE" if name == BEFORE else "ENABLE"
    _execute(
        container,
        "TRUNCATE webhook_endpoints, webhook_secrets, webhook_events, webhook_deliveries, low_balance_rules",
        "UPDATE wallet_watches SET low_since = NULL WHERE low_since IS NOT NULL",
        "UPDATE wallets SET posted_micros = :plenty WHERE posted_micros <> :plenty",
        *(f"ALTER TABLE {table} {switch} TRIGGER {trigger}" for table, trigger in TRIGGERS.items()),
        plenty=_PLENTY_MICROS,
    )
    if name in (WARNING, FIRING):
        _execute(
            container,
            "INSERT INTO webhook_endpoints (url) VALUES ('https://receiver.example/')",
            "INSERT INTO low_balance_rules (wallet_id, below_micros) SELECT wallet_id, :below FROM wallets",
            below=10_000_000 if name == WARNING else 2 * _PLENTY_MICROS,
        )
    with container.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("VACUUM ANALYZE"))


def _settle(container: Container, batch: int, number: int) -> float:
    """Settle batches of ends, each of other wallets. Returns the ends per second."""
    batches = [_take_in(container, batch, number * BATCHES + i) for i in range(BATCHES)]
    begun = time.perf_counter()
    for ids in batches:
        container.settlement.settle(ids)
    return batch * BATCHES / (time.perf_counter() - begun)


def _take_in(container: Container, batch: int, number: int) -> list[UUID]:
    ids = [uuid7() for _ in range(batch)]
    first = number * WALLETS_PER_BATCH % WALLETS
    with container.engine.begin() as connection:
        connection.execute(_TAKE_IN, {"ids": ids, "first": first, "wallets": WALLETS_PER_BATCH})
    return ids


def _seconds_in_triggers(container: Container) -> float:
    """The total time of the trigger functions so far, including functions that they call."""
    # Sessions report their statistics up to a second later.
    time.sleep(1.1)
    with container.engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_stat_clear_snapshot()"))
        found = connection.execute(
            sa.text("""
                SELECT coalesce(sum(total_time), 0) / 1000 FROM pg_stat_user_functions
                WHERE funcname IN ('watch_wallets', 'tell_dead_letter', 'tell_top_up')
            """)
        )
        return float(found.scalar_one())


def _execute(container: Container, *statements: str, **values: int) -> None:
    with container.engine.begin() as connection:
        for statement in statements:
            given = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(sa.text(statement), given)


def _report(header: str, rates: dict[str, list[float]], shares: dict[str, list[float]], batch: int) -> str:
    rows = []
    for name, found in rates.items():
        ratios = [mine / before for mine, before in zip(found, rates[BEFORE], strict=True)]
        share = f"{100 * statistics.median(shares[name]):.2f} %"
        rows.append([name, report.spread(found), f"{statistics.median(ratios):.3f}", share])
    return "\n\n".join(
        [
            "# Webhook events, measured",
            header,
            f"Settling {batch:,} ends of {min(batch, WALLETS_PER_BATCH)} wallets at a time, of {WALLETS:,} wallets; "
            "median (lowest-highest), the median of each round's ratio to the one without triggers, and of the share "
            "of time that Postgres spent in them.",
            report.table(["what is set up", "ends a second", "ratio", "of the time, in triggers"], rows),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhooks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="how often everything is measured (12)")
    parser.add_argument("--batch", type=int, default=1_000, help="ends in one transaction (1,000)")
    arguments = parser.parse_args()
    print(main(arguments.rounds, arguments.batch))
