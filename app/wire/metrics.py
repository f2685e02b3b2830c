"""Metrics in Prometheus's text format. docs/metrics.md says what each means, and how it may be added up.

Metrics of the whole installation come from the stores and are the same from every target, so they must not be added up
over targets. Those of a machine are the sums of its processes' counters, and gauges labelled by process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.access.gate import StoreState
from app.domain.amounts import token_number
from app.meters.instruments import GAUGES, Meters
from app.meters.numbers import Numbers, labels_of
from app.meters.share import MachineNumbers
from app.operations.status import Status
from app.stores.postgres.processes import Process, ProcessKind
from app.stores.postgres.samples import Sample
from app.stores.postgres.watch import LastReconciliation, Watched
from app.stores.postgres.webhooks.deliveries import Counts
from app.upkeep.pulse import SILENT_SECONDS_MAX

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# An older sample says nothing about the present: only its age is written then.
SAMPLE_SECONDS_MAX = 300.0


def metrics_text(status: Status, machine: MachineNumbers, meters: Meters) -> bytes:
    """All metrics, without those of a store that is away. `meters` describes the metrics of processes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*_of_stores(status), *_of_processes(status, machine, meters)]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_stores(status: Status) -> Iterable[Metric]:
    if (found := status.postgres) is not None:
        yield from _of_inbox(found)
        yield from _of_reconciliation(found.reconciliation, found.never_reconciled_seconds)
        yield from _of_sample(found.sample, found.sample_age_seconds)
        yield from _of_fleet(found.processes)
        yield from _of_webhooks(found.webhooks)
        yield _by("tokentill_bulk_operations", "Operations on many ends under way", "kind", found.bulk_by_kind)
    if status.spooled_ends is not None:
        yield _one("tokentill_spool_ends", "Ends that Redis keeps until Postgres is back", status.spooled_ends)
    if status.messages_by_queue is not None:
        yield _by("tokentill_queue_messages", "Messages that wait", "queue", status.messages_by_queue)


def _of_inbox(found: Watched) -> Iterable[Metric]:
    yield _by("tokentill_inbox_ends", "Ends not in the ledger yet", "state", found.ends_by_state)
    yield _one(
        "tokentill_inbox_oldest_accepted_seconds",
        "Age of the oldest end that waits for settlement, 0 without any",
        found.oldest_accepted_seconds,
    )
    yield _one(
        "tokentill_oldest_debt_seconds",
        "Age of the oldest failed end, 0 without any",
        found.oldest_failed_seconds or 0.0,
    )
    yield _one("tokentill_debts_due_wallets", "Wallets whose debts are due for a try", found.due_wallets)
    yield _one("tokentill_spool_aside_ends", "Spooled ends that can't be recorded as they are", found.ends_aside)


def _of_reconciliation(last: LastReconciliation | None, never_seconds: float | None) -> Iterable[Metric]:
    age_seconds = never_seconds if last is None else last.age_seconds
    if age_seconds is not None:
        yield _one(
            "tokentill_reconciliation_age_seconds",
            "Since the last finished reconciliation ended, or the first one was asked for",
            age_seconds,
        )
    if last is not None:
        yield _one(
            "tokentill_reconciliation_unrepaired",
            "Differences of money that the last finished reconciliation found",
            last.unrepaired,
        )
        yield _one("tokentill_reconciliation_repaired", "Cached copies that it found wrong and repaired", last.repaired)


