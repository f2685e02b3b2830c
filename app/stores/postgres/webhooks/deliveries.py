"""Deliveries: each is one event on its way to one endpoint.

A worker leases a delivery before it tries it: nobody else tries it until the lease ends, which is soon if the worker
dies. The number of an endpoint's leases bounds its deliveries in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import sqlalchemy as sa

from app.domain.webhooks import Answer, DeliveryState
from app.stores.postgres.tables import webhook_attempts, webhook_deliveries, webhook_events
from app.stores.postgres.webhooks.endpoints import COUNTED_MAX

# The caller has locked the endpoint's row, so the count can't change meanwhile.
_CLAIM = sa.text("""
    UPDATE webhook_deliveries AS d SET leased_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    FROM webhook_events AS e
    WHERE e.id = d.event_id AND d.id = (
        SELECT id FROM webhook_deliveries
        WHERE endpoint_id = :endpoint_id AND state = 'pending' AND next_attempt_at <= clock_timestamp()
            AND (leased_until IS NULL OR leased_until <= clock_timestamp())
        ORDER BY next_attempt_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AND :at_once_max > (
        SELECT count(*) FROM webhook_deliveries
        WHERE endpoint_id = :endpoint_id AND state = 'pending' AND leased_until > clock_timestamp()
    )
    RETURNING d.id, d.event_id, d.attempts, d.leased_until, e.type, e.data, e.occurred_at
""")

# Endpoints with a delivery due, and how many more of their deliveries may be in flight.
_DUE = sa.text("""
    SELECT p.id, p.url, least(due.deliveries, allowed.deliveries - leased.deliveries) AS runners
    FROM webhook_endpoints AS p
    CROSS JOIN LATERAL (
        SELECT CASE WHEN p.failing_since IS NULL THEN CAST(:at_once_max AS bigint) ELSE 1 END AS deliveries
    ) AS allowed
    CROSS JOIN LATERAL (
        SELECT count(*) AS deliveries FROM webhook_deliveries AS d
        WHERE d.endpoint_id = p.id AND d.state = 'pending' AND d.leased_until > clock_timestamp()
    ) AS leased
    CROSS JOIN LATERAL (
        SELECT count(*) AS deliveries FROM (
            SELECT FROM webhook_deliveries AS d
            WHERE d.endpoint_id = p.id AND d.state = 'pending' AND d.next_attempt_at <= clock_timestamp()
                AND (d.leased_until IS NULL OR d.leased_until <= clock_timestamp())
            LIMIT :at_once_max
        ) AS counted
    ) AS due
    WHERE p.state = 'enabled' AND coalesce(p.paused_until <= clock_timestamp(), true)
        AND due.deliveries > 0 AND leased.deliveries < allowed.deliveries
    ORDER BY p.id
""")

# A lease that ended may belong to somebody else by now. A success is recorded all the same.
_FINISH = sa.text("""
    UPDATE webhook_deliveries SET
        state = CASE
            WHEN :delivered THEN 'delivered'
            WHEN CAST(:retry_seconds AS double precision) IS NULL THEN 'failed'
            ELSE 'pending'
        END,
        attempts = attempts + 1, last_status = :status, last_error = :error, leased_until = NULL,
        next_attempt_at = CASE
            WHEN CAST(:retry_seconds AS double precision) IS NULL THEN next_attempt_at
            ELSE clock_timestamp() + make_interval(secs => :retry_seconds)
        END,
        finished_at = CASE
            WHEN :delivered OR CAST(:retry_seconds AS double precision) IS NULL THEN clock_timestamp()
        END
    WHERE id = :id AND (leased_until = :leased_until OR (:delivered AND state <> 'delivered'))
    RETURNING state
""")

# A delivery that exists starts again from its first attempt, under the same id.
_ADD = sa.text("""
    INSERT INTO webhook_deliveries (event_id, endpoint_id)
    SELECT e.id, p.id FROM webhook_events AS e JOIN webhook_endpoints AS p ON p.id = :endpoint_id
    WHERE e.id = ANY(CAST(:event_ids AS uuid[]))
    ON CONFLICT (event_id, endpoint_id) DO UPDATE SET state = 'pending', attempts = 0,
        next_attempt_at = clock_timestamp(), leased_until = NULL, finished_at = NULL
""")

# Events that an endpoint subscribes to and hasn't received: those given up, and those from while it was disabled.
_MISSED = sa.text("""
    SELECT e.id FROM webhook_events AS e JOIN webhook_endpoints AS p ON p.id = :endpoint_id
    LEFT JOIN webhook_deliveries AS d ON d.event_id = e.id AND d.endpoint_id = p.id
    WHERE e.occurred_at >= :since AND e.occurred_at < coalesce(CAST(:until AS timestamptz), 'infinity')
        AND e.id > :after_id AND e.endpoint_id IS NULL
        AND (d.state = 'failed' OR (d.id IS NULL AND (p.event_types = '{}' OR e.type = ANY(p.event_types))))
    ORDER BY e.id LIMIT :limit
""")

# Counts are bounded, because each scrape of the metrics asks for them.
_COUNTS = sa.text("""
    SELECT (SELECT count(*) FROM (
            SELECT FROM webhook_deliveries WHERE state = 'pending' LIMIT :counted_max
        ) AS counted) AS pending,
        (SELECT count(*) FROM (
            SELECT FROM webhook_deliveries WHERE state = 'failed' LIMIT :counted_max
        ) AS counted) AS failed,
        (SELECT CAST(extract(epoch FROM
                greatest(clock_timestamp() - min(first.due_at), interval '0')) AS double precision)
            FROM webhook_endpoints AS p CROSS JOIN LATERAL (
                SELECT greatest(next_attempt_at, p.paused_until) AS due_at FROM webhook_deliveries AS d
                WHERE d.endpoint_id = p.id AND d.state = 'pending' ORDER BY next_attempt_at LIMIT 1
            ) AS first WHERE p.state = 'enabled') AS overdue_seconds,
        (SELECT count(*) FROM webhook_endpoints WHERE state = 'disabled') AS endpoints_disabled
""")


@dataclass(frozen=True, slots=True)
class Delivery:
    id: int
    event_id: UUID
    type: str
    user_id: str | None
    endpoint_id: int
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that we have leased until `leased_until`, and its event."""

    id: int
    event_id: UUID
    attempts: int
    """Attempts made before."""
    leased_until: datetime
    type: str
    data: dict[str, Any]
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class DueEndpoint:
    id: int
    url: str
    runners: int
    """How many more deliveries may be in flight, at most as many as are due."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True, slots=True)
class Attempt:
    started_at: datetime
    duration_seconds: float
    status: int | None
    error: str | None
    excerpt: str | None


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries; a field that is None doesn't filter."""

    endpoint_id: int | None = None
    event_id: UUID | None = None
    state: DeliveryState | None = None
    type: str | None = None
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def condition(self) -> sa.ColumnElement[bool]:
        deliveries, events = webhook_deliveries.c, webhook_events.c
        columns = {
            "endpoint_id": deliveries.endpoint_id,
            "event_id": deliveries.event_id,
            "state": deliveries.state,
            "type": events.type,
            "user_id": events.user_id,
        }
        given = {name: getattr(self, name) for name in columns}
        parts = [columns[name] == value for name, value in given.items() if value is not None]
        if self.since is not None:
            parts.append(deliveries.created_at >= self.since)
        if self.until is not None:
            parts.append(deliveries.created_at < self.until)
        return sa.and_(sa.true(), *parts)


@dataclass(frozen=True, slots=True)
class Counts:
    """Pending and failed deliveries, counted up to a bound; how long the longest overdue one has been due; and disabled
    endpoints.
    """

    pending: int
    failed: int
    overdue_seconds: float
    endpoints_disabled: int


_COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    **{
        field.name: webhook_deliveries.c[field.name] for field in fields(Delivery) if field.name in webhook_deliveries.c
    },
    "type": webhook_events.c.type,
    "user_id": webhook_events.c.user_id,
    # Finished deliveries have no next attempt.
    "next_attempt_at": sa.case(
        (webhook_deliveries.c.state == DeliveryState.PENDING, webhook_deliveries.c.next_attempt_at)
    ),
}
_DELIVERIES = sa.select(*(_COLUMNS[field.name].label(field.name) for field in fields(Delivery))).select_from(
    webhook_deliveries.join(webhook_events, webhook_events.c.id == webhook_deliveries.c.event_id)
)


