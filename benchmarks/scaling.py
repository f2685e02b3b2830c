"""`python -m benchmarks.scaling`: what an end costs as the data grow, and how one wallet's many debts are collected.

Every figure is processor time, of Postgres by its own processes and of ours, and the wall clock beside it: time waits
for whatever else the machine does, work doesn't. Data are made by `generate_series` in a database of their own that
goes with the run. At full size (10^6 wallets, 10^7 ledger rows, a backlog of 10^6) it takes about ten minutes and 8 GB
of disk; `--size 0.1` has a tenth of everything.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from uuid import UUID

import sqlalchemy as sa

from app.bootstrap import Container
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.ends import EndRequest
from app.domain.usage import Usage
from app.domain.wallets import WalletId
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.engine import allow_seconds
from app.stores.queue import CeleryDoorbell
from benchmarks import report
from benchmarks.machine import FEATURE, PACKAGE, USERS, Machine, machine
from benchmarks.table import take_in
from stack.processes import until

ENDS_PER_PROBE = 5_000
SETTLED_PER_CALL = 1_000
PROBES = 3
WALLETS = (1_000, 10_000, 100_000, 1_000_000)
LEDGER_ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
BACKLOGS = (1_000, 10_000, 100_000, 1_000_000)
PROCESSES = (1, 2, 4)
DEBTS = 200_000
COLLECT_SECONDS_MAX = 240.0

_WALLETS = sa.text("""
    INSERT INTO wallets (wallet_id, user_id, package_id, posted_micros)
    SELECT 'scale-' || n, 'scale-' || n, :package, :micros
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
""")
_LEDGER = sa.text("""
    INSERT INTO token_transactions (
        wallet_id, user_id, kind, amount_micros, balance_after_micros, base_cost_micros, profit_micros, cost_micros,
        input_tokens, output_tokens, model, feature_endpoint_id, end_id, reference, accepted_at
    )
    SELECT users[1 + n % cardinality(users)], users[1 + n % cardinality(users)], 'usage', -11000000, 0, 10000000,
        1000000, 11000000, 120, 40, 'model-1', :feature, gen_random_uuid(), 'scale-' || n, now()
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n,
        (SELECT CAST(:users AS text[]) AS users) AS given
""")
_BACKLOG = sa.text("""
    INSERT INTO end_inbox (
        id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens, base_cost_micros, profit_micros,
        cost_micros, state, accepted_at
    )
    SELECT CAST(lpad(to_hex(CAST(1e12 AS bigint) + n), 12, '0') || '7' || substr(md5(n::text), 1, 19) AS uuid),
        users[1 + n % cardinality(users)], users[1 + n % cardinality(users)], :feature, 120, 40, 10000000, 1000000,
        11000000, 'accepted', now() - interval '1 hour'
    FROM generate_series(1, CAST(:ends AS bigint)) AS n, (SELECT CAST(:users AS text[]) AS users) AS given
""")
_DEBTS = sa.text("""
    INSERT INTO end_inbox (
        id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens, base_cost_micros, profit_micros,
        cost_micros, state, attempts, last_error, is_debt
    )
    SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid), :wallet, :wallet, :feature, 1, 4, 1000000, 0, 1000000, 'retrying', 1,
        'insufficient_tokens', true
    FROM generate_series(1, CAST(:debts AS bigint)) AS n
