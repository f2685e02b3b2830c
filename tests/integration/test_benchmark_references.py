"""What the benchmark compares with does the same work: the same answers, and the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from benchmarks.reference import bare, plain
from benchmarks.reference.drain import BareDrain
from stack.embedded import PostgresServer
from tests.conftest import SERVER_KEY
from tests.support import FEATURE, Billing

HEADERS = {"x-server-api-key": SERVER_KEY}
SHARED_COLUMNS = (
    "user_id, feature_endpoint_id, model, input_tokens, output_tokens, base_cost_micros, profit_micros, cost_micros"
)


@pytest.fixture
def engine(postgres_server: PostgresServer) -> Iterator[sa.Engine]:
    url = postgres_server.create_database(f"reference_{uuid4().hex}")
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()


@pytest.fixture
def plain_client(engine: sa.Engine) -> Iterator[FlaskClient]:
    """The plain way with the same feature, and a wallet of 20 tokens."""
    plain.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(plain.features.insert(), {"id": FEATURE, "profit_basis_points": 1_000})
        connection.execute(plain.wallets.insert(), {"user_id": "u", "posted_micros": 20_000_000})
    app = plain.create_app(engine.url.render_as_string(hide_password=False), SERVER_KEY, connections=2)
    yield app.test_client()
    app.extensions["engine"].dispose()


def end(client: FlaskClient, output_token: int, key: str | None = None, **fields: Any) -> tuple[int, Any, str | None]:
    body = {"user_id": "u", "feature_endpoint_id": FEATURE, "input_token": 3, "output_token": output_token, **fields}
    headers = HEADERS if key is None else {**HEADERS, "Idempotency-Key": key}
    answer = client.post("/api/token-process/end", json=body, headers=headers)
    assert answer.json is not None
    said = answer.json.get("data") or answer.json["message"]
    return answer.status_code, said, answer.headers.get("Idempotent-Replayed")


class TestPlainWay:
    def test_it_answers_and_records_what_tokentill_does(
        self, billing: Billing, client: FlaskClient, plain_client: FlaskClient, engine: sa.Engine
    ) -> None:
        billing.catalog()
        billing.wallet("u", tokens=20)
        calls: list[dict[str, Any]] = [
            {"output_token": 40, "key": "run-1"},
            {"output_token": 1, "key": "run-2", "model": "model-1"},
            {"output_token": 1},
            # Again, with another body, and more than there is.
            {"output_token": 40, "key": "run-1"},
            {"output_token": 41, "key": "run-1"},
            {"output_token": 400, "key": "run-3"},
            {"output_token": 400, "key": "run-3"},
            # What can't be billed.
            {"output_token": 4, "user_id": "nobody"},
            {"output_token": 4, "feature_endpoint_id": "unknown"},
            {"output_token": -1},
            {"output_token": True},
            {"output_token": 4, "model": ""},
        ]
        for call in calls:
            assert end(plain_client, **call) == end(client, **call), call

        billing.settle_everything()
        with engine.connect() as connection:
            query = f"SELECT {SHARED_COLUMNS}, balance_after_micros, idempotency_key FROM transactions WHERE is_paid"
            ours = [dict(row._mapping) for row in connection.execute(sa.text(query))]
            owed = connection.execute(sa.text("SELECT posted_micros, debt_micros FROM wallets")).one()
        columns = [*SHARED_COLUMNS.split(", "), "balance_after_micros"]
        theirs = [
            {**{name: getattr(entry, name) for name in columns}, "idempotency_key": entry.reference}
            for entry in billing.ledger("u")
            if entry.kind == "usage"
        ]
        assert ours == theirs
        assert len(ours) == 3
        balance = billing.balance("u")
        assert (owed.posted_micros, owed.debt_micros) == (balance.posted_micros, balance.debt_micros)

    def test_it_wants_the_key(self, plain_client: FlaskClient) -> None:
        answer = plain_client.post("/api/token-process/end", json={})
        assert (answer.status_code, answer.json["message"]) == (401, "Invalid server API key")


def test_the_bare_route_answers_as_start_does(
    billing: Billing, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing.catalog()
    billing.wallet("u", tokens=bare.TOKENS)
    monkeypatch.setenv("SERVER_API_KEY", SERVER_KEY)
    bare_client = bare.create_app().test_client()
    for body, headers in (
        ({"user_id": "u", "feature_endpoint_id": FEATURE}, HEADERS),
        ({"user_id": "u", "feature_endpoint_id": FEATURE}, {}),
        ({"user_id": 5, "feature_endpoint_id": FEATURE}, HEADERS),
    ):
        ours, theirs = (
            each.post("/api/token-process/start", json=body, headers=headers) for each in (bare_client, client)
        )
        assert ours.status_code == theirs.status_code
        body_of_ours, body_of_theirs = ours.json, theirs.json
        if ours.status_code == 200:
            # Each has an id of its own, as long as the other's.
            ids = [each["data"].pop("process_id") for each in (body_of_ours, body_of_theirs)]
            assert len(ids[0]) == len(ids[1])
            assert body_of_ours == body_of_theirs
        else:
            assert body_of_ours["message"] == body_of_theirs["message"]


def test_the_bare_statement_settles_what_waits(engine: sa.Engine) -> None:
    drain = BareDrain(engine, ["a", "b"], FEATURE, posted_micros=1_000_000_000)
    drain.fill(25)
    assert drain.drain(ends_per_statement=10) > 0
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM drain_waiting")).scalar_one() == 0
        wallets = connection.execute(
            sa.text("""
                SELECT w.posted_micros, 1000000000 + sum(amount_micros) AS summed, count(*) AS entries,
                    (array_agg(balance_after_micros ORDER BY id))[count(*)] AS last
                FROM drain_wallets AS w JOIN drain_transactions AS t USING (user_id) GROUP BY w.user_id, w.posted_micros
            """)
        ).all()
        steps = connection.execute(
            sa.text("""
                SELECT count(*) FROM (
                    SELECT balance_after_micros - amount_micros - lag(balance_after_micros, 1, 1000000000)
                        OVER (PARTITION BY user_id ORDER BY id) AS gap FROM drain_transactions
                ) AS s WHERE gap <> 0
            """)
        ).scalar_one()
    assert sum(wallet.entries for wallet in wallets) == 25
    assert all(wallet.posted_micros == wallet.summed == wallet.last for wallet in wallets)
    assert steps == 0
