"""Debts: ends that failed for want of tokens, in one line per wallet, tried when the wallet's `collect_at` comes.

Whoever calls these, but `due_wallets` and `rooms`, has the wallet locked.
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

# Dead ones as well: they wait for money like the others, only nobody tries them by the clock. The line is the wallet's,
# whose lock is held; a row that somebody locks by hand is left out rather than waited for.
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

# Ends that were covered when they came and aren't settled yet: debt takes nothing that they were promised.
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

# The wait doubles with every attempt of the oldest up to the cap; the jitter spreads what failed together.
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

# Nobody is told twice: who is due already was told of, or is found by the next look for those that are due.
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

# The same room that `lock` tells of, for whoever only looks.
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
    """What a locked wallet may be charged for debts, whether they are due for a try, and what they add up to."""

    room_micros: int
    is_due: bool
    debt_micros: int


@dataclass(frozen=True, slots=True)
class Room:
    """What a wallet can pay debts with, and when it is tried next. Negative: accepted ends were promised more."""

    micros: int
    next_attempt_at: datetime | None


def lock(connection: sa.Connection, wallet_id: WalletId) -> LockedWallet | None:
    """Lock a wallet. None where there is none, or somebody else has it."""
    row = connection.execute(_LOCK, {"wallet_id": wallet_id}).one_or_none()
    if row is None:
        return None
    promised_micros = int(connection.execute(_PROMISED, {"wallet_id": wallet_id}).scalar_one())
    return LockedWallet(row.room_micros - promised_micros, row.is_due, row.debt_micros)


def claim_oldest(connection: sa.Connection, wallet_id: WalletId, limit: int) -> list[ClaimedEnd]:
    """Lock the oldest debts of a wallet."""
    return [ClaimedEnd(*row) for row in connection.execute(_OLDEST, {"wallet_id": wallet_id, "limit": limit})]


def claim_oldest_retrying(connection: sa.Connection, wallet_id: WalletId, limit: int) -> list[ClaimedEnd]:
    """Lock the oldest debts of a wallet that are still tried by the clock."""
    return [ClaimedEnd(*row) for row in connection.execute(_OLDEST_RETRYING, {"wallet_id": wallet_id, "limit": limit})]


def count_failure(
    connection: sa.Connection, ends: Sequence[ClaimedEnd], policy: RetryPolicy, error: FailureReason
) -> list[UUID]:
    """Note of claimed debts that they couldn't be paid once more, and why. Those that become dead letters by it."""
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
    """Say when a wallet's debts are tried next: by the attempts of the oldest, or never where none is tried by the
    clock any more.
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
    """Make a wallet's debts due if it can pay the oldest by now. The wallet, if somebody has to be told of it."""
    return [IndebtedWallet(*row) for row in connection.execute(_WAKE, {"wallet_id": wallet_id})]


def due_wallets(connection: sa.Connection, limit: int) -> Sequence[IndebtedWallet]:
    """Wallets whose debts are due for a try, but those that somebody has locked."""
    return [IndebtedWallet(*row) for row in connection.execute(_DUE, {"limit": limit})]


def rooms(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> dict[WalletId, Room]:
    """What wallets can pay debts with now; who isn't named has no wallet."""
    rows = connection.execute(_ROOMS, {"wallet_ids": list(wallet_ids)})
    return {row.wallet_id: Room(row.micros, row.collect_at) for row in rows}
