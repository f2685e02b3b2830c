"""An upgrade of a database in which ends wait: each is billed as promised, and each key answers as it did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from redis import Redis
from uuid_utils.compat import uuid7

from app.bootstrap import Container
from app.config import Config
from app.domain.errors import IdempotencyConflict
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from stack.embedded import PostgresServer
from tests.support import FEATURE, PACKAGE, Billing, assert_conserved

ALEMBIC = AlembicConfig(str(Path(__file__).parent.parent.parent / "alembic.ini"))
TOKEN = 1_000_000
# 40 output tokens at a profit of 10 percent.
COST = 11 * TOKEN
DATABASE = "upgraded"


class OldDatabase:
    """Writes as the version of schema 0002 did."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def catalog(self) -> None:
        self._execute("INSERT INTO feature_endpoints (id, name, min_micros) VALUES (:id, 'Text', 0)", id=FEATURE)
        self._execute("INSERT INTO packages (id, name) VALUES (:id, 'Basic')", id=PACKAGE)
        self._execute("INSERT INTO package_features VALUES (:package, :feature)", package=PACKAGE, feature=FEATURE)
        self._execute("INSERT INTO profit_rules (basis_points, effective_from) VALUES (1000, '2020-01-01Z')")

    def wallet(self, user_id: str, tokens: int) -> None:
        self._execute(
            "INSERT INTO wallets (user_id, package_id, posted_micros) VALUES (:user_id, :package, :micros)",
            user_id=user_id,
            package=PACKAGE,
            micros=tokens * TOKEN,
        )
        if tokens:
            self._execute(
                """INSERT INTO token_transactions (user_id, kind, amount_micros, balance_after_micros, reference)
                VALUES (:user_id, 'top_up', :micros, :micros, 'opening')""",
                user_id=user_id,
                micros=tokens * TOKEN,
            )

    def rule(self, basis_points: int) -> int:
        """A profit rule of a model that nobody uses; its id."""
        with self.engine.begin() as connection:
            statement = "INSERT INTO profit_rules (basis_points, model) VALUES (:points, 'dear') RETURNING id"
            return int(connection.execute(sa.text(statement), {"points": basis_points}).scalar_one())

    def end(self, user_id: str, state: str, *, key: str | None = None, error: str | None = None, **fields: Any) -> UUID:
        end_id = uuid7()
        values = {
            "id": end_id,
            "user_id": user_id,
            "feature": FEATURE,
            "cost": COST,
            "state": state,
            "error": error,
            "key": key,
            "attempts": 0,
            "rule": 1,
            "output": 40,
            **fields,
        }
        self._execute(
            """INSERT INTO end_inbox (id, user_id, feature_endpoint_id, input_tokens, output_tokens, idempotency_key,
                profit_rule_id, cost_micros, state, last_error, attempts, next_attempt_at)
            VALUES (:id, :user_id, :feature, 10, :output, :key, :rule, :cost, :state, :error, :attempts,
                CASE WHEN :state = 'retrying' THEN now() + interval '1 hour' END)""",
            **values,
        )
        if key is not None:
            self._execute(
                """INSERT INTO end_keys (
                    end_id, user_id, idempotency_key, payload_hash, cost_micros, spendable_micros, deduction
                ) VALUES (:id, :user_id, :key, :hash, :cost, 123, 'return-able')""",
                **{**values, "hash": old_hash(user_id)},
            )
        return end_id

    def reconciliation(self, drifted: list[dict[str, Any]]) -> None:
        self._execute(
            "INSERT INTO reconciliations (state, finished_at, drifted) VALUES ('done', now(), CAST(:drifted AS jsonb))",
            drifted=json.dumps(drifted),
        )

    def _execute(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)


def old_hash(user_id: str) -> str:
    body = (user_id, FEATURE, 10, 40, None, None)
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


