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
