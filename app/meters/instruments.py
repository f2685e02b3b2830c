"""Instruments: counters and histograms that many threads update, and gauges that are read on demand.

Counting takes well under a microsecond and uses no store, file or log, because every start and end does it. The values
are of this process alone; `share.py` adds up those of a machine's processes.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.meters.numbers import Labels, Numbers, key_of

# 1 ms to 10 s: a start takes a few milliseconds, a report may take seconds.
LATENCY_BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# 50 ms to an hour: a message needs about that much to reach a worker.
LAG_BOUNDS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Description:
    """A metric's name without suffixes, its help text, and the labels of its series."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


# Gauges of one process each. A process may report those of others: a worker has no request threads, but reports them.
GAUGES = (
    Description("tokentill_http_threads_busy", "Threads that have a request in hand"),
    Description("tokentill_http_threads", "Threads that answer requests"),
    Description(
        "tokentill_http_oldest_request_seconds", "For how long the oldest request has been in hand, 0 without any"
    ),
    Description("tokentill_postgres_pool_in_use", "Connections to Postgres that are in use", ("pool",)),
    Description("tokentill_postgres_pool_max", "Connections to Postgres that there may be", ("pool",)),
    Description("tokentill_batcher_waiting", "Calls that wait for their turn in a shared run", ("batcher",)),
    Description("tokentill_doorbell_waiting", "Ids and arguments that wait to be sent to the workers"),
    Description("tokentill_gate_state", "1 for the state in which a store is for this process", ("store", "state")),
)


class Counter:
    def __init__(self, description: Description) -> None:
        self.description = description
        self._lock = threading.Lock()
        self._values: dict[tuple[object, ...], int] = {}

    def add(self, count: int, *labels: object) -> None:
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + count

    def values(self) -> dict[str, int]:
        with self._lock:
            found = list(self._values.items())
        return {key_of(labels): value for labels, value in found}


class Histogram:
    def __init__(self, description: Description, bounds: Sequence[float]) -> None:
        self.description = description
        self.bounds = tuple(bounds)
        self._lock = threading.Lock()
        # By series: the count in each bucket, the last one being above all bounds; then the sum of the values.
        self._series: dict[tuple[object, ...], list[float]] = {}

    def observe(self, value: float, *labels: object) -> None:
        bucket = bisect_left(self.bounds, value)
        with self._lock:
            series = self._series.get(labels)
            if series is None:
                series = self._series[labels] = [0] * (len(self.bounds) + 1) + [0.0]
            series[bucket] += 1
            series[-1] += value

    def observe_all(self, values: Iterable[float]) -> None:
        """Add many values to the series without labels at once."""
        buckets = [(bisect_left(self.bounds, value), value) for value in values]
        with self._lock:
            series = self._series.setdefault((), [0] * (len(self.bounds) + 1) + [0.0])
            for bucket, value in buckets:
                series[bucket] += 1
                series[-1] += value

    def values(self) -> dict[str, list[float]]:
        with self._lock:
            found = [(labels, list(series)) for labels, series in self._series.items()]
        return {key_of(labels): series for labels, series in found}


class Gauge:
    """`read` returns the value of each series. It is called about once a second, by the thread that shares the
    numbers.
    """

    def __init__(self, name: str, read: Callable[[], Mapping[Labels, float]]) -> None:
        self.name = name
        self._read = read

    def values(self) -> dict[str, float]:
        return {key_of(labels): value for labels, value in self._read().items()}


class Meters:
    """All instruments of a process."""

    def __init__(self) -> None:
        self.requests = Histogram(
            Description(
                "tokentill_http_request_duration_seconds",
                "How long requests took, from their first byte read to their answer",
                ("method", "route", "status"),
            ),
            LATENCY_BOUNDS_SECONDS,
        )
        self.lag = Histogram(
            Description(
                "tokentill_settlement_lag_seconds",
                "How long after its acceptance an end was settled, or became a debt",
            ),
            LAG_BOUNDS_SECONDS,
        )
        self.accepted = Counter(
            Description("tokentill_ends_accepted", "Ends answered 200, by where they were kept", ("kept_in",))
        )
        self.settled = Counter(
            Description("tokentill_ends_settled", "Ends entered in the ledger, at once or from debt", ("origin",))
        )
        self.indebted = Counter(Description("tokentill_ends_indebted", "Ends that became debts, for want of tokens"))
        self.retried = Counter(Description("tokentill_debt_tries", "Tries to collect a debt that the wallet failed"))
        self.buried = Counter(Description("tokentill_ends_refused", "Ends put aside, as the database refused them"))
        self.wrong_keys = Counter(
            Description("tokentill_wrong_keys", "Wrong keys, refused or braked: their sender has to wait", ("outcome",))
        )
        self._gauges: list[Gauge] = []
        # Series exist from the start, so that their first count shows as an increase.
        for kept_in in ("inbox", "spool"):
            self.accepted.add(0, kept_in)
        for origin in ("inbox", "debt"):
            self.settled.add(0, origin)
        for outcome in ("refused", "braked"):
            self.wrong_keys.add(0, outcome)
        for counter in (self.indebted, self.retried, self.buried):
            counter.add(0)

    @property
    def histograms(self) -> tuple[Histogram, ...]:
        return (self.requests, self.lag)

    @property
    def counters(self) -> tuple[Counter, ...]:
        return (self.accepted, self.settled, self.indebted, self.retried, self.buried, self.wrong_keys)

    def gauge(self, name: str, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Set how this process reads one of GAUGES."""
        self._gauges.append(Gauge(name, read))

    def numbers(self) -> Numbers:
        """The current values of all instruments."""
        return Numbers(
            counters={counter.description.name: counter.values() for counter in self.counters},
            histograms={histogram.description.name: histogram.values() for histogram in self.histograms},
            bounds={histogram.description.name: list(histogram.bounds) for histogram in self.histograms},
            gauges={gauge.name: gauge.values() for gauge in self._gauges},
        )
