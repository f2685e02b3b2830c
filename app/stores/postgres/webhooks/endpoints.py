"""Endpoints: where events are sent, and the secrets that sign them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.domain.webhooks import DisabledReason, EndpointState
from app.stores.postgres.tables import webhook_endpoints, webhook_secrets


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: int
    url: str
    description: str | None
    event_types: Sequence[str]
    """Empty: all types."""
    state: EndpointState
    disabled_reason: DisabledReason | None
    disabled_at: datetime | None
    failing_since: datetime | None
    paused_until: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that signs. `expires_at` is set once another has replaced it."""

    id: int
    secret: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Health:
    """Pending and failed deliveries of an endpoint, and its last success."""

    pending: int = 0
    failed: int = 0
    last_delivered_at: datetime | None = None


# Counts stop here: an exact higher number would take long and say no more.
COUNTED_MAX = 10_000

_HEALTH = sa.text("""
    SELECT p.id,
        (SELECT count(*) FROM (
            SELECT FROM webhook_deliveries WHERE endpoint_id = p.id AND state = 'pending' LIMIT :counted_max
        ) AS counted) AS pending,
        (SELECT count(*) FROM (
            SELECT FROM webhook_deliveries WHERE endpoint_id = p.id AND state = 'failed' LIMIT :counted_max
        ) AS counted) AS failed,
        (SELECT finished_at FROM webhook_deliveries WHERE endpoint_id = p.id AND state = 'delivered'
            ORDER BY id DESC LIMIT 1) AS last_delivered_at
    FROM unnest(CAST(:ids AS bigint[])) AS p (id)
""")

_COLUMNS = [webhook_endpoints.c[field.name] for field in fields(Endpoint)]
_SECRET_COLUMNS = [webhook_secrets.c[field.name] for field in fields(Secret)]
_NOT_DELETED = webhook_endpoints.c.state != EndpointState.DELETED


def insert(connection: sa.Connection, values: Mapping[str, Any]) -> Endpoint:
    statement = sa.insert(webhook_endpoints).values(**values).returning(*_COLUMNS)
    return _endpoint(connection.execute(statement).one())


def find(connection: sa.Connection, endpoint_id: int) -> Endpoint | None:
    return _find(connection, sa.select(*_COLUMNS).where(webhook_endpoints.c.id == endpoint_id, _NOT_DELETED))


def lock(connection: sa.Connection, endpoint_id: int) -> Endpoint | None:
    """Lock an endpoint, so that only one transaction at a time changes it or takes deliveries to it. Settlement doesn't
    wait for this lock.
    """
    statement = sa.select(*_COLUMNS).where(webhook_endpoints.c.id == endpoint_id, _NOT_DELETED)
    return _find(connection, statement.with_for_update(key_share=True))


def list_by_id(connection: sa.Connection, after_id: int, limit: int) -> list[Endpoint]:
    """In the order they were made."""
    statement = sa.select(*_COLUMNS).where(webhook_endpoints.c.id > after_id, _NOT_DELETED)
    rows = connection.execute(statement.order_by(webhook_endpoints.c.id).limit(limit))
    return [_endpoint(row) for row in rows]


def update(connection: sa.Connection, endpoint_id: int, changes: Mapping[str, Any]) -> Endpoint:
    """Change columns of a locked endpoint. Returns the endpoint as it is then."""
    statement = sa.update(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id)
    return _endpoint(connection.execute(statement.values(**changes).returning(*_COLUMNS)).one())


def disabling(reason: DisabledReason) -> Mapping[str, Any]:
    """The changes that disable an endpoint."""
    return {
        "state": EndpointState.DISABLED,
        "disabled_reason": reason,
        "disabled_at": sa.func.clock_timestamp(),
        "paused_until": None,
    }


def health(connection: sa.Connection, endpoint_ids: Sequence[int]) -> dict[int, Health]:
    return {
        row.id: Health(row.pending, row.failed, row.last_delivered_at)
        for row in connection.execute(_HEALTH, {"ids": list(endpoint_ids), "counted_max": COUNTED_MAX})
    }


def is_failing_for(connection: sa.Connection, endpoint: Endpoint, seconds: float) -> bool:
    """Whether deliveries to the endpoint have been failing for this long."""
    if endpoint.failing_since is None:
        return False
    since = sa.func.clock_timestamp() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    return bool(connection.execute(sa.select(sa.literal(endpoint.failing_since) <= since)).scalar_one())


def is_paused(connection: sa.Connection, endpoint: Endpoint) -> bool:
    """Whether the endpoint has asked for a pause that isn't over."""
    if endpoint.paused_until is None:
        return False
    return bool(
        connection.execute(sa.select(sa.literal(endpoint.paused_until) > sa.func.clock_timestamp())).scalar_one()
    )


def add_secret(connection: sa.Connection, endpoint_id: int, secret: str) -> None:
    connection.execute(sa.insert(webhook_secrets).values(endpoint_id=endpoint_id, secret=secret))


def secrets(connection: sa.Connection, endpoint_id: int) -> list[Secret]:
    """Secrets that sign now, newest first."""
    statement = sa.select(*_SECRET_COLUMNS).where(
        webhook_secrets.c.endpoint_id == endpoint_id,
        sa.or_(webhook_secrets.c.expires_at.is_(None), webhook_secrets.c.expires_at > sa.func.clock_timestamp()),
    )
    return [Secret(*row) for row in connection.execute(statement.order_by(webhook_secrets.c.id.desc()))]


def expire_secrets(connection: sa.Connection, endpoint_id: int, seconds: int) -> None:
    """Have the endpoint's secrets expire within this many seconds, and delete the expired ones."""
    until = sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    of_endpoint = webhook_secrets.c.endpoint_id == endpoint_id
    connection.execute(
        sa.update(webhook_secrets)
        .where(of_endpoint)
        .values(expires_at=sa.func.least(sa.func.coalesce(webhook_secrets.c.expires_at, until), until))
    )
    connection.execute(
        sa.delete(webhook_secrets).where(of_endpoint, webhook_secrets.c.expires_at <= sa.func.clock_timestamp())
    )


def forget_secrets(connection: sa.Connection, endpoint_id: int) -> None:
    connection.execute(sa.delete(webhook_secrets).where(webhook_secrets.c.endpoint_id == endpoint_id))


def _find(connection: sa.Connection, statement: sa.Select[Any]) -> Endpoint | None:
    row = connection.execute(statement).one_or_none()
    return None if row is None else _endpoint(row)


def _endpoint(row: Any) -> Endpoint:
    reason = None if row.disabled_reason is None else DisabledReason(row.disabled_reason)
    return Endpoint(**{**row._asdict(), "state": EndpointState(row.state), "disabled_reason": reason})