""")


@dataclass(frozen=True)
class Cost:
    """The cost of each end in microseconds: Postgres's and Tokentill's processor time, and the wall clock."""

    postgres_us: float
    own_us: float
    wall_us: float

    def cells(self) -> list[str]:
        return [f"{self.postgres_us:.1f}", f"{self.own_us:.1f}", f"{self.wall_us:.0f}"]


COST_HEADS = ["Postgres CPU us", "own CPU us", "wall us"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="share of the full size (1)")
    parser.add_argument("--only", choices=["data", "backlog", "processes", "debts"], action="append")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of processes (3)")
    arguments = parser.parse_args()
    parts = arguments.only or ["data", "backlog", "processes", "debts"]
    print(report.machine_line(), flush=True)
    sizes = [part for part in parts if part != "processes"]
    if sizes:
        with machine() as own:
            for part in sizes:
                MEASURES[part](own, arguments.size)
    if "processes" in parts:
        with machine() as own:
            processes(own, arguments.seconds)


def data(own: Machine, size: float) -> None:
    """Measure intake and settlement while the number of wallets, and then of ledger rows, grows."""
    for title, counts, grow in (
        ("wallets", WALLETS, _grow_wallets),
        ("ledger rows", LEDGER_ROWS, _grow_ledger),
    ):
        rows = []
        before = 0
        for count in (round(count * size) for count in counts):
            grow(own, before, count)
            before = count
            _analyze(own)
            users = _some_wallets(count) if title == "wallets" else [WalletId(user) for user in USERS]
            own.container.loader.load(users, own.container.catalog.epoch)
            intake, settled = zip(*(_probe(own, users) for _ in range(PROBES)), strict=True)
            print(
                f"{title} {count:,}: intake {_middle(intake)}, settling {_middle(settled)}", file=sys.stderr, flush=True
            )
            rows.append([f"{count:,}", *_middle(intake).cells(), *_middle(settled).cells(), _look(own, users)])
        heads = [f"intake: {head}" for head in COST_HEADS] + [f"settling: {head}" for head in COST_HEADS]
        _show(f"an end, by {title}", [title, *heads, "load a wallet ms"], rows)


def backlog(own: Machine, size: float) -> None:
    """Measure the sweep over a backlog of ends whose messages were lost."""
    rows = []
    for count in (round(count * size) for count in BACKLOGS):
        with own.container.engine.begin() as connection:
            allow_seconds(connection, None)
            connection.execute(_BACKLOG, {"ends": count, "feature": FEATURE, "users": USERS})
        _analyze(own)
        cost = _measured(own, count, lambda: own.container.settlement.sweep(older_than_seconds=0))
        print(f"backlog {count:,}: {cost}", file=sys.stderr, flush=True)
        rows.append([f"{count:,}", *cost.cells()])
        if own.unsettled():
            own.warnings.append(f"{own.unsettled()} ends were left")
    _show("settling an end, by backlog", ["backlog", *COST_HEADS], rows)


def processes(own: Machine, seconds: float) -> None:
    """Measure ends per second by number of web and worker processes, from the first request to the last settlement."""
    rows = []
    for count in PROCESSES:
        with own.worker(count):
            web = own.web(f"web-{count}", workers=count)
            run = own.measure(web, "end", clients=32, seconds=seconds)
            before = time.monotonic()
            until(lambda: not own.unsettled(), 30)
            rest_seconds = time.monotonic() - before
            rows.append(
                [
                    str(count),
                    f"{run.load.requests_total / seconds:,.0f}",
                    f"{run.load.p99_ms:.0f}",
                    f"{rest_seconds:.2f}",
                    f"{run.server_cpu_us:.0f}",
                ]
            )
    heads = ["web and worker processes", "ends/s answered", "p99 ms", "settled after the last answer s", "web CPU us"]
    _show("single ends, by processes (all on this machine's cores)", heads, rows)


def debts(own: Machine, size: float) -> None:
    """Measure a top-up that covers all of a wallet's many debts, while another wallet's ends are settled."""
    count = round(DEBTS * size)
    with own.container.engine.begin() as connection:
        allow_seconds(connection, None)
        connection.execute(
            sa.text("""
                INSERT INTO wallets (wallet_id, user_id, package_id, posted_micros, debt_micros, collect_at)
                VALUES ('deep', 'deep', :package, :micros, :micros, now() + interval '1 hour')
            """),
            {"package": PACKAGE, "micros": count * MICROS_PER_TOKEN},
        )
        connection.execute(_DEBTS, {"wallet": "deep", "feature": FEATURE, "debts": count})
    _analyze(own)
    lags: list[float] = []
    doorbell = CeleryDoorbell(own.container.celery, own.container.redis_client)
    with own.worker(2), _neighbour(own, doorbell, lags):
        begun = time.monotonic()
        doorbell.collect([IndebtedWallet(WalletId("deep"), count * MICROS_PER_TOKEN)])
        until(lambda: _debts_left(own) == 0, COLLECT_SECONDS_MAX)
        seconds = time.monotonic() - begun
    lags.sort()
    rows = [
        [
            f"{count:,}",
            f"{seconds:.1f}",
            f"{median(lags):.2f}",
            f"{report.percentile(lags, 0.99):.2f}",
            f"{lags[-1]:.2f}",
        ]
    ]
    left = _debts_left(own)
    if left:
        own.warnings.append(f"{left} debts were left")
    heads = ["debts", "collected in s", "neighbour's lag p50 s", "p99 s", "most s"]
    _show("one wallet's debts, after money for all of them", heads, rows)


MEASURES: dict[str, Callable[[Machine, float], None]] = {"data": data, "backlog": backlog, "debts": debts}


def _probe(own: Machine, users: Sequence[WalletId]) -> tuple[Cost, Cost]:
    ids: list[UUID] = []
    intake = _measured(own, ENDS_PER_PROBE, lambda: ids.extend(take_in(own, users, ENDS_PER_PROBE)))

    def settle() -> None:
        for i in range(0, len(ids), SETTLED_PER_CALL):
            own.container.settlement.settle(ids[i : i + SETTLED_PER_CALL])

    settled = _measured(own, ENDS_PER_PROBE, settle)
    return intake, settled


def _measured(own: Machine, ends: int, work: Callable[[], object]) -> Cost:
    gc.collect()
    postgres, ours, wall = postgres_cpu_seconds(own), time.process_time(), time.perf_counter()
    work()
    spent = (postgres_cpu_seconds(own) - postgres, time.process_time() - ours, time.perf_counter() - wall)
    return Cost(*(seconds / ends * 1e6 for seconds in spent))


def postgres_cpu_seconds(own: Machine) -> float:
    """The processor time of Postgres's living processes; 0 if the system doesn't provide it."""
    seconds = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = (folder / "cmdline").read_bytes().startswith(b"postgres:") and os.readlink(
                folder / "cwd"
            ).startswith(str(own.folder))
            seconds += int((folder / "schedstat").read_text().split()[0]) / 1e9 if is_ours else 0
        except OSError:
            continue
    return seconds


def _analyze(own: Machine) -> None:
    with own.container.engine.begin() as connection:
        # Without a timeout: autovacuum may be running on the table, and takes long after so many inserted rows.
        allow_seconds(connection, None)
        connection.execute(sa.text("ANALYZE"))


def _grow_wallets(own: Machine, before: int, count: int) -> None:
    with own.container.engine.begin() as connection:
        allow_seconds(connection, None)
        connection.execute(_WALLETS, {"package": PACKAGE, "micros": 10**14, "first": before + 1, "last": count})


def _grow_ledger(own: Machine, before: int, count: int) -> None:
    # In parts, so that the rows of a statement fit into memory.
    for first in range(before + 1, count + 1, 500_000):
        with own.container.engine.begin() as connection:
            allow_seconds(connection, None)
            last = min(first + 499_999, count)
            connection.execute(_LEDGER, {"feature": FEATURE, "users": USERS, "first": first, "last": last})


def _some_wallets(count: int) -> list[WalletId]:
    return [WalletId(f"scale-{1 + i * count // 1_000}") for i in range(min(count, 1_000))]


def _look(own: Machine, users: Sequence[WalletId]) -> str:
    """The milliseconds that it takes to load a wallet that isn't cached, which is the slowest case of a start."""
    timings = []
    for user in users[:50]:
        own.container.redis_client.delete(f"tokentill:{{{user}}}:wallet")
        begun = time.perf_counter()
        own.container.loader.load([user], own.container.catalog.epoch)
        timings.append(time.perf_counter() - begun)
    return f"{median(timings) * 1e3:.1f}"