def due_endpoints(connection: sa.Connection, at_once_max: int) -> list[DueEndpoint]:
    """Enabled endpoints with a delivery due and room for more in flight; a failing endpoint has one in flight at a
    time.
    """
    return [DueEndpoint(*row) for row in connection.execute(_DUE, {"at_once_max": at_once_max})]


def claim(
    connection: sa.Connection, endpoint_id: int, at_once_max: int, lease_seconds: float
) -> ClaimedDelivery | None:
    """Lease the delivery that has been due longest, unless `at_once_max` are in flight. The caller has locked the
    endpoint.
    """
    values = {"endpoint_id": endpoint_id, "at_once_max": at_once_max, "lease_seconds": lease_seconds}
    row = connection.execute(_CLAIM, values).one_or_none()
    return None if row is None else ClaimedDelivery(*row)


def finish(
    connection: sa.Connection, claimed: ClaimedDelivery, answer: Answer, retry_seconds: float | None
) -> DeliveryState | None:
    """Record the result of an attempt. Returns the delivery's state; None where somebody else has leased it by now."""
    connection.execute(
        sa.insert(webhook_attempts).values(
            delivery_id=claimed.id,
            started_at=sa.func.clock_timestamp() - sa.func.make_interval(0, 0, 0, 0, 0, 0, answer.duration_seconds),
            duration_seconds=answer.duration_seconds,
            status=answer.status,
            error=answer.reason,
            excerpt=answer.excerpt,
        )
    )
    values = {
        "id": claimed.id,
        "leased_until": claimed.leased_until,
        "delivered": answer.is_success,
        "retry_seconds": None if answer.is_success else retry_seconds,
        "status": answer.status,
        "error": answer.reason,
    }
    state = connection.execute(_FINISH, values).scalar_one_or_none()
    return None if state is None else DeliveryState(state)


