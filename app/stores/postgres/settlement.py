"""Settlement: turns inbox rows into ledger entries and balances, a set at a time, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa

from app.domain.amounts import DEBT_MICROS_MAX
from app.domain.reasons import FailureReason
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres import stale, wallets
from app.stores.postgres.arrays import id_array

# How many failed tries are kept per end, always the latest: two rounds of the default twelve attempts.
ATTEMPTS_KEPT = 24

# Skips rows that another worker is settling: that worker clears them. Ends of a wallet that another transaction has
# locked are reported as busy, so that only those ends wait. Rows and wallets are each locked in one order, which
# prevents deadlocks.
_CLAIM = sa.text("""
    WITH claimed AS MATERIALIZED (
        SELECT id, wallet_id, request_id, accepted_at FROM end_inbox
        WHERE id = ANY(CAST(:ids AS uuid[])) AND (state = 'accepted' OR (state = 'retrying' AND NOT is_debt))
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), asked AS MATERIALIZED (
        SELECT wallet_id, array_agg(id) AS ids,
            array_agg(DISTINCT request_id) FILTER (WHERE request_id IS NOT NULL) AS request_ids,
            array_agg(date_part('epoch', now() - accepted_at)) AS lags_seconds
        FROM claimed GROUP BY wallet_id
    ), free AS MATERIALIZED (
        SELECT wallet_id FROM wallets WHERE wallet_id = ANY(ARRAY(SELECT wallet_id FROM asked))
        ORDER BY wallet_id FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT wallet_id, ids, request_ids, lags_seconds, CASE
        WHEN wallet_id IN (SELECT wallet_id FROM free) THEN 'ours'
        WHEN EXISTS (SELECT FROM wallets AS w WHERE w.wallet_id = asked.wallet_id) THEN 'busy'
        ELSE 'missing'
    END AS state FROM asked
""")

# Locks in wallet_id order, so that two transactions with the same wallets wait for each other instead of deadlocking.
_LOCK_WALLETS = sa.text("""
    SELECT wallet_id FROM wallets WHERE wallet_id = ANY(CAST(:wallet_ids AS text[]))
    ORDER BY wallet_id FOR NO KEY UPDATE
""")

# Skips wallets that another transaction has locked, so that only the ends of those wallets wait.
_LOCK_FREE_WALLETS = sa.text("""
    WITH free AS MATERIALIZED (
        SELECT wallet_id FROM wallets WHERE wallet_id = ANY(CAST(:wallet_ids AS text[]))
        ORDER BY wallet_id FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT wallet_id, wallet_id IN (SELECT wallet_id FROM free) AS is_free
    FROM wallets WHERE wallet_id = ANY(CAST(:wallet_ids AS text[]))
""")

# The caller has locked the rows and the wallets, so this statement sees their current state.
#
# Each wallet's ends are settled in the order they were accepted, as long as the balance stays above the overdraft
# limit; the ends after that become debt. An end that wasn't covered when it was accepted (`is_behind`) comes after all
# existing debt, so that a small end doesn't overtake a large debt. It also comes after every end that was covered,
# including covered ends of this wallet that are still in the inbox (`promised`): those were promised to be paid,
# whichever message arrives first. An end that costs nothing is always settled.
_SETTLE = sa.text("""
    -- Rows are selected by arrays of ids, not by joins with `outcome`. The inbox is mostly empty, so its statistics
    -- make the planner expect one row, and it would join 1,000 rows with 1,000 in nested loops that take seconds.
    WITH repeated AS MATERIALIZED (
        SELECT end_id FROM token_transactions WHERE kind = 'usage' AND end_id = ANY(CAST(:ids AS uuid[]))
        UNION ALL
        SELECT end_id FROM token_transactions
        WHERE kind IN ('amendment', 'chargeback') AND end_id = ANY(CAST(:ids AS uuid[]))
    ), due AS MATERIALIZED (
        -- Only the columns that the decision needs: these rows are sorted, materialized and read several times.
        SELECT i.id, i.wallet_id, i.cost_micros, i.is_debt,
            i.base_cost_micros + i.profit_micros = i.cost_micros AS agrees,
            w.debt_micros, w.posted_micros + w.overdraft_limit_micros AS room_micros,
            i.state = 'retrying' AND NOT CAST(:collecting AS boolean) AS is_behind,
            i.id IN (SELECT end_id FROM repeated) AS is_repeated
        FROM end_inbox AS i
        JOIN wallets AS w USING (wallet_id)
        WHERE i.id = ANY(CAST(:ids AS uuid[]))
    ), promised AS MATERIALIZED (
        SELECT wallet_id, sum(cost_micros) AS micros FROM end_inbox
        WHERE wallet_id = ANY(ARRAY(SELECT wallet_id FROM due WHERE is_behind))
            AND state = 'accepted' AND NOT is_debt AND id NOT IN (SELECT id FROM due)
        GROUP BY wallet_id
    ), judged AS (
        SELECT due.*, sum(cost_micros) FILTER (WHERE NOT is_repeated AND agrees)
            OVER (PARTITION BY wallet_id ORDER BY is_behind, id) AS asked_micros
        FROM due
    ), decided AS (
        SELECT judged.*, CASE
            WHEN is_repeated THEN 'repeated'
            WHEN NOT agrees THEN 'disagrees'
            WHEN cost_micros = 0 OR asked_micros <= room_micros - CASE WHEN is_behind THEN debt_micros + coalesce(
                (SELECT micros FROM promised WHERE promised.wallet_id = judged.wallet_id), 0
            ) ELSE 0 END THEN 'settled'
            ELSE 'failed'
        END AS outcome FROM judged
    ), outcome AS (
        -- An end that would push debt_micros past its maximum isn't added to it (NOT fits). It becomes a dead letter
        -- outside the wallet's debt.
        SELECT decided.*, is_debt OR debt_micros + sum(cost_micros) FILTER (
            WHERE outcome IN ('failed', 'disagrees') AND NOT is_debt
        ) OVER (PARTITION BY wallet_id ORDER BY id) <= :debt_max AS fits FROM decided
    ), cleared AS (
        DELETE FROM end_inbox
        WHERE id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome IN ('settled', 'repeated')))
        RETURNING *
    ), entries AS (
        INSERT INTO token_transactions (
            wallet_id, user_id, kind, amount_micros, balance_after_micros, base_cost_micros, profit_micros, cost_micros,
            input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, requests, model,
            feature_endpoint_id, price_id, profit_rule_id, end_id, corrects, process_id, reference, reason, request_id,
            actor, accepted_at
        )
        SELECT wallet_id, user_id, kind, -cost_micros,
            posted_micros - sum(cost_micros) OVER (PARTITION BY wallet_id ORDER BY is_behind, id),
            -- A chargeback has an amount but no cost.
            CASE WHEN kind <> 'chargeback' THEN base_cost_micros END,
            CASE WHEN kind <> 'chargeback' THEN profit_micros END,
            CASE WHEN kind <> 'chargeback' THEN cost_micros END,
            input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, requests, model,
            feature_endpoint_id, price_id, profit_rule_id, id, corrects, process_id,
            coalesce(reference, idempotency_key), reason, request_id, actor, accepted_at
        FROM (
            SELECT cleared.*, w.posted_micros, state = 'retrying' AND NOT CAST(:collecting AS boolean) AS is_behind
            FROM cleared JOIN (SELECT wallet_id, posted_micros FROM wallets) AS w USING (wallet_id)
            WHERE id NOT IN (SELECT end_id FROM repeated)
        ) AS settled
        ORDER BY wallet_id, is_behind, id
        RETURNING 1
    ), kept AS (
        UPDATE end_inbox AS i SET
            attempts = i.attempts + 1,
            attempts_total = i.attempts_total + 1,
            is_debt = i.id = ANY(ARRAY(SELECT id FROM outcome WHERE fits)),
            state = CASE
                WHEN i.id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome = 'disagrees' OR NOT fits))
                    OR i.attempts + 1 >= :attempts_max THEN 'dead'
                ELSE 'retrying'
            END,
            last_error = CASE
                WHEN i.id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome = 'disagrees')) THEN 'quote_disagrees'
                WHEN i.id = ANY(ARRAY(SELECT id FROM outcome WHERE NOT fits)) THEN 'debt_out_of_range'
                ELSE 'insufficient_tokens' END
        WHERE i.id = ANY(ARRAY(SELECT id FROM outcome WHERE outcome IN ('disagrees', 'failed')))
        RETURNING i.id, i.attempts_total, i.last_error
    ), tried AS (
        INSERT INTO end_attempts (end_id, slot, number, attempted_at, error)
        SELECT id, attempts_total % :attempts_kept, attempts_total, now(), last_error FROM kept
        ON CONFLICT (end_id, slot) DO UPDATE SET
            number = excluded.number, attempted_at = excluded.attempted_at, error = excluded.error
    ), changed AS (
        UPDATE wallets AS w SET
            posted_micros = w.posted_micros - o.settled_micros,
            debt_micros = greatest(w.debt_micros + o.owed_micros - o.paid_micros, 0),
            version = w.version + 1, changed_at = now(),
            collect_at = CASE
                WHEN o.kept_ids IS NULL THEN w.collect_at
                ELSE coalesce(w.collect_at, now() + make_interval(secs => :base_seconds * (0.5 + random() / 2)))
            END
        FROM (
            SELECT wallet_id,
                coalesce(CAST(sum(cost_micros) FILTER (WHERE outcome = 'settled') AS bigint), 0) AS settled_micros,
                coalesce(CAST(sum(cost_micros) FILTER (
                    WHERE outcome IN ('failed', 'disagrees') AND NOT is_debt AND fits
                ) AS bigint), 0) AS owed_micros,
                coalesce(CAST(sum(cost_micros) FILTER (
                    WHERE outcome IN ('settled', 'repeated') AND is_debt
                ) AS bigint), 0) AS paid_micros,
                array_agg(id) FILTER (WHERE outcome IN ('settled', 'repeated')) AS settled_ids,
                array_agg(id) FILTER (WHERE outcome IN ('failed', 'disagrees')) AS kept_ids,
                array_agg(id) FILTER (WHERE outcome IN ('failed', 'disagrees') AND NOT fits) AS untold_ids,
                count(*) FILTER (WHERE outcome = 'repeated') AS repeated,
                coalesce(sum(cost_micros) FILTER (WHERE outcome IN ('failed', 'disagrees')), 0) AS kept_micros
            FROM outcome GROUP BY wallet_id
        ) AS o
        WHERE w.wallet_id = o.wallet_id
        RETURNING w.wallet_id, w.posted_micros, w.debt_micros, w.overdraft_limit_micros, w.status, w.package_id,
            w.version, o.settled_ids, o.kept_ids, o.untold_ids, o.repeated, o.kept_micros
    ), stale AS (
        INSERT INTO stale_notes (wallet_id, version, wallet_ids)
        SELECT wallet_id, version, ARRAY(SELECT wallet_id FROM changed)
        FROM changed ORDER BY wallet_id COLLATE "C" LIMIT 1
        RETURNING 1
    )
    SELECT c.*,
        (SELECT count(*) FROM entries) AS entries, (SELECT count(*) FROM cleared) AS cleared,
        (SELECT count(*) FROM kept) AS kept
    FROM changed AS c
