"""What the tests of the token process's calls share: paths, bodies, and what every failure looks like."""

from __future__ import annotations

from typing import Any

import simplejson
from werkzeug.test import TestResponse

from tests.support import FEATURE

START = "/api/token-process/start"
END = "/api/token-process/end"
BATCH = "/api/token-process/end/batch"
CANCEL = "/api/token-process/cancel"
EXTEND = "/api/token-process/hold/extend"

Headers = dict[str, str]


def end_body(**fields: Any) -> dict[str, Any]:
    return {
        "user_id": "user-1",
        "feature_endpoint_id": FEATURE,
        "input_token": 10,
        "output_token": 40,
        **fields,
    }


def start_body(**fields: Any) -> dict[str, Any]:
    return {"user_id": "user-1", "feature_endpoint_id": FEATURE, **fields}


def exact(response: TestResponse) -> dict[str, Any]:
    body: dict[str, Any] = simplejson.loads(response.data, use_decimal=True)
    return body


def assert_failure(response: TestResponse, status: int, message: str | None = None) -> dict[str, Any]:
    body = exact(response)
    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert body["success"] is False
    assert body["status"] == status
    assert message is None or body["message"] == message
    assert body["request_id"] == response.headers["X-Request-Id"]
    return body
