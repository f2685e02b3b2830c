"""Settlement: inbox rows become ledger entries and balances, set by set, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from app.stores.postgres import stale

# Rows that another worker is settling are skipped, not waited for: they will be gone.
_CLAIM = sa.text("""
    SELECT id, user_id, request_id FROM end_inbox
    WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'accepted'
    ORDER BY id FOR UPDATE SKIP LOCKED
""")

_CLAIM_DEBTS = sa.text("""
    SELECT id, user_id, request_id FROM end_inbox
    WHERE user_id = :user_id AND state = 'retrying' ORDER BY id FOR UPDATE
""")

# In user_id order, so that two batches with the same wallets wait for each other instead of deadlocking.
_LOCK_WALLETS = sa.text("""
    SELECT user_id FROM wallets WHERE user_id = ANY(CAST(:user_ids AS text[]))
    ORDER BY user_id FOR NO KEY UPDATE
""")

# The rows and wallets are locked by now, and a statement of its own sees them as they are now.
#
# In each wallet ends are taken in the order they were accepted, for as long as the balance stays above the
# overdraft limit; those after that are debt. An end that costs nothing is always settled.
_SETTLE = sa.text("""
    -- Rows are picked by arrays of ids, not by joins with `outcome`: statistics taken while the inbox was empty, as it
    -- mostly is, make the planner expect one row and join 1,000 with 1,000 in nested loops, seconds long.
    WITH due AS MATERIALIZED (
        SELECT i.*,
            w.posted_micros,
            w.posted_micros + w.overdraft_limit_micros AS room_micros,
            i.output_tokens * 250000 AS base_cost_micros,
            i.output_tokens * coalesce(r.basis_points, 0) * 25 AS profit_micros,
            EXISTS (SELECT 1 FROM token_transactions AS t WHERE t.kind = 'usage' AND t.end_id = i.id) AS is_repeated
        FROM end_inbox AS i
        JOIN wallets AS w USING (user_id)
        LEFT JOIN profit_rules AS r ON r.id = i.profit_rule_id
        WHERE i.id = ANY(CAST(:ids AS uuid[]))
    ), judged AS (
        SELECT due.*, base_cost_micros + profit_micros = cost_micros AS agrees,
            sum(cost_micros) FILTER (WHERE NOT is_repeated AND base_cost_micros + profit_micros = cost_micros)
                OVER (PARTITION BY user_id ORDER BY id) AS asked_micros
        FROM due
    ), outcome AS (
        SELECT judged.*, CASE
            WHEN is_repeated THEN 'repeated'
            WHEN NOT agrees THEN 'disagrees'
            WHEN cost_micros = 0 OR asked_micros <= room_micros THEN 'settled'
            ELSE 'failed'
        END AS outcome FROM judged
    ), entries AS (
        INSERT INTO token_transactions (
            user_id, kind, amount_micros, balance_after_micros, base_cost_micros, profit_micros, cost_micros,
            input_tokens, output_tokens, model, feature_endpoint_id, profit_rule_id, end_id, process_id, reference
        )
        SELECT user_id, 'usage', -cost_micros,
            posted_micros - sum(cost_micros) OVER (PARTITION BY user_id ORDER BY id),
            base_cost_micros, profit_micros, cost_micros,
            input_tokens, output_tokens, model, feature_endpoint_id, profit_rule_id, id, process_id, idempotency_key
        FROM outcome WHERE outcome = 'settled'
        ORDER BY user_id, id
        RETURNING 1
    ), cleared AS (
        DELETE FROM end_inbox
        WHERE id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome IN ('settled', 'repeated')))
        RETURNING 1
    ), kept AS (
        UPDATE end_inbox AS i SET
            attempts = i.attempts + 1,
            state = CASE
                WHEN i.id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome = 'disagrees'))
                    OR i.attempts + 1 >= :attempts_max THEN 'dead'
                ELSE 'retrying'
            END,
            next_attempt_at = CASE
                WHEN i.id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome = 'disagrees'))
                    OR i.attempts + 1 >= :attempts_max THEN NULL
                ELSE now() + make_interval(
                -- Doubles with every attempt up to the cap; the jitter spreads what failed together.
                secs => least(:cap_seconds, :base_seconds * power(2, least(i.attempts, 30)))
                    * (0.5 + random() / 2)
            ) END,
            last_error = CASE
                WHEN i.id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome = 'disagrees')) THEN 'quote_disagrees'
                ELSE 'insufficient_tokens' END
        WHERE i.id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome IN ('disagrees', 'failed')))
            AND i.id = ANY(CAST(:tried AS uuid[]))
        RETURNING 1
    ), changed AS (
        UPDATE wallets AS w SET
            posted_micros = w.posted_micros - o.settled_micros,
            version = w.version + 1
        FROM (
            SELECT user_id,
                coalesce(CAST(sum(cost_micros) FILTER (WHERE outcome = 'settled') AS bigint), 0) AS settled_micros,
                array_agg(id) FILTER (WHERE outcome IN ('settled', 'repeated')) AS settled,
                array_agg(id ORDER BY id) FILTER (WHERE outcome IN ('failed', 'disagrees')) AS indebted,
                array_agg(cost_micros ORDER BY id) FILTER (WHERE outcome IN ('failed', 'disagrees')) AS debts,
                count(*) FILTER (WHERE outcome IN ('failed', 'disagrees') AND id = ANY(CAST(:tried AS uuid[])))
                    AS tried,
                count(*) FILTER (WHERE outcome = 'repeated') AS repeated
            FROM outcome GROUP BY user_id
        ) AS o
        WHERE w.user_id = o.user_id
        RETURNING w.user_id, w.posted_micros, w.overdraft_limit_micros, w.status, w.package_id, w.version,
            o.settled, o.indebted, o.debts, o.tried, o.repeated
    ), stale AS (
        INSERT INTO stale_wallets AS s (user_id, version)
        SELECT user_id, version FROM changed ORDER BY user_id
        -- See stale.ANY_VERSION.
        ON CONFLICT (user_id) DO UPDATE SET version = 9223372036854775807, changed_at = clock_timestamp()
        RETURNING 1
    )
    SELECT c.*,
        (SELECT count(*) FROM entries) AS entries, (SELECT count(*) FROM cleared) AS cleared,
        (SELECT count(*) FROM kept) AS kept
    FROM changed AS c
