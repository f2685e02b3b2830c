"""Whether this process answers, and what it can do right now. No key needed; nothing about users."""

from __future__ import annotations

from flask import Blueprint, Response

from app.access.gate import StoreState
from app.http.json import respond
from app.http.routes import container

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
