"""`python -m benchmarks.reports`: reports and exports on a ledger of ten million entries, in a database of their own.

The ledger is of one month: wallets that each run two models of one feature all the time. It is made past the triggers
and the roll-ups with it, as the migration makes them; what is measured then is what operators and workers do.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from uuid_utils.compat import uuid7

from app import logs
from app.bootstrap import Container
from app.config import Config
from app.domain.reports import Entries, EntryKind, Group, Usage, day, midnight
from app.stores.postgres import rollups
from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.exports.columns import Style
from app.wire.tables import parquet
from benchmarks import report
from stack.embedded import PostgresServer, ValkeyServer

WALLETS = 20_000
ENTRIES_PER_FILL = 500_000
MONTH = (day("2024-11-01"), day("2024-12-01"))
PROJECT = Path(__file__).parent.parent
COST_MICROS = 11_000_000
BATCH = 1_000
BATCHES = 10

# Entry n belongs to wallet n % WALLETS. Ids rise with time, and each wallet's chain of balances is complete.
_FILL = sa.text("""
    INSERT INTO token_transactions (
        wallet_id, user_id, kind, amount_micros, balance_after_micros, base_cost_micros, profit_micros, cost_micros,
        input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, requests,
        model, feature_endpoint_id, profit_rule_id, end_id, reference, accepted_at, created_at
    )
    SELECT w, w, 'usage', -:cost, :opening - :cost * (n / :wallets + 1), :cost - 1000000, 1000000, :cost,
        120, 40, 0, 0, 0, 1,
        'model-' || ((n + n / :wallets) % 2 + 2 * (n % 3)), 'feature-' || (n % 3), 1,
        CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0') || '7' || substr(md5(CAST(n AS text)),
            1, 3) || '8' || substr(md5(CAST(n AS text)), 4, 15) AS uuid),
        'key-' || md5(CAST(n AS text)), at, at
    FROM (
        SELECT n, 'wallet-' || (n % :wallets) AS w,
            CAST(:first AS timestamptz) + (CAST(:last AS timestamptz) - CAST(:first AS timestamptz)) * n / :rows AS at
        FROM generate_series(CAST(:begin AS bigint), CAST(:end AS bigint)) AS n
    ) AS numbered
