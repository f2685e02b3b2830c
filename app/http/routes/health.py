"""Whether this process answers, and what it can do right now. No key needed; nothing about users."""

from __future__ import annotations

from flask import Blueprint, Response

from app.access.gate import StoreState
from app.http.json import respond
from app.http.openapi.describe import Bare, answers
from app.http.routes import container
from app.wire.health import HealthAnswer, ReadinessAnswer

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@answers(Bare(HealthAnswer))
def healthz() -> Response:
    """Does the process answer?"""
    return respond({"status": "ok"})


@blueprint.get("/readyz")
@answers(Bare(ReadinessAnswer), status=(200, 503))
def readyz() -> Response:
    """Could an end be accepted? Each store by name, with its state. `503`: neither store can accept one."""
    stores = container().status.stores
    is_ready = StoreState.UP in stores.values()
    return respond(
        {
            "status": "ready" if is_ready else "unavailable",
            "dependencies": {store: str(state) for store, state in stores.items()},
        },
        200 if is_ready else 503,
    )