def _of_sample(sample: Sample | None, age_seconds: float | None) -> Iterable[Metric]:
    if sample is None or age_seconds is None:
        return
    yield _one("tokentill_sample_age_seconds", "Since the minute of the last sample ended", age_seconds)
    if age_seconds > SAMPLE_SECONDS_MAX:
        return
    yield _one("tokentill_minute_accepted_ends", "Ends accepted in the last sampled minute", sample.accepted)
    yield _one("tokentill_minute_settled_ends", "Ends settled in the last sampled minute", sample.settled)
    if sample.lag_p95_seconds is not None:
        yield _one("tokentill_minute_lag_p95_seconds", "95 of 100 of these were settled within", sample.lag_p95_seconds)
    amounts = {
        "tokentill_debt_tokens": ("What all wallets owe", sample.debt_micros),
        "tokentill_pending_tokens": ("What accepted ends cost that wait for settlement", sample.pending_micros),
        "tokentill_liability_tokens": ("What users have bought and not used", sample.liability_micros),
        "tokentill_overdrawn_tokens": ("What wallets below zero have used beyond it", sample.overdrawn_micros),
    }
    if sample.held_micros is not None:
        amounts["tokentill_held_tokens"] = ("What open holds reserve", sample.held_micros)
    for name, (help, micros) in amounts.items():
        yield _one(name, help, token_number(micros))
    failed = {"retrying": sample.retrying_micros, "dead": sample.dead_micros}
    yield _by(
        "tokentill_failed_tokens",
        "What failed ends cost",
        "state",
        {state: token_number(micros) for state, micros in failed.items()},
    )
    yield _one("tokentill_wallets", "Wallets", sample.wallets)


def _of_fleet(processes: Iterable[Process]) -> Iterable[Metric]:
    alive = {kind.value: 0 for kind in ProcessKind}
    silent = GaugeMetricFamily(
        "tokentill_worker_silent_seconds", "Since this worker last said that it lives", labels=["worker"]
    )
    beats = []
    for process in processes:
        alive[process.kind.value] += process.silent_seconds < SILENT_SECONDS_MAX
        if process.kind in (ProcessKind.WORKER, ProcessKind.WEBHOOKS):
            silent.add_metric([process.name], process.silent_seconds)
        if process.kind is ProcessKind.BEAT:
            beats.append(process.silent_seconds)
    yield _by("tokentill_processes", "Web processes, workers and beats that live", "kind", alive)
    yield silent
    if beats:
        yield _one("tokentill_beat_silent_seconds", "Since a beat last sent what was due", min(beats))


def _of_webhooks(counts: Counts) -> Iterable[Metric]:
    by_state = {"pending": counts.pending, "failed": counts.failed}
    yield _by("tokentill_webhook_deliveries", "Webhook deliveries that wait, or were given up", "state", by_state)
    yield _one(
        "tokentill_webhook_overdue_seconds",
        "For how long the webhook delivery that is due for longest has been, 0 without any",
        counts.overdue_seconds,
    )
    yield _one("tokentill_webhook_endpoints_disabled", "Webhook endpoints that are disabled", counts.endpoints_disabled)


def _of_processes(status: Status, machine: MachineNumbers, meters: Meters) -> Iterable[Metric]:
    together = machine.together
    for counter in meters.counters:
        described = counter.description
        found = CounterMetricFamily(described.name, described.help, labels=described.labels)
        for key, count in sorted(together.counters.get(described.name, {}).items()):
            found.add_metric(labels_of(key), count)
        yield found
    for histogram in meters.histograms:
        yield _histogram(together, histogram.description.name, histogram.description.help, histogram.description.labels)
    for described in GAUGES:
        own = GaugeMetricFamily(described.name, described.help, labels=["process", *described.labels])
        for process, numbers in sorted(machine.gauges.items()):
            for key, value in numbers.gauges.get(described.name, {}).items():
                own.add_metric([process, *labels_of(key)], value)
        yield own
    yield _by(
        "tokentill_store_up",
        "Whether a store is in use for the process that answers",
        "store",
        {store: int(state is StoreState.UP) for store, state in status.stores.items()},
    )


def _histogram(numbers: Numbers, name: str, help: str, labels: tuple[str, ...]) -> Metric:
    found = HistogramMetricFamily(name, help, labels=labels)
    bounds = [*(f"{bound:g}" for bound in numbers.bounds.get(name, [])), "+Inf"]
    for key, counts in sorted(numbers.histograms.get(name, {}).items()):
        found.add_metric(labels_of(key), list(zip(bounds, accumulate(counts[:-1]), strict=True)), sum_value=counts[-1])
    return found


def _one(name: str, help: str, value: object) -> Metric:
    return GaugeMetricFamily(name, help, value=value)  # type: ignore[arg-type]


def _by(name: str, help: str, label: str, values: Mapping[str, object]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)  # type: ignore[arg-type]
    return family
