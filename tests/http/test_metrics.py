"""What operators are told in Prometheus's format, who is told, and what a scrape costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import TestResponse

from app.bootstrap import Container
from app.config import Config
from app.stores.postgres import inbox, processes
from app.stores.postgres.processes import ProcessKind
from app.web import create_app
from tests.conftest import ADMIN_KEY, PROJECT, SERVER_KEY
from tests.reconciling import quick
from tests.support import FEATURE, Billing

REQUESTS = "tokentill_http_request_duration_seconds"


def scraped(client: FlaskClient) -> dict[str, dict[tuple[str, ...], float]]:
    """Metric -> values of its labels, in the order of their names -> value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def told_in_docs() -> set[str]:
    text = (PROJECT / "docs" / "metrics.md").read_text()
    return set(re.findall(r"^\| `(tokentill_\w+)", text, re.MULTILINE))


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


class TestWhoIsTold:
    def ask(self, client: FlaskClient, peer: str, headers: dict[str, str] | None = None) -> TestResponse:
        return client.get("/metrics", headers=headers or {}, environ_overrides={"REMOTE_ADDR": peer})

    @pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.7.6", "::1"])
    def test_whoever_is_on_this_machine(self, client: FlaskClient, peer: str) -> None:
        response = self.ask(client, peer)
        assert response.status_code == 200
        assert response.content_type.startswith("text/plain; version=0.0.4")

    @pytest.mark.parametrize("peer", ["10.1.2.3", "192.168.0.9", "2001:db8::1", "8.8.8.8", "", "unknown"])
    def test_nobody_from_elsewhere_without_a_key(self, client: FlaskClient, peer: str) -> None:
        response = self.ask(client, peer)
        assert response.status_code == 401
        assert response.json is not None
        assert (response.json["code"], response.json["message"]) == ("invalid_api_key", "Invalid admin API key")
        assert "tokentill_" not in response.text

    @pytest.mark.parametrize(
        "header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host", "X-Forwarded-Proto"]
    )
    def test_nobody_whom_a_proxy_on_this_machine_speaks_for(self, client: FlaskClient, header: str) -> None:
        assert self.ask(client, "127.0.0.1", {header: "127.0.0.1"}).status_code == 401

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-admin-api-key": ADMIN_KEY},
            {"Authorization": f"Bearer {ADMIN_KEY}"},
            {"authorization": f"bearer  {ADMIN_KEY} "},
        ],
    )
    def test_an_operators_key(self, client: FlaskClient, headers: dict[str, str]) -> None:
        assert self.ask(client, "10.1.2.3", headers).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-admin-api-key": SERVER_KEY},
            {"x-server-api-key": SERVER_KEY},
            {"Authorization": f"Bearer {SERVER_KEY}"},
            {"Authorization": f"Basic {ADMIN_KEY}"},
            {"Authorization": "Bearer"},
            # What is sent in the one header isn't looked for in the other.
            {"x-admin-api-key": "wrong", "Authorization": f"Bearer {ADMIN_KEY}"},
        ],
    )
    def test_no_other_key(self, client: FlaskClient, headers: dict[str, str]) -> None:
        assert self.ask(client, "10.1.2.3", headers).status_code == 401

    def test_everybody_where_that_is_wanted(self, config: Config, container: Container) -> None:
        container.config = replace(config, metrics_are_public=True)
        client = create_app(container=container).test_client()
        assert self.ask(client, "8.8.8.8", {"Via": "1.1 x"}).status_code == 200


class TestRequests:
    def test_by_template_and_status_never_by_path(
        self, client: FlaskClient, shop: Billing, admin_headers: dict[str, str], server_headers: dict[str, str]
    ) -> None:
        run = {"user_id": "user-1", "feature_endpoint_id": FEATURE}
        for body in (run, run, {**run, "user_id": "nobody"}, {}):
            client.post("/api/token-process/start", json=body, headers=server_headers)
        client.post("/api/token-process/start", json=run)
        client.get("/api/admin/wallets/user-1", headers=admin_headers)
        client.get("/api/admin/wallets/secret-user", headers=admin_headers)
        client.delete("/api/admin/wallets/user-1/holds/secret-process", headers=admin_headers)
        client.open("/no/such/secret", method="BREW")
        counted = scraped(client)[f"{REQUESTS}_count"]
        assert counted == {
            ("POST", "/api/token-process/start", "200"): 2,
            ("POST", "/api/token-process/start", "404"): 1,
            ("POST", "/api/token-process/start", "400"): 1,
            ("POST", "/api/token-process/start", "401"): 1,
            ("GET", "/api/admin/wallets/{user_id}", "200"): 1,
            ("GET", "/api/admin/wallets/{user_id}", "404"): 1,
            ("DELETE", "/api/admin/wallets/{user_id}/holds/{process_id}", "404"): 1,
            ("-", "-", "404"): 1,
        }
        assert "secret" not in client.get("/metrics").text

    def test_buckets_add_up(self, client: FlaskClient, shop: Billing, server_headers: dict[str, str]) -> None:
        for _ in range(5):
            body = {"user_id": "user-1", "feature_endpoint_id": FEATURE}
            client.post("/api/token-process/start", json=body, headers=server_headers)
        found = scraped(client)
        buckets = [n for labels, n in found[f"{REQUESTS}_bucket"].items() if "/api/token-process/start" in labels]
        assert len(buckets) == 14
        assert buckets == sorted(buckets)
        assert buckets[-1] == 5
        [seconds] = [n for labels, n in found[f"{REQUESTS}_sum"].items() if "/api/token-process/start" in labels]
        assert 0 < seconds < 5

    def test_the_request_that_asks_is_in_hand(self, client: FlaskClient) -> None:
        found = scraped(client)
        assert list(found["tokentill_http_threads_busy"].values()) == [1]
        assert list(found["tokentill_http_threads"].values()) == [64]


