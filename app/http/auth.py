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
SERVER_HEADER = "x-server-api-key"
ADMIN_HEADER = "x-admin-api-key"


class Keys:
    """The keys that open one part of the API."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def include(self, given: str) -> bool:
        """Is this header's text one of them?"""
        text = given.encode("latin-1", "replace")
        # Every key is compared, so that the time taken tells nothing about which one was near.
        return sum(compare_digest(text, key) for key in self._keys) > 0


def register(app: Flask, config: Config) -> None:
    guards = (
        (SERVER_PREFIX, SERVER_HEADER, Keys(config.server_api_keys), "Invalid server API key"),
        (ADMIN_PREFIX, ADMIN_HEADER, Keys(config.admin_api_keys), "Invalid admin API key"),
    )

    @app.before_request
    def _authenticate() -> Response | None:
        for prefix, header, keys, message in guards:
            if request.path.startswith(prefix) and not keys.include(request.headers.get(header, "")):
                return answer(failure(401, message, code="invalid_api_key"))
        return None
