from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from marshmallow import Schema
from werkzeug.test import TestResponse

from tests.described import NO_OPERATION, body_schemas, described
from tests.http.admin import Admin
from tests.support import Billing


@pytest.fixture(autouse=True)
def _as_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test asks: the answer is as the API's description says, and so is the schema that read the body."""
    send, load = FlaskClient.open, Schema.load
    loaded: list[type] = []

    def checked_load(schema: Schema, *args: Any, **kwargs: Any) -> Any:
        loaded.append(type(schema))
        return load(schema, *args, **kwargs)

    def checked_send(client: FlaskClient, *args: Any, **kwargs: Any) -> TestResponse:
        loaded.clear()
        response = send(client, *args, **kwargs)
        if kwargs.get("buffered", True) and response.request.method not in ("OPTIONS", "HEAD"):
            app, request = client.application, response.request
            if (route := described().route(app, request.method, request.path)) is not None:
                described().check(route, response)
                assert not loaded or loaded[0] is body_schemas(route), f"{route.path} reads bodies by {loaded[0]}"
            else:
                assert response.status_code in (401, *NO_OPERATION), response.text
        return response

    monkeypatch.setattr(Schema, "load", checked_load)
    monkeypatch.setattr(FlaskClient, "open", checked_send)


@pytest.fixture
def admin(client: FlaskClient, admin_headers: dict[str, str]) -> Admin:
    return Admin(client, admin_headers)


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """The wallet `user-1` with 1,000 tokens, and a profit of 10 %."""
    billing.catalog(basis_points=1_000)
    billing.wallet("user-1", tokens=1_000)
    return billing


@pytest.fixture
def till(billing: Billing) -> Billing:
    """The wallet `u` with 20 tokens."""
    billing.catalog()
    billing.wallet("u", tokens=20)
    return billing


@pytest.fixture
def owed(till: Billing) -> str:
    """An end of 33 tokens that the wallet can't pay; its id."""
    till.container.end.end(till.usage("u", output_tokens=120, idempotency_key="run-1", model="large"))
    [end] = till.inbox("u")
    return str(end.id)


@pytest.fixture
def disagreeing(till: Billing) -> str:
    """An end of 11 tokens, quoted as 10, which settlement has put aside; its id."""
    till.container.end.end(till.usage("u", output_tokens=40))
    till.execute("UPDATE end_inbox SET cost_micros = 10000000")
    till.settle_everything()
    [end] = till.inbox("u")
    assert (end.state, end.last_error) == ("dead", "quote_disagrees")
    return str(end.id)
