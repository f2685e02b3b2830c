from __future__ import annotations

from flask.testing import FlaskClient

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


def test_metrics_without_stores(client: FlaskClient, billing: Billing) -> None:
    billing.container.postgres_gate.close(ConnectionError("test"))
    billing.container.redis_gate.close(ConnectionError("test"))
    response = client.get("/metrics")
    assert response.status_code == 200
    assert 'tokentill_store_up{store="postgres"} 0.0' in response.text
