"""Debts: ends that failed for lack of tokens, one queue per wallet, retried when the wallet's `collect_at` comes.

Except for `due_wallets` and `rooms`, the caller has locked the wallet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.domain.ends import EndState
from app.domain.reasons import FailureReason
from app.domain.wallets import WalletId
from app.stores.postgres.settlement import ATTEMPTS_KEPT, ClaimedEnd, RetryPolicy

# Includes dead letters: they are paid in turn like the others, only without automatic retries. The wallet's lock
# protects the queue. A row that somebody has locked by hand is skipped instead of waited for.
_OLDEST = sa.text("""
    SELECT id, wallet_id, cost_micros, request_id FROM end_inbox
    WHERE wallet_id = :wallet_id AND state <> 'accepted' AND last_error = 'insufficient_tokens'
    ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_OLDEST_RETRYING = sa.text("""
    SELECT id, wallet_id, cost_micros, request_id FROM end_inbox
    WHERE wallet_id = :wallet_id AND state = 'retrying' AND last_error = 'insufficient_tokens'
    ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_LOCK = sa.text("""
    SELECT posted_micros + overdraft_limit_micros AS room_micros, coalesce(collect_at <= now(), false) AS is_due,
        debt_micros
    FROM wallets WHERE wallet_id = :wallet_id FOR NO KEY UPDATE SKIP LOCKED
""")

# Cost of ends that were covered when accepted and aren't settled yet: debts must leave them what they were promised.
_PROMISED = sa.text("""
    SELECT coalesce(sum(cost_micros), 0) FROM end_inbox
    WHERE wallet_id = :wallet_id AND state = 'accepted' AND NOT is_debt
""")

_COUNT_FAILURE = sa.text("""
    WITH counted AS (
        UPDATE end_inbox SET attempts = attempts + 1, attempts_total = attempts_total + 1,
            state = CASE WHEN attempts + 1 >= :attempts_max THEN 'dead' ELSE 'retrying' END
        WHERE id = ANY(CAST(:ids AS uuid[]))
        RETURNING id, state, attempts_total
    ), tried AS (
        INSERT INTO end_attempts (end_id, slot, number, attempted_at, error)
        SELECT id, attempts_total % :attempts_kept, attempts_total, now(), :error FROM counted
        ON CONFLICT (end_id, slot) DO UPDATE SET
            number = excluded.number, attempted_at = excluded.attempted_at, error = excluded.error
    )
    SELECT id, state FROM counted
""")

# The wait doubles with each attempt of the oldest debt, up to the cap. The jitter spreads debts that failed together.
_SCHEDULE = sa.text("""
    UPDATE wallets SET collect_at = CASE WHEN CAST(:at_once AS boolean) THEN now() ELSE (
        SELECT now() + make_interval(
            secs => least(:cap_seconds, :base_seconds * power(2, least(greatest(attempts - 1, 0), 30)))
                * (0.5 + random() / 2)
        )
        FROM end_inbox AS i
        WHERE i.wallet_id = :wallet_id AND i.state = 'retrying' ORDER BY i.id LIMIT 1
    ) END
    WHERE wallet_id = :wallet_id
""")

# A wallet that is due already isn't returned again: it was announced before, or the next query for due wallets finds
# it.
_WAKE = sa.text("""
    UPDATE wallets SET collect_at = now()
    WHERE wallet_id = :wallet_id AND (collect_at IS NULL OR collect_at > now())
        AND (
            SELECT cost_micros FROM end_inbox AS i
            WHERE i.wallet_id = :wallet_id AND state <> 'accepted' AND last_error = 'insufficient_tokens'
            ORDER BY id LIMIT 1
        ) <= posted_micros + overdraft_limit_micros
    RETURNING wallet_id, debt_micros + coalesce((
        SELECT CAST(sum(cost_micros) AS bigint) FROM end_inbox AS i
        WHERE i.wallet_id = :wallet_id AND NOT is_debt AND state <> 'accepted'
    ), 0)
""")

# The same room as `lock` computes, without locking.
_ROOMS = sa.text("""
    SELECT wallet_id, CAST(posted_micros + overdraft_limit_micros - coalesce((
        SELECT sum(cost_micros) FROM end_inbox AS i
        WHERE i.wallet_id = w.wallet_id AND state = 'accepted' AND NOT is_debt
    ), 0) AS bigint) AS micros, collect_at
    FROM wallets AS w WHERE wallet_id = ANY(CAST(:wallet_ids AS text[]))
""")

_DUE = sa.text("""
    SELECT wallet_id, debt_micros FROM wallets WHERE collect_at <= now()
    ORDER BY collect_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")


@dataclass(frozen=True, slots=True)
class IndebtedWallet:
    wallet_id: WalletId
    debt_micros: int


@dataclass(frozen=True, slots=True)
class LockedWallet:
    """What a locked wallet can pay debts with, whether a retry is due, and the sum of its debts."""

    room_micros: int
    is_due: bool
    debt_micros: int


@dataclass(frozen=True, slots=True)
class Room:
    """What a wallet can pay debts with, and when its next retry is. Negative where accepted ends cost more than there
    is.
    """

    micros: int
    next_attempt_at: datetime | None


def lock(connection: sa.Connection, wallet_id: WalletId) -> LockedWallet | None:
    """Lock a wallet. None where it doesn't exist or another transaction has locked it."""
    row = connection.execute(_LOCK, {"wallet_id": wallet_id}).one_or_none()
    if row is None:
        return None
    promised_micros = int(connection.execute(_PROMISED, {"wallet_id": wallet_id}).scalar_one())
    return LockedWallet(row.room_micros - promised_micros, row.is_due, row.debt_micros)


def claim_oldest(connection: sa.Connection, wallet_id: WalletId, limit: int) -> list[ClaimedEnd]:
    """Lock the oldest debts of a wallet."""
    return [ClaimedEnd(*row) for row in connection.execute(_OLDEST, {"wallet_id": wallet_id, "limit": limit})]


def claim_oldest_retrying(connection: sa.Connection, wallet_id: WalletId, limit: int) -> list[ClaimedEnd]:
    """Lock the oldest debts of a wallet that are still retried automatically."""
    return [ClaimedEnd(*row) for row in connection.execute(_OLDEST_RETRYING, {"wallet_id": wallet_id, "limit": limit})]


def count_failure(
    connection: sa.Connection, ends: Sequence[ClaimedEnd], policy: RetryPolicy, error: FailureReason
) -> list[UUID]:
    """Count a failed try of claimed debts, with its reason. Returns those that become dead letters by it."""
    counted = connection.execute(
        _COUNT_FAILURE,
        {
            "ids": [end.id for end in ends],
            "attempts_max": policy.attempts_max,
            "attempts_kept": ATTEMPTS_KEPT,
            "error": error.value,
        },
    )
    return [row.id for row in counted if row.state == EndState.DEAD]


def schedule(connection: sa.Connection, wallet_id: WalletId, policy: RetryPolicy, *, at_once: bool = False) -> None:
    """Set when a wallet's debts are retried next, by the attempts of the oldest; never where none is retried
    automatically any more.
    """
    connection.execute(
        _SCHEDULE,
        {
            "wallet_id": wallet_id,
            "at_once": at_once,
            "base_seconds": policy.base_seconds,
            "cap_seconds": policy.cap_seconds,
        },
    )


def wake(connection: sa.Connection, wallet_id: WalletId) -> list[IndebtedWallet]:
    """Make a wallet's debts due if it can pay the oldest one now. Returns the wallet if the workers have to be told."""
    return [IndebtedWallet(*row) for row in connection.execute(_WAKE, {"wallet_id": wallet_id})]


def due_wallets(connection: sa.Connection, limit: int) -> Sequence[IndebtedWallet]:
    """Wallets whose debts are due for a retry, except locked ones."""
    return [IndebtedWallet(*row) for row in connection.execute(_DUE, {"limit": limit})]


def rooms(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> dict[WalletId, Room]:
    """What wallets can pay debts with now; a wallet that doesn't exist is left out."""
    rows = connection.execute(_ROOMS, {"wallet_ids": list(wallet_ids)})
    return {row.wallet_id: Room(row.micros, row.collect_at) for row in rows}
