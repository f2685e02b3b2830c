"""Whether this process answers, what it can do right now, and its numbers. No key needed; nothing about users."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.access.gate import StoreState
from app.http.json import respond
from app.http.routes import container
from app.operations.status import Status

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    return respond({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """503 when no end could be taken: either store alone takes some, Redis those of cached wallets."""
    stores = container().status.stores
    is_ready = StoreState.UP in stores.values()
    return respond(
        {
            "status": "ready" if is_ready else "unavailable",
            "dependencies": {store: str(state) for store, state in stores.items()},
        },
        200 if is_ready else 503,
    )


@blueprint.get("/metrics")
def metrics() -> Response:
    """Prometheus's text format. The numbers are the stores' own, so every process gives the same."""
    registry = CollectorRegistry()
    registry.register(_Gauges(container().status.look()))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Gauges(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterable[GaugeMetricFamily]:
        status = self._status
        stores = GaugeMetricFamily("tokentill_store_up", "Whether a store is in use", labels=["store"])
        for store, in_use in status.stores.items():
            stores.add_metric([store], int(in_use is StoreState.UP))
        yield stores
        if status.ends_by_state is not None:
            waiting = GaugeMetricFamily("tokentill_inbox_ends", "Ends not in the ledger yet", labels=["state"])
            for state, ends in status.ends_by_state.items():
                waiting.add_metric([state], ends)
            yield waiting
        if status.oldest_accepted_seconds is not None:
            yield GaugeMetricFamily(
                "tokentill_inbox_oldest_accepted_seconds",
                "Age of the oldest end that waits for settlement",
                value=status.oldest_accepted_seconds,
            )
        if status.spooled_ends is not None:
            yield GaugeMetricFamily(
                "tokentill_spool_ends", "Ends that Redis keeps until Postgres is back", value=status.spooled_ends
            )
        if status.ends_aside is not None:
            yield GaugeMetricFamily(
                "tokentill_spool_aside_ends",
                "Ends of the spool that can't be recorded as they are",
                value=status.ends_aside,
            )
        if status.messages_by_queue is not None:
            queues = GaugeMetricFamily("tokentill_queue_messages", "Messages that wait", labels=["queue"])
            for queue, messages in status.messages_by_queue.items():
                queues.add_metric([queue], messages)
            yield queues
