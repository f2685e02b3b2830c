"""Who may call what: service servers and administrators carry keys of their own, told apart by path.

Decided before routing is looked at, so without a key nobody learns which routes exist.
"""

from __future__ import annotations

from hmac import compare_digest

from flask import Flask, Response, request

from app.config import Config
from app.http.errors import answer, failure

SERVER_PREFIX = "/api/token-process/"
ADMIN_PREFIX = "/api/admin/"


def register(app: Flask, config: Config) -> None:
    guards = (
        (SERVER_PREFIX, "x-server-api-key", _encoded(config.server_api_keys), "Invalid server API key"),
        (ADMIN_PREFIX, "x-admin-api-key", _encoded(config.admin_api_keys), "Invalid admin API key"),
    )

    @app.before_request
    def _authenticate() -> Response | None:
        for prefix, header, keys, message in guards:
            if request.path.startswith(prefix):
                given = request.headers.get(header, "").encode("latin-1", "replace")
                # Every key is compared, so that the time taken tells nothing about which one was near.
                if sum(compare_digest(given, key) for key in keys) == 0:
                    return answer(failure(401, message, code="invalid_api_key"))
        return None


def _encoded(keys: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(key.encode() for key in keys)