def _middle(costs: Sequence[Cost]) -> Cost:
    return Cost(*(median(getattr(cost, name) for cost in costs) for name in ("postgres_us", "own_us", "wall_us")))


@contextmanager
def _neighbour(own: Machine, doorbell: CeleryDoorbell, lags: list[float]) -> Iterator[None]:
    """Send another wallet's ends, one after the other. Appends to `lags` how long each takes from answer to ledger."""
    # A separate container, whose doorbell really tells the workers.
    process = Container(own.container.config, doorbell=doorbell)
    process.catalog.refresh()
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(0.05):
            process.end.end(EndRequest(USERS[0], FEATURE, Usage(120, 40)))
            answered = time.monotonic()
            until(lambda: not _unsettled_of(own, USERS[0]), 30)
            lags.append(time.monotonic() - answered)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        process.close()
        doorbell.close()
    if not lags:
        raise AssertionError("The neighbour's ends were not measured")


def _unsettled_of(own: Machine, wallet_id: str) -> int:
    with own.container.engine.connect() as connection:
        waiting = sa.text("SELECT count(*) FROM end_inbox WHERE wallet_id = :id AND NOT is_debt")
        return int(connection.execute(waiting, {"id": wallet_id}).scalar_one())


def _debts_left(own: Machine) -> int:
    with own.container.engine.connect() as connection:
        # Read one row: counting the debts again and again would be most of the load.
        left = connection.execute(sa.text("SELECT debt_micros FROM wallets WHERE wallet_id = 'deep'"))
        return int(left.scalar_one()) // MICROS_PER_TOKEN


def _show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n## {title[0].upper()}{title[1:]}\n\n{report.table(heads, rows)}", flush=True)


if __name__ == "__main__":
    main()