@pytest.fixture
def url(postgres_server: PostgresServer, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database of schema 0002."""
    url = postgres_server.create_database(DATABASE)
    monkeypatch.setenv("DATABASE_URL", url)
    command.upgrade(ALEMBIC, "0002")
    yield url
    engine = sa.create_engine(environment["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {DATABASE} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def old(url: str, redis_client: Redis) -> Iterator[OldDatabase]:
    redis_client.flushall()
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    database = OldDatabase(engine)
    database.catalog()
    yield database
    engine.dispose()


@pytest.fixture
def upgrade(url: str, config: Config) -> Iterator[Any]:
    containers: list[Container] = []

    def upgrade() -> Billing:
        command.upgrade(ALEMBIC, "head")
        sqlalchemy_url = url.replace("postgresql://", "postgresql+psycopg://")
        container = Container(replace(config, database_url=sqlalchemy_url), is_watched=True)
        containers.append(container)
        container.catalog.refresh()
        return Billing(container)

    yield upgrade
    for container in containers:
        container.close()


def top_up(shop: Billing, user_id: str, tokens: int) -> None:
    shop.container.postings.post(Posting(user_id, PostingKind.TOP_UP, tokens * TOKEN, "paid"))


def collect_due(shop: Billing) -> None:
    for wallet in shop.container.collection.due_wallets(100):
        shop.container.collection.collect(wallet.wallet_id, seconds=60)


def test_ends_that_wait_are_settled_after_an_upgrade(old: OldDatabase, upgrade: Any) -> None:
    old.wallet("pays", tokens=100)
    old.wallet("owes", tokens=5)
    accepted = [old.end("pays", "accepted") for _ in range(3)]
    retrying = [old.end("owes", "retrying", error="insufficient_tokens", attempts=2) for _ in range(2)]
    dead = old.end("owes", "dead", error="insufficient_tokens", attempts=10)
    shop = upgrade()

    shop.settle_everything()
    assert [entry.end_id for entry in shop.ledger("pays")[1:]] == accepted
    assert shop.ledger("pays")[-1].profit_micros == 1 * TOKEN
    assert shop.balance("owes").debt_micros == 3 * COST

    top_up(shop, "owes", 40)
    collect_due(shop)
    assert [entry.end_id for entry in shop.ledger("owes")[2:]] == [*retrying, dead]
    assert shop.inbox_size() == 0
    assert shop.balance("owes").debt_micros == 0
    assert_conserved(shop, "pays", "owes")
    assert shop.container.reconciliation.run().adds_up


def test_debts_are_tried_again_when_they_were_to_be(old: OldDatabase, upgrade: Any) -> None:
    old.wallet("owes", tokens=100)
    end_id = old.end("owes", "retrying", error="insufficient_tokens", attempts=2)
    shop = upgrade()

    collect_due(shop)
    assert len(shop.inbox("owes")) == 1  # An hour was to pass.

    shop.execute_in_postgres("UPDATE wallets SET collect_at = collect_at - interval '1 hour'")
    collect_due(shop)
    assert shop.ledger("owes")[-1].end_id == end_id


def test_dead_letters_of_every_kind_are_replayed_or_written_off(old: OldDatabase, upgrade: Any) -> None:
    old.wallet("user", tokens=100)
    disagrees = old.end("user", "dead", error="quote_disagrees", cost=7 * TOKEN)
    refused = old.end("user", "dead", error="NumericValueOutOfRange")
    reused = old.end("user", "dead", error="idempotency_key_reused")
    shop = upgrade()
    assert shop.balance("user").debt_micros == 2 * COST + 7 * TOKEN
    assert shop.container.reconciliation.run().adds_up

    for end_id in (disagrees, refused):
        shop.container.failed_ends.replay(end_id)
    shop.settle_everything()
    assert [entry.end_id for entry in shop.ledger("user")[1:]] == [refused]
    shop.container.failed_ends.write_off(reused, "a mistake", Caller("test"))
    shop.container.failed_ends.write_off(disagrees, "a mistake", Caller("test"))

    assert shop.balance("user").debt_micros == 0
    assert shop.balance("user").posted_micros == 100 * TOKEN - COST
    assert_conserved(shop, "user")


def test_more_than_the_sum_of_debts_can_hold_waits_all_the_same(old: OldDatabase, upgrade: Any) -> None:
    old.wallet("owes", tokens=100)
    old.wallet("pays", tokens=100)
    rule, cost = old.rule(1_000_000), 2_525_000_000_000_000
    for _ in range(4):
        old.end("owes", "retrying", error="insufficient_tokens", output=100_000_000, rule=rule, cost=cost)
    old.end("nobody", "dead", error="wallet_missing")
    neighbour = old.end("pays", "accepted")
    shop = upgrade()
    assert shop.balance("owes").debt_micros == 4 * cost

    shop.settle_everything()
    assert shop.ledger("pays")[-1].end_id == neighbour
    told = [end.cost_micros for end in shop.inbox("owes") if end.is_debt]
    assert [end.last_error for end in shop.inbox("owes")] == [*["insufficient_tokens"] * 3, "debt_out_of_range"]
    assert told == [cost] * 3
    assert shop.balance("owes").debt_micros == 4 * cost
    found = shop.container.reconciliation.run()
    assert [drift.kind for drift in found.drifted] == ["wallet_missing"]


def test_a_key_answers_after_an_upgrade_as_before(old: OldDatabase, upgrade: Any, redis_client: Redis) -> None:
    old.wallet("user", tokens=100)
    end_id = old.end("user", "accepted", key="order-1")
    # As the version before remembered it: no price, and a hash that doesn't tell how it was made.
    record = {"end": str(end_id), "hash": old_hash("user"), "available": "123", "held": "0", "deduction": "return-able"}
    redis_client.hset("tokentill:{user}:key:order-1", mapping=record)  # type: ignore[arg-type]
    shop = upgrade()

    neighbour, again, other = shop.container.end.end_all(
        [
            shop.usage("user"),
            shop.usage("user", idempotency_key="order-1"),
            shop.usage("user", idempotency_key="order-1", output_tokens=41),
        ]
    )
    assert not isinstance(neighbour, Exception)
    assert not isinstance(again, Exception)
    assert (again.replayed, again.cost_micros, again.spendable_micros) == (True, COST, 123)
    assert isinstance(other, IdempotencyConflict)

    shop.settle_everything()
    assert len(shop.ledger("user")) == 3
    assert_conserved(shop, "user")


def test_who_ran_it_is_who_pays(old: OldDatabase, upgrade: Any) -> None:
    old.wallet("alice", tokens=100)
    old.wallet("bob", tokens=50)
    waiting = old.end("bob", "accepted")
    shop = upgrade()

    with shop.container.engine.connect() as connection:
        for table in ("wallets", "token_transactions", "end_inbox"):
            rows = connection.execute(sa.text(f"SELECT wallet_id, user_id FROM {table} ORDER BY user_id")).all()
            users = ["bob"] if table == "end_inbox" else ["alice", "bob"]
            assert rows == [(user_id, user_id) for user_id in users]
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        shop.execute_in_postgres("UPDATE token_transactions SET user_id = 'carol'")

    shop.settle_everything()
    assert [(entry.wallet_id, entry.user_id) for entry in shop.ledger("bob")] == [("bob", "bob")] * 2
    assert shop.ledger("bob")[-1].end_id == waiting


def test_what_reconciliations_found_can_still_be_read(old: OldDatabase, upgrade: Any) -> None:
    drifted = [
        {
            "user_id": user_id,
            "kind": "ledger_sum",
            "expected_micros": 1,
            "found_micros": 2,
            "detail": "",
            "repaired": False,
        }
        for user_id in ("zoe", "alice")
    ]
    old.reconciliation(drifted)
    old.reconciliation([])
    shop = upgrade()

    found = shop.container.reconciliation.get(1)
    assert [(drift.wallet_id, drift.found_micros) for drift in found.drifted] == [("zoe", 2), ("alice", 2)]
    assert shop.container.reconciliation.get(2).drifted == []
