"""Calling the admin API as an administrator does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import simplejson
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

PREFIX = "/api/admin"


class Admin:
    """Sends JSON with the admin key. A string body is sent as it stands."""

    def __init__(self, client: FlaskClient, headers: dict[str, str]) -> None:
        self._client = client
        self._headers = headers

    def get(self, path: str, *, accept: str | None = None, **query: Any) -> TestResponse:
        headers = self._headers if accept is None else {**self._headers, "Accept": accept}
        return self._client.get(PREFIX + path, query_string=query, headers=headers)

    def post(self, path: str, body: Any) -> TestResponse:
        return self._send("POST", path, body)

    def put(self, path: str, body: Any) -> TestResponse:
        return self._send("PUT", path, body)

    def patch(self, path: str, body: Any) -> TestResponse:
        return self._send("PATCH", path, body)

    def delete(self, path: str) -> TestResponse:
        return self.send("DELETE", path)

    def send(self, method: str, path: str) -> TestResponse:
        return self._client.open(PREFIX + path, method=method, headers=self._headers)

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All items of a list, page after page."""
        return [item for page in self.pages(path, **query) for item in page]

    def pages(self, path: str, **query: Any) -> Iterator[list[dict[str, Any]]]:
        while True:
            found = data(self.get(path, **query))
            yield found["items"]
            if found["next_cursor"] is None:
                return
            query["cursor"] = found["next_cursor"]

    def _send(self, method: str, path: str, body: Any) -> TestResponse:
        return self._client.open(
            PREFIX + path,
            method=method,
            data=body if isinstance(body, str) else simplejson.dumps(body, use_decimal=True),
            content_type="application/json",
            headers=self._headers,
        )


def data(response: TestResponse, status: int = 200) -> dict[str, Any]:
    """The data of a success, numbers exact."""
    body: dict[str, Any] = simplejson.loads(response.data, use_decimal=True)
    assert response.status_code == status, body
    assert body["success"] is True
    assert isinstance(body["message"], str)
    found: dict[str, Any] = body["data"]
    return found


def failure(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The body of a failure."""
    body: dict[str, Any] = simplejson.loads(response.data, use_decimal=True)
    assert (response.status_code, body["status"], body["success"], body["code"]) == (
        status,
        status,
        False,
        code,
    ), body
    assert body["request_id"]
    return body


def assert_invalid(response: TestResponse, *fields: str) -> None:
    """A 400 that names exactly these fields."""
    assert sorted(failure(response, 400, "validation_failed")["errors"]) == sorted(fields)


# What is no amount of tokens in JSON, to be sent as it stands.
NOT_AMOUNTS = (
    "true",
    "null",
    '"5"',
    "[]",
    "1e-7",
    "0.0000001",
    "1e400",
    "1e999999999",
    "9223372036854775808",
    "1000000001",
)
