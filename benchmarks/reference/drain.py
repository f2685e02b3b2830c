"""The bare set-based statement: waiting ends become ledger entries and balances, and nothing else is done.

It is fair because it is the least that SQL can do to settle an end: it inserts an entry with the balance after it,
updates the wallet's balance and deletes the waiting row, for 1,000 ends in one statement and one commit (more ends make
it no faster, and lock the wallets for longer). It doesn't claim rows against other workers, checks no limit, handles
neither debts nor repeats, and updates no cache. The tables have the columns of an end and the indexes needed to find
them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa

ENDS_PER_STATEMENT = 1_000

_CREATE = """
    CREATE TABLE drain_wallets (user_id text PRIMARY KEY, posted_micros bigint NOT NULL);
    CREATE TABLE drain_waiting (
        id uuid PRIMARY KEY, user_id text NOT NULL, feature_endpoint_id text NOT NULL, model text,
        input_tokens bigint NOT NULL, output_tokens bigint NOT NULL, base_cost_micros bigint NOT NULL,
        profit_micros bigint NOT NULL, cost_micros bigint NOT NULL, idempotency_key text,
        accepted_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE drain_transactions (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text NOT NULL, amount_micros bigint NOT NULL,
        balance_after_micros bigint NOT NULL, feature_endpoint_id text NOT NULL, model text,
        input_tokens bigint NOT NULL, output_tokens bigint NOT NULL, base_cost_micros bigint NOT NULL,
        profit_micros bigint NOT NULL, cost_micros bigint NOT NULL, reference text, end_id uuid NOT NULL UNIQUE,
        accepted_at timestamptz NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX ON drain_transactions (user_id, id);
"""

_FILL = sa.text("""
    INSERT INTO drain_waiting (
        id, user_id, feature_endpoint_id, model, input_tokens, output_tokens, base_cost_micros, profit_micros,
        cost_micros, idempotency_key
    )
    SELECT gen_random_uuid(), users[1 + n % cardinality(users)], :feature, 'model-1', 120, 40, 10000000, 1000000,
        11000000, gen_random_uuid()
    FROM generate_series(1, :ends) AS n, (SELECT CAST(:users AS text[]) AS users) AS given
""")

_DRAIN = sa.text("""
    WITH taken AS MATERIALIZED (
        DELETE FROM drain_waiting WHERE id IN (SELECT id FROM drain_waiting ORDER BY id LIMIT :ends) RETURNING *
    ), entries AS (
        INSERT INTO drain_transactions (
            user_id, amount_micros, balance_after_micros, feature_endpoint_id, model, input_tokens, output_tokens,
            base_cost_micros, profit_micros, cost_micros, reference, end_id, accepted_at
        )
        SELECT t.user_id, -cost_micros,
            w.posted_micros - sum(cost_micros) OVER (PARTITION BY t.user_id ORDER BY t.id),
            feature_endpoint_id, model, input_tokens, output_tokens, base_cost_micros, profit_micros, cost_micros,
            idempotency_key, t.id, accepted_at
        FROM taken AS t JOIN drain_wallets AS w USING (user_id)
        RETURNING 1
    ), changed AS (
        UPDATE drain_wallets AS w SET posted_micros = posted_micros - t.cost_micros
        FROM (SELECT user_id, sum(cost_micros) AS cost_micros FROM taken GROUP BY user_id) AS t
        WHERE w.user_id = t.user_id
    )
    SELECT count(*) FROM entries
""")


class BareDrain:
    """The statement and its tables, in a separate database."""

    def __init__(
        self, engine: sa.Engine, user_ids: Sequence[str], feature_endpoint_id: str, posted_micros: int
    ) -> None:
        self._engine = engine
        self._user_ids = list(user_ids)
        self._feature_endpoint_id = feature_endpoint_id
        with engine.begin() as connection:
            for statement in filter(str.strip, _CREATE.split(";")):
                connection.execute(sa.text(statement))
            connection.execute(
                sa.text(
                    "INSERT INTO drain_wallets SELECT user_id, :micros FROM unnest(CAST(:users AS text[])) AS user_id"
                ),
                {"micros": posted_micros, "users": self._user_ids},
            )

    def fill(self, ends: int) -> None:
        """Insert this number of waiting ends."""
        with self._engine.begin() as connection:
            connection.execute(_FILL, {"ends": ends, "users": self._user_ids, "feature": self._feature_endpoint_id})

    def drain(self, ends_per_statement: int = ENDS_PER_STATEMENT) -> float:
        """Settle all waiting ends. Returns the ends per second."""
        with self._engine.connect() as connection:
            begun = time.perf_counter()
            settled = 0
            while done := int(connection.execute(_DRAIN, {"ends": ends_per_statement}).scalar_one()):
                connection.commit()
                settled += done
            return settled / (time.perf_counter() - begun)