class TestMoney:
    def test_ends_are_counted_where_they_are_kept_and_settled(self, client: FlaskClient, shop: Billing) -> None:
        container = shop.container
        shop.wallet("poor", tokens=5)
        repeated = shop.usage()
        container.end.end_all([repeated, shop.usage(), shop.usage("poor"), shop.usage("poor", output_tokens=4_000)])
        container.end.end(repeated)
        [before] = {scraped(client)["tokentill_ends_settled_total"]["inbox",]}
        assert before == 0
        shop.settle_everything()
        shop.settle_everything()
        found = scraped(client)
        assert found["tokentill_ends_accepted_total"] == {("inbox",): 4, ("spool",): 0}
        assert found["tokentill_ends_settled_total"] == {("inbox",): 2, ("debt",): 0}
        assert found["tokentill_ends_indebted_total"] == {(): 2}
        assert found["tokentill_settlement_lag_seconds_count"] == {(): 4}
        assert found["tokentill_settlement_lag_seconds_bucket"]["+Inf",] == 4
        assert 0 < found["tokentill_settlement_lag_seconds_sum"][()] < 60
        collect(shop, "poor")
        assert scraped(client)["tokentill_debt_tries_total"] == {(): 2}
        shop.execute_in_postgres("UPDATE wallets SET posted_micros = 20000000 WHERE user_id = 'poor'")
        collect(shop, "poor")
        assert scraped(client)["tokentill_ends_settled_total"] == {("inbox",): 2, ("debt",): 1}

    def test_a_lag_is_measured_from_acceptance(self, client: FlaskClient, shop: Billing) -> None:
        shop.container.end.end(shop.usage())
        shop.execute_in_postgres("UPDATE end_inbox SET accepted_at = now() - interval '20 seconds'")
        shop.settle_everything()
        found = scraped(client)["tokentill_settlement_lag_seconds_bucket"]
        assert (found["10",], found["30",]) == (0, 1)

    def test_what_redis_keeps_is_counted_once(self, client: FlaskClient, shop: Billing) -> None:
        container = shop.container
        container.end.end(shop.usage())
        container.postgres_gate.close(ConnectionError("test"))
        kept = shop.usage(output_tokens=4)
        for _ in range(2):
            container.end.end(kept)
        container.postgres_gate.open()
        container.spool_drain.drain()
        assert scraped(client)["tokentill_ends_accepted_total"] == {("inbox",): 1, ("spool",): 1}

    def test_a_refused_end(self, client: FlaskClient, shop: Billing) -> None:
        shop.container.end.end(shop.usage(user_id="user-1"))
        shop.execute_in_postgres(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
            " CREATE TRIGGER refuse BEFORE INSERT ON token_transactions FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        try:
            shop.settle_everything()
        finally:
            shop.execute_in_postgres("DROP TRIGGER refuse ON token_transactions; DROP FUNCTION refuse")
        found = scraped(client)
        assert found["tokentill_ends_refused_total"] == {(): 1}
        assert found["tokentill_inbox_ends"]["dead",] == 1

    def test_amounts_come_from_the_last_sample(self, client: FlaskClient, shop: Billing) -> None:
        shop.wallet("poor", tokens=5)
        shop.container.end.end_all([shop.usage("poor", output_tokens=120), shop.usage(output_tokens=4)])
        shop.container.settlement.settle([UUID(int=1)])
        assert "tokentill_debt_tokens" not in scraped(client)
        assert shop.container.samples.take()
        found = scraped(client)
        for name, value in {
            "debt": 33, "pending": 1.1, "liability": 1_005, "overdrawn": 0, "held": 0,
        }.items():  # fmt: skip
            assert found[f"tokentill_{name}_tokens"] == {(): value}, name
        assert found["tokentill_failed_tokens"] == {("retrying",): 33, ("dead",): 0}
        assert 0 <= found["tokentill_sample_age_seconds"][()] < 70
        shop.execute_in_postgres("UPDATE samples SET minute = minute - interval '10 minutes'")
        found = scraped(client)
        assert 600 <= found["tokentill_sample_age_seconds"][()] < 670
        assert "tokentill_debt_tokens" not in found

    def test_the_oldest_debt(self, client: FlaskClient, shop: Billing) -> None:
        assert scraped(client)["tokentill_oldest_debt_seconds"] == {(): 0}
        shop.wallet("poor", tokens=0)
        shop.container.end.end_all([shop.usage("poor"), shop.usage("poor")])
        shop.execute_in_postgres(
            "UPDATE end_inbox SET accepted_at = now() - interval '1 hour'"
            " WHERE id = (SELECT id FROM end_inbox ORDER BY id LIMIT 1)"
        )
        assert 3_600 <= scraped(client)["tokentill_oldest_debt_seconds"][()] < 3_660


class TestUpkeep:
    def test_the_last_reconciliation(self, client: FlaskClient, shop: Billing) -> None:
        assert "tokentill_reconciliation_age_seconds" not in scraped(client)
        shop.execute_in_postgres(
            "INSERT INTO reconciliations (state, requested_at) VALUES ('failed', now() - interval '2 hours')"
        )
        # None has ever finished.
        found = scraped(client)
        assert 7_200 <= found["tokentill_reconciliation_age_seconds"][()] < 7_230
        assert "tokentill_reconciliation_unrepaired" not in found
        quick(shop.container).run()
        found = scraped(client)
        assert found["tokentill_reconciliation_unrepaired"] == {(): 0}
        assert 0 <= found["tokentill_reconciliation_age_seconds"][()] < 30
        shop.execute("UPDATE wallets SET posted_micros = posted_micros + 1")
        quick(shop.container).run()
        assert scraped(client)["tokentill_reconciliation_unrepaired"][()] >= 1

    def test_processes_that_say_that_they_live(self, client: FlaskClient, shop: Billing) -> None:
        with shop.container.engine.begin() as connection:
            for name, kind in (("a", ProcessKind.WORKER), ("b", ProcessKind.WORKER), ("beat@x", ProcessKind.BEAT)):
                processes.say_alive(connection, name, kind)
        shop.execute_in_postgres("UPDATE processes SET seen_at = now() - interval '100 seconds' WHERE name = 'b'")
        found = scraped(client)
        assert found["tokentill_processes"] == {("web",): 0, ("worker",): 1, ("webhooks",): 0, ("beat",): 1}
        assert found["tokentill_worker_silent_seconds"]["a",] < 30
        assert 100 <= found["tokentill_worker_silent_seconds"]["b",] < 130
        assert found["tokentill_beat_silent_seconds"][()] < 30
        with shop.container.engine.begin() as connection:
            connection.execute(sa.text("UPDATE processes SET seen_at = now() - interval '2 hours' WHERE name = 'b'"))
            assert [process.name for process in processes.find(connection)] == ["beat@x", "a"]
            processes.say_alive(connection, "a", ProcessKind.WORKER)
            assert connection.execute(sa.text("SELECT count(*) FROM processes")).scalar_one() == 2

    def test_wrong_keys_are_counted(self, client: FlaskClient, shop: Billing) -> None:
        for _ in range(40):
            client.get("/api/admin/wallets", headers={"x-admin-api-key": "wrong"})
        found = scraped(client)["tokentill_wrong_keys_total"]
        assert sum(found.values()) == 40
        assert found["refused",] > 0
        assert found["braked",] > 0

    def test_what_is_under_way(self, client: FlaskClient, shop: Billing) -> None:
        assert scraped(client)["tokentill_bulk_operations"] == {("repricing",): 0, ("failed_ends",): 0, ("top_up",): 0}
        shop.execute_in_postgres(
            "INSERT INTO bulk_actions (action, state, selection, ends, cost_micros, reference, reason, actor)"
            " VALUES ('replay', 'running', '{}', 1, 1, 'a', 'b', 'c'), ('replay', 'done', '{}', 1, 1, 'd', 'b', 'c')"
        )
        assert scraped(client)["tokentill_bulk_operations"]["failed_ends",] == 1

    def test_every_metric_is_in_the_documents(self, client: FlaskClient, shop: Billing) -> None:
        with shop.container.engine.begin() as connection:
            processes.say_alive(connection, "w", ProcessKind.WORKER)
            processes.say_alive(connection, "b", ProcessKind.BEAT)
        shop.container.end.end(shop.usage())
        shop.settle_everything()
        quick(shop.container).run()
        shop.container.samples.take()
        shop.execute_in_postgres("UPDATE samples SET lag_p95_seconds = 1")
        client.get("/healthz")
        served = {
            family.name + ("_total" if family.type == "counter" else "")
            for family in text_string_to_metric_families(client.get("/metrics").text)
        }
        assert served == told_in_docs()


def collect(shop: Billing, user_id: str) -> None:
    shop.execute_in_postgres(f"UPDATE wallets SET collect_at = now() WHERE user_id = '{user_id}'")
    shop.container.collection.collect(user_id, seconds=10)


def test_a_scrape_reads_a_bounded_part_of_each_table(client: FlaskClient, shop: Billing) -> None:
    """Whatever the ledger and the wallets have grown to."""
    seen: list[str] = []

    @sa.event.listens_for(shop.container.engine, "before_cursor_execute")
    def _note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    client.get("/metrics")
    asked = " ".join(seen)
    assert "samples" in asked
    assert "token_transactions" not in asked
    assert len(seen) < 15