""")

_BURY = sa.text("""
    WITH buried AS (
        SELECT id, wallet_id, cost_micros, is_debt OR debt_micros + sum(cost_micros) FILTER (WHERE NOT is_debt)
            OVER (PARTITION BY wallet_id ORDER BY id) <= :debt_max AS fits, is_debt
        FROM end_inbox JOIN wallets USING (wallet_id)
        WHERE id = ANY(CAST(:ids AS uuid[])) AND wallet_id = ANY(CAST(:wallet_ids AS text[]))
    ), put_aside AS (
        UPDATE end_inbox SET state = 'dead', last_error = :reason,
            attempts = attempts + CASE WHEN :is_counted THEN 0 ELSE 1 END,
            attempts_total = attempts_total + CASE WHEN :is_counted THEN 0 ELSE 1 END,
            is_debt = id = ANY(ARRAY(SELECT id FROM buried WHERE fits))
        WHERE id = ANY(CAST(:ids AS uuid[]))
        RETURNING id, attempts_total
    ), tried AS (
        INSERT INTO end_attempts (end_id, slot, number, attempted_at, error)
        SELECT id, attempts_total % :attempts_kept, attempts_total, now(), :reason FROM put_aside
        WHERE NOT :is_counted
        ON CONFLICT (end_id, slot) DO UPDATE SET
            number = excluded.number, attempted_at = excluded.attempted_at, error = excluded.error
    )
    UPDATE wallets AS w SET version = w.version + 1, changed_at = now(), debt_micros = w.debt_micros + owed.micros
    FROM (
        SELECT wallet_id, coalesce(sum(cost_micros) FILTER (WHERE fits AND NOT is_debt), 0) AS micros
        FROM buried GROUP BY wallet_id
    ) AS owed
    WHERE w.wallet_id = owed.wallet_id