""")


@dataclass
class Findings:
    rows: int
    rolled_up: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    memory_mb: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        done = work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - begun)
        return done


def main(rows: int, rounds: int) -> str:
    """Fill a database, measure, and remove everything. Returns the report."""
    logs.configure("ERROR")
    header = report.machine_line()
    with (
        tempfile.TemporaryDirectory(prefix="tokentill-reports-") as folder,
        PostgresServer(Path(folder, "postgres"), settings={"max_wal_size": "4GB"}) as postgres,
        ValkeyServer(Path(folder, "redis")) as redis,
    ):
        Path(folder).chmod(0o711)
        container = container_on(postgres.url, redis.url)
        try:
            found = Findings(rows)
            _settle_rounds(container, found, "settling 1,000 ends, empty ledger", rounds)
            fill(container, rows)
            found.rolled_up = roll_up(container)
            _settle_rounds(container, found, f"settling 1,000 ends, {rows:,} entries", rounds)
            with container.engine.begin() as connection:
                connection.execute(sa.text("DROP TRIGGER token_transactions_roll_up ON token_transactions"))
            _settle_rounds(container, found, f"settling 1,000 ends, {rows:,} entries, no roll-ups", rounds)
            for _ in range(rounds):
                _reports(container, found)
            _exports(container, found)
            _sizes(container, found)
            _archive(container, found, Path(folder))
        finally:
            container.close()
    return _report(header, found)


def container_on(database_url: str, redis_url: str) -> Container:
    settings = {
        "TOKENTILL_MODE": "local",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SERVER_API_KEY": "dev-server-key",
        "ADMIN_API_KEY": "dev-admin-key",
        "DATABASE_TIMEOUT_MS": "60000",
        "LOG_LEVEL": "ERROR",
    }
    with mock.patch.dict(os.environ, settings):
        command.upgrade(AlembicConfig(str(PROJECT / "alembic.ini")), "head")
    return Container(Config.from_environment(settings))


def fill(container: Container, rows: int) -> None:
    opening = COST_MICROS * (rows // WALLETS + 10_000)
    with container.engine.begin() as connection:
        allow_seconds(connection, None)
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        # Ids have to rise with time, but entries settled before have the present time: remove them.
        connection.execute(sa.text("TRUNCATE token_transactions, usage_daily"))
        connection.execute(
            sa.text("""
                INSERT INTO wallets (wallet_id, user_id, posted_micros)
                SELECT 'wallet-' || n, 'wallet-' || n, :posted FROM generate_series(0, :last) AS n
                ON CONFLICT DO NOTHING
            """),
            {"last": WALLETS - 1, "posted": opening - COST_MICROS * (rows // WALLETS)},
        )
        connection.execute(
            sa.text("""
                INSERT INTO token_transactions (
                    wallet_id, user_id, kind, amount_micros, balance_after_micros, reference, created_at
                )
                SELECT wallet_id, user_id, 'top_up', :opening, :opening, 'opening', :first FROM wallets
                WHERE wallet_id LIKE 'wallet-%'
            """),
            {"opening": opening, "first": MONTH[0].isoformat()},
        )
    for begin in range(0, rows, ENTRIES_PER_FILL):
        with container.engine.begin() as connection:
            allow_seconds(connection, None)
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            connection.execute(
                _FILL,
                {
                    "begin": begin,
                    "end": min(rows, begin + ENTRIES_PER_FILL) - 1,
                    "wallets": WALLETS,
                    "cost": COST_MICROS,
                    "opening": opening,
                    "rows": rows,
                    "first": MONTH[0].isoformat(),
                    "last": MONTH[1].isoformat(),
                },
            )
    # In reality, all but the last pages of such a long ledger would have been vacuumed.
    with vacuuming(container) as connection:
        connection.execute("VACUUM ANALYZE token_transactions")


def vacuuming(container: Container) -> psycopg.Connection:
    """A connection without timeouts."""
    url = sa.make_url(container.config.database_url).set(drivername="postgresql")
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


def roll_up(container: Container) -> int:
    first, last = MONTH
    with container.engine.begin() as connection:
        allow_seconds(connection, None)
        for number in range((last - first).days):
            rollups.rebuild_day(connection, first + timedelta(days=number))
        rolled_up = int(connection.execute(sa.text("SELECT count(*) FROM usage_daily")).scalar_one())
    with vacuuming(container) as connection:
        connection.execute("VACUUM ANALYZE usage_daily")
    return rolled_up


def _settle_rounds(container: Container, found: Findings, name: str, rounds: int) -> None:
    """Settle waiting ends from the inbox, 1,000 at a time. The ends of a batch belong to 200 wallets."""
    for _ in range(rounds):
        batches = [_take_in(container) for _ in range(BATCHES)]
        begun = time.perf_counter()
        for ids in batches:
            container.settlement.settle(ids)
        found.rates.setdefault(name, []).append(BATCH * BATCHES / (time.perf_counter() - begun))


def _take_in(container: Container) -> list[UUID]:
    ids = [uuid7() for _ in range(BATCH)]
    with container.engine.begin() as connection:
        connection.execute(
            sa.text("""
                INSERT INTO wallets (wallet_id, user_id, posted_micros)
                SELECT 'settled-' || n, 'settled-' || n, 0 FROM generate_series(0, 199) AS n ON CONFLICT DO NOTHING
            """)
        )
        connection.execute(sa.text("UPDATE wallets SET posted_micros = 1000000000000 WHERE wallet_id LIKE 'settled-%'"))
        connection.execute(
            sa.text("""
                INSERT INTO end_inbox (id, wallet_id, user_id, feature_endpoint_id, model, input_tokens, output_tokens,
                    base_cost_micros, profit_micros, cost_micros, state)
                SELECT id, 'settled-' || (n % 200), 'settled-' || (n % 200), 'feature-1', 'model-1', 120, 40,
                    10000000, 1000000, 11000000, 'accepted'
                FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS given (id, n)
            """),
            {"ids": ids},
        )
    return ids


def _reports(container: Container, found: Findings) -> None:
    since, until = MONTH
    service = container.reports

    def usage(*groups: Group, **filters: Any) -> Callable[[], Any]:
        return lambda: service.usage(Usage(since, until, groups, **filters), 50)

    cases: dict[str, Callable[[], Any]] = {
        "a month by model": usage(Group.MODEL),
        "a month by day": usage(Group.DAY),
        "a month by feature, model and price": usage(Group.FEATURE, Group.MODEL, Group.PRICE),
        "a month by user, first page": usage(Group.USER),
        "one user's month by model": usage(Group.MODEL, user_id="wallet-7"),
        "totals": service.totals,
        "50 entries of a day in the middle": lambda: service.transactions(Entries(_moment(10), _moment(11)), 50),
        "50 top-ups of all wallets": lambda: service.transactions(Entries(kind=EntryKind.TOP_UP), 50),
        "a day's roll-ups held to the ledger": lambda: container.postgres.transaction(
            partial(rollups.wrong, day=since + timedelta(days=14), limit=10, seconds=100)
        ),
    }
    for name, work in cases.items():
        found.time(name, work)


def _exports(container: Container, found: Findings) -> None:
    for name, style in (("the ledger as CSV", Style.SHEET), ("the ledger as Parquet", Style.EXACT)):
        before = _memory_mb()
        export = container.exports.transactions(Entries(until=_moment(30)), style)
        begun = time.perf_counter()
        blocks = export.blocks if style is Style.SHEET else parquet(export.columns, export.blocks)
        size = sum(map(len, blocks))
        found.rates.setdefault(name, []).append(found.rows / (time.perf_counter() - begun))
        found.memory_mb.setdefault(name, []).append(_memory_mb() - before)
        found.sizes[name] = size


def _archive(container: Container, found: Findings, folder: Path) -> None:
    """Archive the month as CSV, then vacuum the space that it has left in the table."""
    begun = time.perf_counter()
    [done] = container.archives.archive(MONTH[1], folder, lambda export: export.blocks, "csv")
    found.rates["archiving a month: written, sealed and removed"] = [done.entries / (time.perf_counter() - begun)]
    begun = time.perf_counter()
    with vacuuming(container) as connection:
        connection.execute("VACUUM token_transactions")
    found.seconds["VACUUM of the ledger after that"] = [time.perf_counter() - begun]


def _moment(days: int) -> datetime:
    return midnight(MONTH[0] + timedelta(days=days))


def _memory_mb() -> float:
    """The peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _sizes(container: Container, found: Findings) -> None:
    with container.engine.connect() as connection:
        for name, size in connection.execute(
            sa.text("""
                SELECT relname, pg_relation_size(oid) FROM pg_class
                WHERE relname LIKE 'token_transactions%' OR relname LIKE 'usage_daily%'
                ORDER BY relname
            """)
        ):
            found.sizes[name] = size


