"""Writing failed ends off over the admin API: the balance stays, and nothing bills them again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

import sqlalchemy as sa
from flask.testing import FlaskClient

from app.billing.start import StartRequest
from app.bootstrap import Container
from app.domain.errors import NotFound
from app.domain.keys import Caller
from app.domain.wallets import Access
from stack.embedded import PostgresServer
from tests.http.admin import PREFIX, Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved, collect_now


def start(container: Container) -> Access:
    return container.start.start(StartRequest("u", FEATURE)).access


class TestWriteOff:
    def test_the_balance_stays_and_both_entries_say_why(self, admin: Admin, till: Billing, owed: str) -> None:
        assert start(till.container) is Access.DENIED
        response = admin.post(f"/failed-ends/{owed}/write-off", {"reason": "Customer left"})
        entry = data(response, 201)
        assert "Idempotent-Replayed" not in response.headers
        assert (entry["kind"], entry["token"], entry["balance_after"], entry["reason"], entry["actor"]) == (
            "write_off",
            33,
            53,
            "Customer left",
            "admin",
        )
        assert entry["reference"] is None

        usage, write_off, _ = data(admin.get("/wallets/u/transactions"))["items"]
        assert write_off == entry
        assert (
            usage.items()
            >= {
                "kind": "usage",
                "token": -33,
                "balance_after": 20,
                "base_cost": 30,
                "profit": 3,
                "cost": 33,
                "input_token": 10,
                "output_token": 120,
                "model": "large",
                "feature_endpoint_id": FEATURE,
                "reference": "run-1",
            }.items()
        )
        assert till.inbox("u") == []
        assert till.balance("u").posted_micros == 20_000_000
        assert till.cached_spendable_micros("u") == 20_000_000
        assert start(till.container) is Access.GRANTED
        assert stale_wallets(till.container) == []
        assert_conserved(till, "u")

    def test_it_cannot_be_billed_again(self, admin: Admin, till: Billing, owed: str) -> None:
        [row] = till.inbox("u")
        data(admin.post(f"/failed-ends/{owed}/write-off", {"reason": "Customer left"}), 201)
        data(admin.post("/wallets/u/top-ups", {"token": 100, "reference": "r"}), 201)
        container = till.container
        container.settlement.settle([UUID(owed)])
        collect_now(container, "u")
        # Sent again by its service server it is answered as it was.
        again = container.end.end(till.usage("u", output_tokens=120, idempotency_key="run-1", model="large"))
        assert (again.replayed, again.cost_micros) == (True, 33_000_000)
        # Even if the row came back it would find its usage entered.
        columns = ", ".join(row._mapping)
        with container.engine.begin() as connection:
            connection.execute(
                sa.text(f"INSERT INTO end_inbox ({columns}) VALUES ({', '.join(f':{name}' for name in row._mapping)})"),
                {**row._mapping, "state": "accepted"},
            )
        till.settle_everything()
        assert till.inbox("u") == []
        assert till.balance("u").posted_micros == 120_000_000
        assert_conserved(till, "u")

    def test_repeated(self, admin: Admin, till: Billing, owed: str) -> None:
        first = data(admin.post(f"/failed-ends/{owed}/write-off", {"reason": "Customer left"}), 201)
        again = admin.post(f"/failed-ends/{owed}/write-off", {"reason": "Customer left"})
        assert data(again, 200) == first
        assert again.headers["Idempotent-Replayed"] == "true"
        assert len(till.ledger("u")) == 3

    def test_many_at_once(self, till: Billing, owed: str) -> None:
        def write_off(i: int) -> bool:
            return till.container.failed_ends.write_off(UUID(owed), "Gone", Caller(f"operator-{i}")).replayed

        with ThreadPoolExecutor(8) as pool:
            replayed = list(pool.map(write_off, range(16)))
        assert replayed.count(False) == 1
        assert len(till.ledger("u")) == 3
        assert_conserved(till, "u")

    def test_in_the_midst_of_retries_settlements_and_replays(
        self, till: Billing, postgres_server: PostgresServer
    ) -> None:
        """Whoever comes first: each end is billed or written off, once, and nobody waits for ever."""
        container = till.container
        for _ in range(30):
            container.end.end(till.usage("u", output_tokens=40))
        ids = [end.id for end in till.inbox("u")]

        def act(i: int) -> None:
            end_id = ids[i % len(ids)]
            match i % 4:
                case 0:
                    # It may be settled, or about to be.
                    with suppress(NotFound):
                        container.failed_ends.write_off(end_id, "Gone", Caller("me"))
                case 1:
                    container.collection.collect("u", seconds=1)
                case 2:
                    container.settlement.settle(ids)
                case 3:
                    with suppress(NotFound):
                        container.failed_ends.replay(end_id)

        deadlocks_before = deadlocks(postgres_server)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(act, range(120)))
        assert deadlocks(postgres_server) == deadlocks_before
        ledger = till.ledger("u")
        written_off = [entry.end_id for entry in ledger if entry.kind == "write_off"]
        used = [entry.end_id for entry in ledger if entry.kind == "usage"]
        assert len(set(used)) == len(used)
        assert set(written_off) <= set(used)
        assert sorted(used + [end.id for end in till.inbox("u")]) == sorted(ids)
        assert till.balance("u").posted_micros == 20_000_000 - 11_000_000 * (len(used) - len(written_off))
        container.stale_copies.refresh(older_than_seconds=0)
        assert till.cached_spendable_micros("u") == till.balance("u").spendable_micros
        assert_conserved(till, "u")

    def test_the_promised_cost_counts(self, admin: Admin, till: Billing, disagreeing: str) -> None:
        data(admin.post(f"/failed-ends/{disagreeing}/write-off", {"reason": "Bad quote"}), 201)
        usage = data(admin.get("/wallets/u/transactions"))["items"][0]
        assert (usage["base_cost"], usage["profit"], usage["cost"]) == (10, 0, 10)
        assert_conserved(till, "u")

    def test_an_actor_of_ones_own(self, client: FlaskClient, admin_headers: dict[str, str], owed: str) -> None:
        response = client.post(
            f"{PREFIX}/failed-ends/{owed}/write-off",
            json={"reason": "Customer left"},
            headers={**admin_headers, "X-Actor": "alice@example.com"},
        )
        assert data(response, 201)["actor"] == "admin/alice@example.com"

    def test_bad_requests(self, client: FlaskClient, admin: Admin, admin_headers: dict[str, str], owed: str) -> None:
        path = f"/failed-ends/{owed}/write-off"
        for body in ({}, {"reason": None}, {"reason": ""}, {"reason": 5}, {"reason": "x" * 1_001}):
            assert_invalid(admin.post(path, body), "reason")
        for actor in ("", "x" * 129):
            response = client.post(PREFIX + path, json={}, headers={**admin_headers, "X-Actor": actor})
            assert_invalid(response, "reason", "X-Actor")
        failure(client.post(PREFIX + path, data="{}", headers=admin_headers), 415, "unsupported_media_type")

    def test_billed_meanwhile(self, admin: Admin, till: Billing, owed: str) -> None:
        till.execute("UPDATE wallets SET posted_micros = posted_micros - 33000000")
        with till.container.engine.begin() as connection:
            connection.execute(
                sa.text("""
                    INSERT INTO token_transactions (wallet_id, user_id, kind, amount_micros, balance_after_micros,
                        base_cost_micros, profit_micros, cost_micros, end_id)
                    VALUES ('u', 'u', 'usage', -33000000, -13000000, 30000000, 3000000, 33000000, :id)
                """),
                {"id": owed},
            )
        failure(admin.post(f"/failed-ends/{owed}/write-off", {"reason": "Gone"}), 409, "already_exists")

    def test_without_a_wallet(self, admin: Admin, till: Billing, owed: str) -> None:
        till.execute("UPDATE end_inbox SET wallet_id = 'nobody', state = 'dead', last_error = 'wallet_missing'")
        failure(admin.post(f"/failed-ends/{owed}/write-off", {"reason": "Gone"}), 404, "wallet_not_found")

    def test_an_accepted_end_has_not_failed(self, admin: Admin, till: Billing) -> None:
        till.container.end.end(till.usage("u"))
        [end] = till.inbox("u")
        failure(admin.post(f"/failed-ends/{end.id}/write-off", {"reason": "Gone"}), 404, "not_found")


def deadlocks(server: PostgresServer) -> int:
    return server.log_path.read_text(errors="replace").count("deadlock detected")


def stale_wallets(container: Container) -> list[str]:
    with container.engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT unnest(wallet_ids) FROM stale_notes")).scalars())