""")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    attempts_max: int
    base_seconds: int
    cap_seconds: int


@dataclass(frozen=True, slots=True)
class ClaimedEnd:
    id: UUID
    wallet_id: WalletId
    cost_micros: int
    request_id: str | None


class Claim(StrEnum):
    OURS = "ours"
    BUSY = "busy"
    """Another transaction has locked the wallet."""
    MISSING = "missing"
    """There is no such wallet."""


@dataclass(frozen=True, slots=True)
class ClaimedWallet:
    """Ends of one wallet whose inbox rows this transaction has locked, and whether it has locked the wallet too."""

    wallet_id: WalletId
    ids: Sequence[UUID]
    request_ids: Set[str]
    claim: Claim
    lags_seconds: Sequence[float] = ()
    """How long ago these ends were accepted."""


@dataclass(frozen=True, slots=True)
class SettledWallet:
    """A wallet after a settlement, and the outcome of its ends."""

    wallet: Wallet
    settled: tuple[UUID, ...]
    kept: tuple[UUID, ...]
    """Ends that are debt or dead after the settlement."""
    untold: tuple[UUID, ...]
    """Those of `kept` that the wallet's debt doesn't include, because the sum would be out of range."""
    repeated: int
    kept_micros: int = 0
    """Sum of the costs of all `kept` ends."""

    @property
    def told(self) -> list[UUID]:
        """Ends that the wallet's row now accounts for, in its balance or its debt."""
        return [*self.settled, *(end_id for end_id in self.kept if end_id not in self.untold)]