def _report(header: str, found: Findings) -> str:
    tables = {name: size for name, size in found.sizes.items() if "_" in name}
    return "\n\n".join(
        [
            "# Reports and exports, measured",
            header,
            f"{found.rows:,} ledger entries of one month and {WALLETS:,} wallets, {found.rolled_up:,} roll-ups. Median "
            "(lowest-highest).",
            "## Reports",
            report.table(
                ["report", "seconds"], [[name, report.spread(seconds)] for name, seconds in found.seconds.items()]
            ),
            "## Exports and settlement",
            report.table(
                ["what", "a second", "MB of memory more", "MB written"],
                [
                    [
                        name,
                        report.spread(rates),
                        f"{max(found.memory_mb[name]):.0f}" if name in found.memory_mb else "-",
                        f"{found.sizes[name] / 1e6:,.0f}" if name in found.memory_mb else "-",
                    ]
                    for name, rates in found.rates.items()
                ],
            ),
            "## Sizes",
            report.table(["table or index", "MB"], [[name, f"{size / 1e6:,.0f}"] for name, size in tables.items()]),
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reports", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="entries of the ledger (10,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    parser.add_argument("--save", action="store_true", help="also write the report to benchmarks/results/reports.md")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = _arguments()
    text = main(arguments.rows, arguments.rounds)
    print(text)
    if arguments.save:
        (PROJECT / "benchmarks/results/reports.md").write_text(text + "\n")
