"""Whether this process answers, what it can do right now, and its numbers. No key needed; nothing about users."""

from __future__ import annotations

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess

from app.config import metrics_directory
from app.http.json import respond
from app.http.routes import container

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    return respond({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """503 when no end could be taken, that is when Postgres is away."""
    found = container()
    dependencies = {gate.store: "up" if gate.is_open else "down" for gate in (found.postgres_gate, found.redis_gate)}
    is_ready = found.postgres_gate.is_open
    return respond(
        {"status": "ready" if is_ready else "unavailable", "dependencies": dependencies},
        200 if is_ready else 503,
    )


@blueprint.get("/metrics")
def metrics() -> Response:
    """Prometheus's text format; with PROMETHEUS_MULTIPROC_DIR set, the sums over all web processes."""
    registry = REGISTRY
    if metrics_directory():
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
