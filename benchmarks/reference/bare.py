"""A bare Flask route with start's header check, body and answer, and nothing behind it.

It is fair because it is the least that this call costs with Flask: it reads the body and checks both fields, makes an
id for the run and answers the same fields in the same envelope, by Flask's own JSON. It looks nothing up, logs nothing,
and gives the request no id. Flask's sorting of keys is off, as in any application that cares about speed.
"""

from __future__ import annotations

import os
from hmac import compare_digest
from typing import Any
from uuid import uuid4

from flask import Flask, request

TOKENS = 100_000_000
ID_LENGTH_MAX = 128
SUFFIX = "8db1426a0c8a"


def create_app() -> Flask:
    app = Flask("bare")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    api_key = os.environ["SERVER_API_KEY"].encode()

    @app.post("/api/token-process/start")
    def start() -> Any:
        if not compare_digest(request.headers.get("x-server-api-key", "").encode("latin-1"), api_key):
            return {"success": False, "status": 401, "message": "Invalid server API key"}, 401
        body = request.get_json()
        for name in ("user_id", "feature_endpoint_id"):
            value = body.get(name)
            if not isinstance(value, str) or not 1 <= len(value) <= ID_LENGTH_MAX:
                return {"success": False, "status": 400, "message": "Validation failed", "errors": [name]}, 400
        return {
            "success": True,
            "message": "Token process started",
            "data": {
                "user_id": body["user_id"],
                "token": TOKENS,
                "status": "access-able",
                # As long as the process ids of start.
                "process_id": f"{uuid4()}-{SUFFIX}",
            },
        }

    @app.get("/readyz")
    def ready() -> Any:
        return {"status": "ready"}

    return app


def __getattr__(name: str) -> Flask:
    # Created only when the server asks for it, so that importing this module needs no environment.
    if name == "app":
        return create_app()
    raise AttributeError(name)
