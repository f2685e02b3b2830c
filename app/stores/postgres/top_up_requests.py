"""Requested top-ups, and what is remembered of them for each wallet.

Functions of the migrations decide, both for the triggers and for the calls here. The caller has locked the wallet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.balance_rules import PAUSE_AFTER_DECLINE_SECONDS, RequestState, TopUpRequest
from app.domain.wallets import WalletId
from app.stores.postgres.tables import top_up_requests, wallet_watches

_EXPIRED = sa.text("""
    SELECT q.id, w.wallet_id FROM wallets AS w JOIN top_up_requests AS q ON q.wallet_id = w.wallet_id
    WHERE q.state = 'open' AND q.expires_at <= clock_timestamp()
    ORDER BY w.wallet_id LIMIT :limit FOR NO KEY UPDATE OF w SKIP LOCKED
""")

# Wallets whose rule wants a top-up although no change of theirs has led to a request: the rule is new, a month has
# begun, or a request has failed. Wallets at this month's cap were reported and are left out.
_WANTING = sa.text("""
    SELECT w.wallet_id FROM wallets AS w
    LEFT JOIN auto_top_up_rules AS own ON own.wallet_id = w.wallet_id
    LEFT JOIN auto_top_up_rules AS theirs ON theirs.package_id = w.package_id
    LEFT JOIN wallet_watches AS k ON k.wallet_id = w.wallet_id
    WHERE w.posted_micros - w.debt_micros
            < CASE WHEN own.id IS NULL THEN theirs.below_micros ELSE own.below_micros END
        AND w.status = 'active' AND k.stopped_at IS NULL
        AND coalesce(k.next_request_at <= clock_timestamp(), true)
        AND k.capped_month IS DISTINCT FROM CAST(date_trunc('month', now(), 'UTC') AT TIME ZONE 'UTC' AS date)
        AND NOT EXISTS (SELECT FROM top_up_requests AS q WHERE q.wallet_id = w.wallet_id AND q.state = 'open')
    ORDER BY w.wallet_id LIMIT :limit FOR NO KEY UPDATE OF w SKIP LOCKED
""")

_FAIL = sa.text("SELECT fail_top_up_request(:id, :state, :reason, :pause_seconds)")
_REQUEST = sa.text("SELECT request_top_ups(CAST(:wallet_ids AS text[]))")

_COLUMNS = [top_up_requests.c[field.name] for field in fields(TopUpRequest)]


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests; a field that is None doesn't filter."""

    wallet_id: WalletId | None = None
    state: RequestState | None = None

    @property
    def condition(self) -> sa.ColumnElement[bool]:
        values = {"wallet_id": self.wallet_id, "state": self.state}
        given = [top_up_requests.c[name] == value for name, value in values.items() if value is not None]
        return sa.and_(sa.true(), *given)


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of auto top-up for a wallet: failures in a row, and since when and why it is stopped."""

    failed_requests: int = 0
    next_request_at: datetime | None = None
    stopped_at: datetime | None = None
    stopped_reason: str | None = None


def find(connection: sa.Connection, request_id: UUID) -> TopUpRequest | None:
    statement = sa.select(*_COLUMNS).where(top_up_requests.c.id == request_id)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _request(row)


def wallet_of_request(connection: sa.Connection, request_id: UUID) -> WalletId | None:
    statement = sa.select(top_up_requests.c.wallet_id).where(top_up_requests.c.id == request_id)
    return connection.execute(statement).scalar_one_or_none()


def list_newest(connection: sa.Connection, matching: RequestFilter, before_id: UUID, limit: int) -> list[TopUpRequest]:
    statement = sa.select(*_COLUMNS).where(matching.condition, top_up_requests.c.id < before_id)
    rows = connection.execute(statement.order_by(top_up_requests.c.id.desc()).limit(limit))
    return [_request(row) for row in rows]


def decline(connection: sa.Connection, request_id: UUID, reason: str) -> None:
    """The receiver of the request declines it. The next request waits for a while."""
    values = {"state": RequestState.DECLINED, "reason": reason, "pause_seconds": PAUSE_AFTER_DECLINE_SECONDS}
    connection.execute(_FAIL, {"id": request_id, **values})
    # An unanswered request becomes declined, so that it no longer counts towards the month's cap: no top-up will come
    # of it.
    connection.execute(
        sa.update(top_up_requests)
        .where(top_up_requests.c.id == request_id, top_up_requests.c.state == RequestState.UNANSWERED)
        .values(state=RequestState.DECLINED, reason=reason)
    )


def expire(connection: sa.Connection, limit: int) -> list[WalletId]:
    """Expire overdue requests of up to `limit` wallets that no other transaction has locked. Returns these wallets."""
    expired = connection.execute(_EXPIRED, {"limit": limit}).all()
    for row in expired:
        values = {"state": RequestState.UNANSWERED, "reason": None, "pause_seconds": 0}
        connection.execute(_FAIL, {"id": row.id, **values})
    return [row.wallet_id for row in expired]


def request_wanted(connection: sa.Connection, limit: int) -> list[WalletId]:
    """Request top-ups for up to `limit` unlocked wallets that want one. Returns the wallets that were looked at."""
    wanting = list(connection.execute(_WANTING, {"limit": limit}).scalars())
    request(connection, wanting)
    return wanting


def request(connection: sa.Connection, wallet_ids: Sequence[WalletId]) -> None:
    """Request top-ups for those of these locked wallets that want one."""
    if wallet_ids:
        connection.execute(_REQUEST, {"wallet_ids": list(wallet_ids)})


def standing(connection: sa.Connection, wallet_id: WalletId) -> Standing:
    columns = [wallet_watches.c[field.name] for field in fields(Standing)]
    row = connection.execute(sa.select(*columns).where(wallet_watches.c.wallet_id == wallet_id)).one_or_none()
    return Standing() if row is None else Standing(*row)


def resume(connection: sa.Connection, wallet_id: WalletId) -> None:
    """Reset the failures of a locked wallet's requests."""
    connection.execute(
        sa.update(wallet_watches)
        .where(wallet_watches.c.wallet_id == wallet_id)
        .values(failed_requests=0, next_request_at=None, stopped_at=None, stopped_reason=None)
    )


def _request(row: Any) -> TopUpRequest:
    return TopUpRequest(**{**row._asdict(), "state": RequestState(row.state)})
