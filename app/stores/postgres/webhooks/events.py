"""Events. Triggers write them; here they are read, created for tests, and deleted when they are old."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.webhooks import DeliveryState
from app.stores.postgres.tables import webhook_deliveries, webhook_events

# Deletes old events without pending deliveries. Events with failed deliveries stay until `failed_before_id`.
_PRUNE = sa.text("""
    WITH old AS MATERIALIZED (
        SELECT e.id FROM webhook_events AS e
        WHERE e.id < :before_id AND NOT EXISTS (
            SELECT FROM webhook_deliveries AS d WHERE d.event_id = e.id
                AND (d.state = 'pending' OR (d.state = 'failed' AND e.id >= :failed_before_id))
        )
        ORDER BY e.id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), deliveries AS (
        DELETE FROM webhook_deliveries WHERE event_id = ANY(ARRAY(SELECT id FROM old)) RETURNING id
    ), attempts AS (
        DELETE FROM webhook_attempts WHERE delivery_id = ANY(ARRAY(SELECT id FROM deliveries))
    )
    DELETE FROM webhook_events WHERE id = ANY(ARRAY(SELECT id FROM old))
""")

# Ids begin with milliseconds.
_ID_AT = sa.text("""
    SELECT CAST(lpad(to_hex(CAST(floor(extract(epoch FROM
        clock_timestamp() - make_interval(secs => :seconds)) * 1000) AS bigint)), 12, '0')
        || '00000000000000000000' AS uuid)
""")


@dataclass(frozen=True, slots=True)
class Event:
    id: UUID
    type: str
    user_id: str | None
    data: Mapping[str, Any]
    """As the trigger wrote it: amounts as `_micros`, moments as text."""
    endpoint_id: int | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; a field that is None doesn't filter. `state` is that of any of the event's deliveries."""

    type: str | None = None
    user_id: str | None = None
    state: DeliveryState | None = None
    endpoint_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def condition(self) -> sa.ColumnElement[bool]:
        events, deliveries = webhook_events.c, webhook_deliveries.c
        parts: list[sa.ColumnElement[bool]] = []
        if self.type is not None:
            parts.append(events.type == self.type)
        if self.user_id is not None:
            parts.append(events.user_id == self.user_id)
        if self.since is not None:
            parts.append(events.occurred_at >= self.since)
        if self.until is not None:
            parts.append(events.occurred_at < self.until)
        if self.state is not None or self.endpoint_id is not None:
            matching = sa.select(deliveries.id).where(deliveries.event_id == events.id)
            if self.state is not None:
                matching = matching.where(deliveries.state == self.state)
            if self.endpoint_id is not None:
                matching = matching.where(deliveries.endpoint_id == self.endpoint_id)
            parts.append(matching.exists())
        return sa.and_(sa.true(), *parts)


_COLUMNS = [webhook_events.c[field.name] for field in fields(Event)]


def insert_test(connection: sa.Connection, endpoint_id: int, event_type: str, data: Mapping[str, Any]) -> Event:
    """An event for one endpoint alone; a trigger has it delivered."""
    statement = sa.insert(webhook_events).values(type=event_type, endpoint_id=endpoint_id, data=dict(data))
    return Event(*connection.execute(statement.returning(*_COLUMNS)).one())


def find(connection: sa.Connection, event_id: UUID) -> Event | None:
    row = connection.execute(sa.select(*_COLUMNS).where(webhook_events.c.id == event_id)).one_or_none()
    return None if row is None else Event(*row)


def list_newest(connection: sa.Connection, matching: EventFilter, before_id: UUID, limit: int) -> list[Event]:
    statement = sa.select(*_COLUMNS).where(matching.condition, webhook_events.c.id < before_id)
    return [Event(*row) for row in connection.execute(statement.order_by(webhook_events.c.id.desc()).limit(limit))]


def prune(connection: sa.Connection, seconds: float, failed_seconds: float, limit: int) -> int:
    """Delete up to `limit` events older than `seconds`, with their deliveries and attempts. Returns how many. Events
    with a pending delivery stay, and those with a failed one stay for `failed_seconds`.
    """
    before_id, failed_before_id = (_id_at(connection, age) for age in (seconds, failed_seconds))
    values = {"before_id": before_id, "failed_before_id": failed_before_id, "limit": limit}
    return connection.execute(_PRUNE, values).rowcount


def _id_at(connection: sa.Connection, seconds_ago: float) -> UUID:
    found: UUID = connection.execute(_ID_AT, {"seconds": seconds_ago}).scalar_one()
    return found
