"""`python -m benchmarks`: the calls of a service server, and settlement."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from uuid import UUID, uuid4

import sqlalchemy as sa

from app.domain.ends import EndRequest
from benchmarks import report
from benchmarks.machine import FEATURE, HOT_USER, USERS, Bells, Machine, Measurement, WebProcess, machine

ENDS_PER_BATCH_CALL = 100
SETTLED_PER_ROUND = 3_000
SETTLED_ONE_BY_ONE_PER_ROUND = 100
ENDS_PER_INTAKE = 500
DRAIN_SECONDS_MAX = 30.0
BATCH_CLIENTS = 4

BARE = "bare route /healthz"
START = "start, cached wallet"
END = "end"
END_GROUPS_OF_ONE = "end, groups of one"
END_NO_GROUPS = "end, no groups"
BATCH = f"end/batch of {ENDS_PER_BATCH_CALL}"

MANY = "1,000 at once, 200 wallets"
HOT = "1,000 at once, one hot wallet"
ALONE = "one by one, 200 wallets"


@dataclass(frozen=True)
class Case:
    """One kind of load on one web process."""

    name: str
    web: WebProcess
    kind: str
    clients: int

    @property
    def units_per_request(self) -> int:
        return ENDS_PER_BATCH_CALL if self.kind == "batch" else 1


@dataclass(frozen=True)
class WithWorker:
    """Ends over HTTP with a worker settling beside them."""

    load: Measurement
    ledger_entries: int
    # From the last answer until the inbox was empty.
    drain_seconds: float


@dataclass
class Findings:
    """By name, a figure for each round."""

    cases: Sequence[Case]
    calls: dict[str, list[Measurement]] = field(default_factory=lambda: defaultdict(list))
    settled_per_second: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def rates(self, name: str) -> list[float]:
        """Calls, or ends where a call carries many, per second."""
        [case] = [case for case in self.cases if case.name == name]
        return [run.load.per_second * case.units_per_request for run in self.calls[name]]


def main(effort: report.Effort) -> str:
    """Run everything; the report."""
    header = report.machine_line()
    with machine() as own:
        usual = own.web("granian")
        one_by_one = own.web("one by one", "benchmarks.grouping:one_by_one")
        each_alone = own.web("each alone", "benchmarks.grouping:each_alone")
        found = Findings(
            [
                Case(BARE, usual, "healthz", effort.clients),
                Case(START, usual, "start", effort.clients),
                Case(END, usual, "end", effort.clients),
                Case(END_GROUPS_OF_ONE, one_by_one, "end", effort.clients),
                Case(END_NO_GROUPS, each_alone, "end", effort.clients),
                Case(BATCH, usual, "batch", BATCH_CLIENTS),
                Case("start, one client", usual, "start", 1),
                Case("end, one client", usual, "end", 1),
            ]
        )
        for i in effort.begin(own.warnings):
            # The other way round each time, so that a drift of the machine favours nobody.
            for case in found.cases if i % 2 == 0 else reversed(found.cases):
                found.calls[case.name].append(
                    own.measure(
                        case.web,
                        case.kind,
                        clients=case.clients,
                        seconds=effort.seconds,
                        ends_per_batch=ENDS_PER_BATCH_CALL,
                    )
                )
                own.settle_everything()
            for name, per_second in settlement_round(own).items():
                found.settled_per_second[name].append(per_second)
        whole = with_worker(own, usual, clients=effort.clients, seconds=2 * effort.seconds)
        return "\n\n".join([*_report(header, effort, found, whole), *report.complaints(own.warnings)])


def settlement_round(own: Machine) -> dict[str, float]:
    """Ends settled per second: 1,000 at once over many wallets, on one hot wallet, and one by one."""
    service = own.container.settlement
    timings = {}
    for name, users, ends, batch_size in (
        (MANY, USERS, SETTLED_PER_ROUND, 1_000),
        (HOT, [HOT_USER], SETTLED_PER_ROUND, 1_000),
        (ALONE, USERS, SETTLED_ONE_BY_ONE_PER_ROUND, 1),
    ):
        own.refresh_statistics()
        ids = take_in(own, users, ends)
        begun = time.perf_counter()
        for i in range(0, len(ids), batch_size):
            service.settle(ids[i : i + batch_size])
        timings[name] = len(ids) / (time.perf_counter() - begun)
    if own.unsettled():
        own.warnings.append(f"{own.unsettled()} ends were left unsettled")
    return timings


def take_in(own: Machine, user_ids: Sequence[str], ends: int) -> list[UUID]:
    """Accept ends as the API does, in this process; their ids."""
    bells = own.container.doorbell
    assert isinstance(bells, Bells)
    bells.end_ids.clear()
    request = EndRequest(USERS[0], FEATURE, 120, 40, model="model-1")
    requests = [replace(request, user_id=user_ids[i % len(user_ids)], idempotency_key=uuid4().hex) for i in range(ends)]
    for i in range(0, ends, ENDS_PER_INTAKE):
        own.container.end.end_all(requests[i : i + ENDS_PER_INTAKE])
    assert len(bells.end_ids) == ends
    return list(bells.end_ids)


def with_worker(own: Machine, web: WebProcess, *, clients: int, seconds: float) -> WithWorker:
    """The way of an end as a whole: taken in over HTTP, announced by a message, settled by a worker's two children."""
    before = _usage_entries(own)
    own.worker()
    load = own.measure(web, "end", clients=clients, seconds=seconds)
    begun = time.perf_counter()
    while own.unsettled() and time.perf_counter() - begun < DRAIN_SECONDS_MAX:
        time.sleep(0.01)
    drain_seconds = time.perf_counter() - begun
    if own.unsettled():
        own.warnings.append(f"{own.unsettled()} ends were not settled {drain_seconds:.0f} s after the last answer")
    return WithWorker(load, _usage_entries(own) - before, drain_seconds)