class MoneyDoesNotAddUp(Exception):
    """The statement touched other rows than it should have. The transaction must not be committed."""


def claim(connection: sa.Connection, ids: Sequence[UUID]) -> list[ClaimedWallet]:
    """Lock those of these ends that are still to be settled and that no other worker is settling, and their wallets
    unless another transaction has locked them.
    """
    return [
        ClaimedWallet(
            row.wallet_id, tuple(row.ids), frozenset(row.request_ids or ()), Claim(row.state), row.lags_seconds
        )
        for row in connection.execute(_CLAIM, {"ids": id_array(ids)})
    ]


def lock_wallets(connection: sa.Connection, wallet_ids: set[WalletId]) -> set[WalletId]:
    """Lock wallets in wallet_id order. Returns those that exist."""
    return set(connection.execute(_LOCK_WALLETS, {"wallet_ids": list(wallet_ids)}).scalars())


def lock_free_wallets(connection: sa.Connection, wallet_ids: set[WalletId]) -> dict[WalletId, bool]:
    """Lock the wallets that no other transaction has locked. Returns wallet id -> whether we have locked it; a wallet
    that doesn't exist is left out.
    """
    rows = connection.execute(_LOCK_FREE_WALLETS, {"wallet_ids": list(wallet_ids)})
    return {row.wallet_id: row.is_free for row in rows}


def settle(
    connection: sa.Connection, ids: Sequence[UUID], policy: RetryPolicy, *, collecting: bool = False
) -> list[SettledWallet]:
    """Settle claimed ends of locked wallets. Returns the wallets as they are afterwards.

    `collecting` says that these ends are the oldest debts of their wallet, so no other debt comes before them. Raises
    MoneyDoesNotAddUp when the statement touched other rows than these.
    """
    rows = connection.execute(
        _SETTLE,
        {
            "ids": id_array(ids),
            "collecting": collecting,
            "attempts_max": policy.attempts_max,
            "base_seconds": policy.base_seconds,
            "debt_max": DEBT_MICROS_MAX,
            "attempts_kept": ATTEMPTS_KEPT,
        },
    ).all()
    settled = sum(len(row.settled_ids or ()) for row in rows)
    kept = sum(len(row.kept_ids or ()) for row in rows)
    repeated = sum(row.repeated for row in rows)
    for row in rows[:1]:
        if (row.entries, row.cleared, row.kept) != (settled - repeated, settled, kept):
            raise MoneyDoesNotAddUp(f"{row.entries} entries, {row.cleared} cleared, {row.kept} kept")
    if settled + kept != len(ids):
        raise MoneyDoesNotAddUp(f"{settled + kept} of {len(ids)} ends")
    return [
        SettledWallet(
            wallets.from_row(row),
            tuple(row.settled_ids or ()),
            tuple(row.kept_ids or ()),
            tuple(row.untold_ids or ()),
            row.repeated,
            int(row.kept_micros),
        )
        for row in rows
    ]


def bury(connection: sa.Connection, ids: Sequence[UUID], reason: FailureReason, *, is_counted: bool = False) -> bool:
    """Move ends that can't be settled as they are to the dead letters. The caller must have locked their inbox rows.

    `is_counted` says that the failed try is already counted in `attempts`. Returns False, and changes nothing, while
    another transaction holds one of their wallets.
    """
    wallet_ids = connection.execute(
        sa.text("SELECT DISTINCT wallet_id FROM end_inbox WHERE id = ANY(CAST(:ids AS uuid[]))"), {"ids": list(ids)}
    )
    payers = lock_free_wallets(connection, set(wallet_ids.scalars()))
    if not all(payers.values()):
        return False
    connection.execute(
        _BURY,
        {
            "ids": list(ids),
            "wallet_ids": list(payers),
            "reason": reason.value,
            "debt_max": DEBT_MICROS_MAX,
            "is_counted": is_counted,
            "attempts_kept": ATTEMPTS_KEPT,
        },
    )
    stale.demand_refresh(connection, set(payers))
    return True