""")

_BURY = sa.text("""
    UPDATE end_inbox SET state = 'dead', attempts = attempts + 1, next_attempt_at = NULL, last_error = :error
    WHERE id = ANY(CAST(:ids AS uuid[]))
    RETURNING user_id
""")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    attempts_max: int
    base_seconds: int
    cap_seconds: int


@dataclass(frozen=True, slots=True)
class ClaimedEnd:
    id: UUID
    user_id: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class SettledWallet:
    user_id: str
    posted_micros: int
    overdraft_limit_micros: int
    status: str
    package_id: str | None
    version: int
    settled: tuple[UUID, ...]
    indebted: dict[UUID, int]
    """End id -> cost in micro-tokens."""
    repeated: int


class MoneyDoesNotAddUp(Exception):
    """The rows touched aren't the rows meant. The transaction must not be committed."""


def claim(connection: sa.Connection, ids: Sequence[UUID]) -> list[ClaimedEnd]:
    """Lock those of these accepted ends that nobody else is settling."""
    return [ClaimedEnd(*row) for row in connection.execute(_CLAIM, {"ids": list(ids)})]


def claim_debts(connection: sa.Connection, user_id: str) -> list[ClaimedEnd]:
    """Lock a user's failed ends, oldest first. The wallet must be locked already."""
    return [ClaimedEnd(*row) for row in connection.execute(_CLAIM_DEBTS, {"user_id": user_id})]


def lock_wallets(connection: sa.Connection, user_ids: set[str]) -> set[str]:
    """Lock wallets in the one order; those that exist."""
    return set(connection.execute(_LOCK_WALLETS, {"user_ids": list(user_ids)}).scalars())


def settle(
    connection: sa.Connection, ids: Sequence[UUID], policy: RetryPolicy, tried: Sequence[UUID] | None = None
) -> list[SettledWallet]:
    """Settle claimed ends of locked wallets; the wallets as they are after it.

    A failure counts as an attempt for the ends that were `tried` (all, unless given); the others were only taken
    along because they are older.
    Raises MoneyDoesNotAddUp when the statement touched other rows than these.
    """
    rows = connection.execute(
        _SETTLE,
        {
            "ids": list(ids),
            "tried": list(ids if tried is None else tried),
            "attempts_max": policy.attempts_max,
            "base_seconds": policy.base_seconds,
            "cap_seconds": policy.cap_seconds,
        },
    ).all()
    settled = sum(len(row.settled or ()) for row in rows)
    kept = sum(len(row.indebted or ()) for row in rows)
    repeated = sum(row.repeated for row in rows)
    tried_count = sum(row.tried for row in rows)
    for row in rows[:1]:
        if (row.entries, row.cleared, row.kept) != (settled - repeated, settled, tried_count):
            raise MoneyDoesNotAddUp(f"{row.entries} entries, {row.cleared} cleared, {row.kept} kept")
    if settled + kept != len(ids):
        raise MoneyDoesNotAddUp(f"{settled + kept} of {len(ids)} ends")
    return [
        SettledWallet(
            row.user_id,
            row.posted_micros,
            row.overdraft_limit_micros,
            row.status,
            row.package_id,
            row.version,
            tuple(row.settled or ()),
            dict(zip(row.indebted or (), row.debts or (), strict=True)),
            row.repeated,
        )
        for row in rows
    ]


def bury(connection: sa.Connection, ids: Sequence[UUID], error: str) -> None:
    """Move ends that can't be settled as they are to the dead letters."""
    users = connection.execute(_BURY, {"ids": list(ids), "error": error}).scalars()
    stale.demand_refresh(connection, set(users))
