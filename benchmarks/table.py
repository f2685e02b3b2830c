"""`python -m benchmarks`: what Tokentill costs, as ratios to the same work done the plain way.

Each line compares figures that were measured side by side in the same round. A call counts when it is answered, an end
when Postgres has committed its ledger entry.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from uuid import UUID, uuid4

import sqlalchemy as sa

from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.ends import EndRequest
from app.domain.usage import Usage
from app.stores.queue import CeleryDoorbell
from benchmarks import report, wrk
from benchmarks.ledgers import Ledger, lags_seconds, wait_until_settled
from benchmarks.machine import (
    FEATURE,
    HOT_USER,
    OPENING_TOKENS,
    PROFIT_BASIS_POINTS,
    USERS,
    Machine,
    Measurement,
    WebProcess,
    machine,
)
from benchmarks.reference import plain
from benchmarks.reference.drain import ENDS_PER_STATEMENT, BareDrain

ENDS_PER_BATCH_CALL = 100
BATCH_CLIENTS = 8
BACKLOG = 20_000
ENDS_PER_INTAKE = 500
# Threads of the references: the numbers with which they were fastest at 32 clients.
BARE_THREADS = 32
PLAIN_THREADS = 32

BARE, START = "bare Flask route", "start"
PLAIN, END = "plain way", "single end"
PLAIN_HOT, END_HOT = "plain way, one hot wallet", "single end, one hot wallet"
BATCH = f"ends in batches of {ENDS_PER_BATCH_CALL}"
STATEMENT, DRAIN = "bare set-based statement", "drain by one worker process"
START_AT_HALF, END_AT_70 = "start at half load", "single end at 70 % load"


@dataclass
class Findings:
    """Figures by name, one for each round."""

    calls: dict[str, list[Measurement]] = field(default_factory=lambda: defaultdict(list))
    per_second: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lag_p99_seconds: list[float] = field(default_factory=list)
    lag_p50_seconds: list[float] = field(default_factory=list)

    def goals(self) -> list[report.Goal]:
        def ratio(name: str, above: str, below: str, reach: float) -> report.Goal:
            return report.Goal(name, report.ratios(self.per_second[above], self.per_second[below]), reach)

        half = [run.load.p99_ms / run.load.p50_ms for run in self.calls[START_AT_HALF]]
        return [
            ratio("start / bare Flask route", START, BARE, 0.75),
            ratio("single end, until settled / plain way", END, PLAIN, 1.6),
            ratio("the same on one hot wallet", END_HOT, PLAIN_HOT, 3),
            ratio(f"{BATCH}, until settled / plain way", BATCH, PLAIN, 20),
            ratio("drain by one worker process / bare set-based statement", DRAIN, STATEMENT, 0.7),
            report.Goal("lag from 200 to settled at 70 % load, p99", self.lag_p99_seconds, 1, "s", is_most=True),
            report.Goal("start p99 / p50 at half load", half, 5, is_most=True),
        ]


class Bench:
    """The processes to measure, and how each line is measured."""

    def __init__(self, own: Machine, effort: report.Effort) -> None:
        self._own = own
        self._effort = effort
        self.found = Findings()
        plain_url = own.postgres.create_database("plain")
        self._plain_engine = _engine(own, plain_url)
        _seed_plain(self._plain_engine)
        self._drain = BareDrain(
            _engine(own, own.postgres.create_database("drain")), USERS, FEATURE, OPENING_TOKENS * MICROS_PER_TOKEN
        )
        self._web = own.web("tokentill")
        self._bare = own.web("bare", "benchmarks.reference.bare:app", threads=BARE_THREADS)
        self._plain = own.web(
            "plain", "benchmarks.reference.plain:app", threads=PLAIN_THREADS, settings={"DATABASE_URL": plain_url}
        )
        self._ledger = Ledger(own.container.engine, "token_transactions", "kind = 'usage'", "reference")
        self._plain_ledger = Ledger(self._plain_engine, "transactions", "is_paid", "idempotency_key")

    def round(self, number: int) -> None:
        """Measure everything once, in reverse order every other round, so that a drift of the machine is fair."""
        with self._own.worker():
            # Measurements to be compared are next to each other.
            pairs: list[list[Callable[[], None]]] = [
                [self._measure_bare, self._measure_start],
                [self._measure_plain, self._measure_end],
                [self._measure_batch],
                [self._measure_plain_hot, self._measure_end_hot],
            ]
            for pair in pairs:
                for measure in pair if number % 2 == 0 else reversed(pair):
                    measure()
            self._measure_start_at_half()
            self._measure_lag()
        self._measure_drain()
        self._own.refresh_statistics()

    def _call(self, name: str, web: WebProcess, kind: str, user_ids: Sequence[str] = USERS) -> None:
        run = self._own.measure(
            web, kind, clients=self._effort.clients, seconds=self._effort.seconds, user_ids=user_ids
        )
        self.found.calls[name].append(run)
        self.found.per_second[name].append(run.load.per_second)

    def _measure_bare(self) -> None:
        self._call(BARE, self._bare, "start")

    def _measure_start(self) -> None:
        self._call(START, self._web, "start")

    def _until_settled(
        self,
        name: str,
        web: WebProcess,
        ledger: Ledger,
        *,
        kind: str = "end",
        user_ids: Sequence[str] = USERS,
        clients: int | None = None,
    ) -> None:
        before = ledger.last_id
        per_call = ENDS_PER_BATCH_CALL if kind == "batch" else 1
        run = self._own.measure(
            web,
            kind,
            clients=clients or self._effort.clients,
            seconds=self._effort.seconds,
            user_ids=user_ids,
            ends_per_batch=per_call,
        )
        self._wait(name)
        settled = ledger.settled(before, run.load.begun_at, run.run_id)
        # At the end the generator hangs up on calls in flight, which may be settled all the same.
        if not 0 <= settled.ends - run.load.requests_total * per_call <= 2 * self._effort.clients * per_call:
            self._own.warnings.append(f"{name}: {run.load.requests_total} calls answered, {settled.ends} ends settled")
        self.found.calls[name].append(run)
        self.found.per_second[name].append(settled.per_second)

    def _wait(self, name: str) -> None:
        if not wait_until_settled(self._own.container.engine):
            self._own.warnings.append(f"{name}: ends were left unsettled")
            self._own.settle_everything()

    def _measure_plain(self) -> None:
        self._until_settled(PLAIN, self._plain, self._plain_ledger)

    def _measure_end(self) -> None:
        self._until_settled(END, self._web, self._ledger)

    def _measure_plain_hot(self) -> None:
        self._until_settled(PLAIN_HOT, self._plain, self._plain_ledger, user_ids=[HOT_USER])

    def _measure_end_hot(self) -> None:
        self._until_settled(END_HOT, self._web, self._ledger, user_ids=[HOT_USER])

    def _measure_batch(self) -> None:
        self._until_settled(BATCH, self._web, self._ledger, kind="batch", clients=BATCH_CLIENTS)

    def _measure_start_at_half(self) -> None:
        self.found.calls[START_AT_HALF].append(
            self._own.measure(
                self._web,
                "start",
                clients=self._effort.clients,
                seconds=self._effort.seconds,
                rate=self.found.per_second[START][-1] / 2,
            )
        )

    def _measure_lag(self) -> None:
        before = self._ledger.last_id
        run = self._own.measure(
            self._web,
            "end",
            clients=self._effort.clients,
            seconds=self._effort.seconds,
            rate=self.found.per_second[END][-1] * 0.7,
        )
        self._wait(END_AT_70)
        lags = lags_seconds(dict(run.load.answered_at), self._ledger.settled_at(before))
        if len(lags) != run.load.requests_total:
            self._own.warnings.append(f"{END_AT_70}: {run.load.requests_total} ends, {len(lags)} of them settled")
        self.found.calls[END_AT_70].append(run)
        self.found.lag_p99_seconds.append(report.percentile(lags, 0.99))
        self.found.lag_p50_seconds.append(report.percentile(lags, 0.50))

    def _measure_drain(self) -> None:
        """Measure the settlement of a backlog with its messages, as after an outage of the workers, from the first
        commit on.
        """
        before = self._ledger.last_id
        ids = take_in(self._own, USERS, BACKLOG)
        doorbell = CeleryDoorbell(self._own.container.celery, self._own.container.redis_client)
        doorbell.settle(ids)
        doorbell.close()
        self._own.refresh_statistics()
        with self._own.worker():
            self._wait(DRAIN)
        settled = self._ledger.settled(before, 0.0)
        if settled.ends != BACKLOG:
            self._own.warnings.append(f"{DRAIN}: {BACKLOG} ends, {settled.ends} of them settled")
        # The time counts from the first commit, so the ends of that commit are left out.
        of_first_commit = settled.ends / max(1, settled.commits)
        self.found.per_second[DRAIN].append((settled.ends - of_first_commit) / (settled.last_at - settled.first_at))
        self._drain.fill(BACKLOG)
        self.found.per_second[STATEMENT].append(self._drain.drain(ENDS_PER_STATEMENT))


def main(effort: report.Effort) -> tuple[str, dict[str, object]]:
    """Run everything. Returns the report and its figures."""
    header = report.machine_line()
    begun = time.monotonic()
    with machine() as own:
        bench = Bench(own, effort)
        for number in effort.begin(own.warnings):
            bench.round(number)
        minutes = (time.monotonic() - begun) / 60
        generator = "wrk" if wrk.is_installed() else "benchmarks/load.py"
        text = "\n\n".join(
            [*_report(header, effort, bench.found, generator, minutes), *report.complaints(own.warnings)]
        )
        return text, _figures(header, effort, bench.found, generator, own.warnings)


def _report(header: str, effort: report.Effort, found: Findings, generator: str, minutes: float) -> list[str]:
    rows = []
    for name, runs in found.calls.items():
        counted = found.per_second.get(name) or [run.load.per_second for run in runs]
        rows.append(
            [
                name,
                report.spread(counted),
                report.spread([run.load.p50_ms for run in runs]),
                report.spread([run.load.p99_ms for run in runs]),
                f"{median(run.server_cpu_us for run in runs):,.0f}",
                f"{median(run.load.cpu_seconds / run.load.seconds for run in runs):.0%}",
            ]
        )
    for name in (DRAIN, STATEMENT):
        rows.append([name, report.spread(found.per_second[name]), "-", "-", "-", "-"])
    return [
        "# Tokentill, measured",
        header,
        f"{effort}; one web process with 32 threads that logs each request, one worker process. Load by {generator}, "
        f"at a given rate by benchmarks/load.py. Median (lowest-highest) of the rounds. It took {minutes:.0f} minutes.",
        "## To the plain way",
        report.table(["", "measured", "reach", "reached"], [goal.cells for goal in found.goals()]),
        "## Each by itself",
        report.table(
            ["", "calls or ends/s", "p50 ms", "p99 ms", "server CPU us a call", "generator's share of a core"], rows
        ),
        "Ends are counted until their ledger entry is committed, latencies until the answer; those at a given rate "
        "from when the request was due. The generator is no bottleneck while its share of a core stays well below "
        "100 %.",
        f"Lag from 200 to settled at 70 % load: p50 {report.spread(found.lag_p50_seconds)} s, p99 "
        f"{report.spread(found.lag_p99_seconds)} s.",
    ]


def _figures(
    header: str, effort: report.Effort, found: Findings, generator: str, warnings: Sequence[str]
) -> dict[str, object]:
    return {
        "measured_on": header,
        "effort": str(effort),
        "generator": generator,
        "goals": [goal.as_json() for goal in found.goals()],
        "per_second": {name: report.summary(values) for name, values in found.per_second.items()},
        "p50_ms": {name: report.summary([run.load.p50_ms for run in runs]) for name, runs in found.calls.items()},
        "p99_ms": {name: report.summary([run.load.p99_ms for run in runs]) for name, runs in found.calls.items()},
        "warnings": list(warnings),
    }


def take_in(own: Machine, users: Sequence[str], ends: int) -> list[UUID]:
    """Accept ends without telling the workers. Returns their ids."""
    bells = own.bells
    bells.take()
    run = uuid4().hex
    requests = [
        EndRequest(users[i % len(users)], FEATURE, Usage(120, 40), "model-1", idempotency_key=f"{run}-{i}")
        for i in range(ends)
    ]
    for i in range(0, ends, ENDS_PER_INTAKE):
        own.container.end.end_all(requests[i : i + ENDS_PER_INTAKE])
    return bells.take()


def _engine(own: Machine, url: str) -> sa.Engine:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    own.processes.callback(engine.dispose)
    return engine


def _seed_plain(engine: sa.Engine) -> None:
    plain.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(plain.features.insert(), {"id": FEATURE, "profit_basis_points": PROFIT_BASIS_POINTS})
        connection.execute(
            plain.wallets.insert(),
            [{"user_id": user, "posted_micros": OPENING_TOKENS * MICROS_PER_TOKEN} for user in [*USERS, HOT_USER]],
        )
