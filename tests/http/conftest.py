from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.http.admin import Admin
from tests.support import Billing


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