def _usage_entries(own: Machine) -> int:
    with own.container.engine.connect() as connection:
        return int(
            connection.execute(sa.text("SELECT count(*) FROM token_transactions WHERE kind = 'usage'")).scalar_one()
        )


def _report(header: str, effort: report.Effort, found: Findings, whole: WithWorker) -> list[str]:
    calls = []
    for case in found.cases:
        runs = found.calls[case.name]
        calls.append(
            [
                case.name,
                str(case.clients),
                report.spread([run.load.per_second for run in runs]),
                report.spread([run.load.p50_ms for run in runs]),
                report.spread([run.load.p99_ms for run in runs]),
                f"{median(run.server_cpu_us for run in runs):,.0f}",
                f"{median(run.load.cpu_us for run in runs):,.0f}",
            ]
        )
    settled = found.settled_per_second
    ratios = [
        ("start : bare route", found.rates(START), found.rates(BARE)),
        ("end : bare route", found.rates(END), found.rates(BARE)),
        ("end : start", found.rates(END), found.rates(START)),
        ("end, group commit : groups of one", found.rates(END), found.rates(END_GROUPS_OF_ONE)),
        ("end, group commit : no groups", found.rates(END), found.rates(END_NO_GROUPS)),
        (f"ends by {BATCH} : one a call", found.rates(BATCH), found.rates(END)),
        ("settling 1,000 at once : one by one", settled[MANY], settled[ALONE]),
        ("settling one hot wallet : 200 wallets", settled[HOT], settled[MANY]),
        ("settling : taking ends in", settled[MANY], found.rates(END)),
    ]
    load = whole.load.load
    return [
        "# Tokentill, measured",
        header,
        f"{effort}; one web process with 32 threads, logging each request. Median (lowest-highest).",
        "## Calls",
        report.table(
            ["call", "clients", "requests/s", "p50 ms", "p99 ms", "server CPU us", "client CPU us"],
            calls,
        ),
        f"Ends per second by {BATCH}: {report.spread(found.rates(BATCH))}.",
        "## Settlement, one process",
        report.table(["settled", "ends/s"], [[name, report.spread(values)] for name, values in settled.items()]),
        f"With a worker settling beside it: {load.per_second:,.0f} ends/s taken in, p99 {load.p99_ms:.1f} ms. Of "
        f"{load.requests_total:,} ends {whole.ledger_entries:,} were in the ledger, the last of them "
        f"{whole.drain_seconds:.2f} s after the last answer.",
        "## Ratios within the rounds",
        report.table(
            ["ratio", "median (range)"],
            [[name, report.spread(report.ratios(above, below))] for name, above, below in ratios],
        ),
    ]
