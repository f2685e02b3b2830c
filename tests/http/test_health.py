from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from flask.testing import FlaskClient

from app.stores.postgres import inbox
from tests.support import Billing


def test_the_process_answers(client: FlaskClient) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_ready_names_each_dependency(client: FlaskClient, billing: Billing) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json == {"status": "ready", "dependencies": {"postgres": "up", "redis": "up"}}

    billing.container.postgres_gate.close(ConnectionError("test"))
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json == {"status": "ready", "dependencies": {"postgres": "down", "redis": "up"}}

    billing.container.redis_gate.close(ConnectionError("test"))
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json == {"status": "unavailable", "dependencies": {"postgres": "down", "redis": "down"}}


def test_metrics_tell_what_waits_and_nothing_about_users(client: FlaskClient, billing: Billing) -> None:
    billing.catalog()
    billing.wallet("secret-user", tokens=15)
    for _ in range(2):
        billing.container.end.end(billing.usage("secret-user"))
    text = client.get("/metrics").text
    assert 'tokentill_inbox_ends{state="accepted"} 1.0' in text
    assert 'tokentill_inbox_ends{state="retrying"} 1.0' in text
    assert 'tokentill_store_up{store="redis"} 1.0' in text
    assert 'tokentill_queue_messages{queue="settle"}' in text
    assert "tokentill_spool_ends 0.0" in text
    assert "secret-user" not in text


def test_metrics_read_a_bounded_part_of_the_inbox(client: FlaskClient, billing: Billing) -> None:
    """However much waits: up to a bound it is counted, beyond it Postgres's own estimate stands."""
    billing.execute(
        "INSERT INTO end_inbox"
        " (id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens, base_cost_micros, profit_micros,"
        " cost_micros, is_debt, state)"
        " SELECT gen_random_uuid(), 'u', 'u', 'f', 0, 0, 1, 0, 1, i > 3,"
        " CASE WHEN i <= 3 THEN 'accepted' WHEN i <= 5 THEN 'dead' ELSE 'retrying' END"
        " FROM generate_series(1, 30000) AS i"
    )
    with billing.container.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE end_inbox"))
        explain = sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {inbox._SUMMARY.text}")
        plan = connection.execute(explain, {"counted_max": inbox.COUNTED_MAX}).scalar_one()[0]["Plan"]
    scans = list(scans_of(plan))
    assert len([scan for scan in scans if "Relation Name" in scan]) == 4
    for scan in scans:
        assert scan["Node Type"] != "Seq Scan"
        assert scan["Actual Rows"] <= inbox.COUNTED_MAX
        assert scan.get("Rows Removed by Filter", 0) == 0
    text = client.get("/metrics").text
    assert 'tokentill_inbox_ends{state="accepted"} 3.0' in text
    assert 'tokentill_inbox_ends{state="dead"} 2.0' in text
    assert 'tokentill_inbox_ends{state="retrying"} 29995.0' in text


def scans_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in plan or "Index Name" in plan:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans_of(part)


def test_metrics_without_stores(client: FlaskClient, billing: Billing) -> None:
    billing.container.postgres_gate.close(ConnectionError("test"))
    billing.container.redis_gate.close(ConnectionError("test"))
    response = client.get("/metrics")
    assert response.status_code == 200
    assert 'tokentill_store_up{store="postgres"} 0.0' in response.text
