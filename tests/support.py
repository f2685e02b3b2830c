"""Shorthands that tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from app.bootstrap import Container
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.ends import EndRequest
from app.domain.usage import Usage
from app.domain.wallets import Balance, wallet_of
from app.stores.postgres import balances
from app.stores.postgres.engine import allow_seconds

FEATURE = "feature-text"
PACKAGE = "package-basic"


class Billing:
    """A small company with one feature in one package, and its users' wallets."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def catalog(self, basis_points: int | None = 1_000, min_micros: int = MICROS_PER_TOKEN) -> None:
        with self.container.engine.begin() as connection:
            connection.execute(
                sa.text("INSERT INTO feature_endpoints (id, name, min_micros) VALUES (:id, 'Text', :least)"),
                {"id": FEATURE, "least": min_micros},
            )
            connection.execute(sa.text("INSERT INTO packages (id, name) VALUES (:id, 'Basic')"), {"id": PACKAGE})
            connection.execute(
                sa.text("INSERT INTO package_features VALUES (:package, :feature)"),
                {"package": PACKAGE, "feature": FEATURE},
            )
            if basis_points is not None:
                connection.execute(
                    sa.text("INSERT INTO profit_rules (basis_points, effective_from) VALUES (:points, '2020-01-01Z')"),
                    {"points": basis_points},
                )
            connection.execute(sa.text("UPDATE system_state SET catalog_version = catalog_version + 1"))
        self.container.catalog.refresh()

    def wallet(self, user_id: str = "user-1", tokens: int = 1_000, overdraft_tokens: int = 0) -> str:
        """A wallet with so many tokens posted by a top-up; its user id."""
        micros = tokens * MICROS_PER_TOKEN
        with self.container.engine.begin() as connection:
            connection.execute(
                sa.text("""
                    INSERT INTO wallets (wallet_id, user_id, package_id, posted_micros, overdraft_limit_micros)
                    VALUES (:user_id, :user_id, :package, :micros, :overdraft)
                """),
                {
                    "user_id": user_id,
                    "package": PACKAGE,
                    "micros": micros,
                    "overdraft": overdraft_tokens * MICROS_PER_TOKEN,
                },
            )
            if micros:
                connection.execute(
                    sa.text("""
                        INSERT INTO token_transactions (
                            wallet_id, user_id, kind, amount_micros, balance_after_micros, reference
                        )
                        VALUES (:user_id, :user_id, 'top_up', :micros, :micros, 'opening')
                    """),
                    {"user_id": user_id, "micros": micros},
                )
        return user_id

    def execute(self, statement: str) -> None:
        """Change Postgres behind the services' back, and forget what was cached."""
        self.execute_in_postgres(statement)
        self.container.redis_client.flushall()

    def execute_in_postgres(self, statement: str) -> None:
        with self.container.engine.begin() as connection:
            connection.execute(sa.text(statement))

    def announce_catalog(self) -> None:
        self.execute("UPDATE system_state SET catalog_version = catalog_version + 1")
        self.container.catalog.refresh()

    def usage(self, user_id: str = "user-1", output_tokens: int = 40, **fields: Any) -> EndRequest:
        """An end with a key of its own, unless it is given one."""
        kinds = {name: fields.pop(name) for name in Usage.__dataclass_fields__ if name in fields}
        usage = Usage(**{"input_tokens": 10, "output_tokens": output_tokens, **kinds})
        if usage.input_tokens + usage.output_tokens == 0 and "requests" not in kinds:
            usage = replace(usage, requests=0)
        named = {"user_id": user_id, "feature_endpoint_id": FEATURE, "idempotency_key": uuid4().hex, **fields}
        return EndRequest(usage=usage, **named)

    def balance(self, user_id: str = "user-1") -> Balance:
        """What Postgres knows of a wallet."""
        with self.container.engine.connect() as connection:
            return balances.balances(connection, [wallet_of(user_id)])[wallet_of(user_id)].balance

    def cached_spendable_micros(self, user_id: str = "user-1") -> int | None:
        """What Redis knows of a wallet, None when it isn't cached."""
        found = self.container.wallet_holds.release(wallet_of(user_id), "", 0)
        return None if found is None else found.spendable_micros

    def ledger(self, user_id: str = "user-1") -> list[Any]:
        """A wallet's entries, oldest first."""
        with self.container.engine.connect() as connection:
            return list(
                connection.execute(
                    sa.text("SELECT * FROM token_transactions WHERE wallet_id = :user_id ORDER BY id"),
                    {"user_id": user_id},
                )
            )

    def inbox(self, user_id: str = "user-1") -> list[Any]:
        """A wallet's unsettled ends, oldest first."""
        with self.container.engine.connect() as connection:
            return list(
                connection.execute(
                    sa.text("SELECT * FROM end_inbox WHERE wallet_id = :user_id ORDER BY id"),
                    {"user_id": user_id},
                )
            )

    def inbox_size(self) -> int:
        with self.container.engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT count(*) FROM end_inbox")).scalar_one())

    def settle_everything(self) -> None:
        """What the sweep does."""
        self.container.settlement.sweep(older_than_seconds=0)


def collect_now(container: Container, user_id: str) -> None:
    """What happens when the debts of a wallet are due."""
    container.settlement.sweep(older_than_seconds=0)
    with container.engine.begin() as connection:
        # Whoever holds the wallet's row meanwhile may be slow on a busy machine.
        allow_seconds(connection, 60)
        connection.execute(
            sa.text("UPDATE wallets SET collect_at = now() WHERE user_id = :user_id"), {"user_id": user_id}
        )
    container.collection.collect(wallet_of(user_id), seconds=60)


def assert_conserved(billing: Billing, *user_ids: str) -> None:
    """Each wallet's ledger sums up to its balance, entry by entry."""
    for user_id in user_ids:
        balance_micros = 0
        for entry in billing.ledger(user_id):
            balance_micros += entry.amount_micros
            assert entry.balance_after_micros == balance_micros
        assert billing.balance(user_id).posted_micros == balance_micros