def list_newest(connection: sa.Connection, matching: DeliveryFilter, before_id: int, limit: int) -> list[Delivery]:
    statement = _DELIVERIES.where(matching.condition, webhook_deliveries.c.id < before_id)
    rows = connection.execute(statement.order_by(webhook_deliveries.c.id.desc()).limit(limit))
    return [_delivery(row) for row in rows]


def of_events(connection: sa.Connection, event_ids: Sequence[UUID]) -> dict[UUID, list[Delivery]]:
    """By event, in the order of their endpoints."""
    found: dict[UUID, list[Delivery]] = {event_id: [] for event_id in event_ids}
    statement = _DELIVERIES.where(webhook_deliveries.c.event_id.in_(event_ids))
    for row in connection.execute(statement.order_by(webhook_deliveries.c.endpoint_id)):
        found[row.event_id].append(_delivery(row))
    return found


def find(connection: sa.Connection, delivery_id: int) -> Delivery | None:
    row = connection.execute(_DELIVERIES.where(webhook_deliveries.c.id == delivery_id)).one_or_none()
    return None if row is None else _delivery(row)


def attempts(connection: sa.Connection, delivery_ids: Sequence[int]) -> dict[int, list[Attempt]]:
    """By delivery, oldest first."""
    found: dict[int, list[Attempt]] = {delivery_id: [] for delivery_id in delivery_ids}
    table = webhook_attempts.c
    statement = sa.select(table.delivery_id, *(table[field.name] for field in fields(Attempt)))
    for delivery_id, *values in connection.execute(
        statement.where(table.delivery_id.in_(delivery_ids)).order_by(table.id)
    ):
        found[delivery_id].append(Attempt(*values))
    return found


def add(connection: sa.Connection, endpoint_id: int, event_ids: Sequence[UUID]) -> None:
    """Deliver these events to an endpoint, again or for the first time."""
    connection.execute(_ADD, {"endpoint_id": endpoint_id, "event_ids": list(event_ids)})


def missed(
    connection: sa.Connection,
    endpoint_id: int,
    *,
    since: datetime,
    until: datetime | None,
    after_id: UUID,
    limit: int,
) -> list[UUID]:
    """Events of that time that the endpoint subscribes to and hasn't received, oldest first."""
    values = {"endpoint_id": endpoint_id, "since": since, "until": until, "after_id": after_id, "limit": limit}
    return list(connection.execute(_MISSED, values).scalars())


def give_up(connection: sa.Connection, endpoint_id: int) -> None:
    """Give up the endpoint's pending deliveries."""
    connection.execute(
        sa.update(webhook_deliveries)
        .where(webhook_deliveries.c.endpoint_id == endpoint_id, webhook_deliveries.c.state == DeliveryState.PENDING)
        .values(state=DeliveryState.FAILED, last_error="endpoint_deleted", leased_until=None, finished_at=sa.func.now())
    )


def counts(connection: sa.Connection) -> Counts:
    row = connection.execute(_COUNTS, {"counted_max": COUNTED_MAX}).one()
    return Counts(row.pending, row.failed, row.overdue_seconds or 0.0, row.endpoints_disabled)


def _delivery(row: Any) -> Delivery:
    return Delivery(**{**row._asdict(), "state": DeliveryState(row.state)})
