"""API keys as rows: created, made to expire, revoked, never deleted. Keys of the environment have rows without
a hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.keys import SCOPES_OF_KIND, ApiKey, KeyKind, KeyScope
from app.stores.postgres.tables import api_keys


class KeyState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """Everything that is stored about a key."""

    number: int
    id: str
    name: str
    kind: KeyKind
    scopes: frozenset[KeyScope]
    state: KeyState
    is_of_environment: bool
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    lifetime_seconds: int | None
    revoked_at: datetime | None
    revoked_by: str | None
    replaces: str | None
    replaced_by: str | None
    last_used_at: datetime | None
    last_used_address: str | None


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys; a field that is None doesn't filter."""

    name: str | None = None
    kind: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """When and from where a key was last used, as far as one process knows."""

    key_id: str
    at: datetime
    address: str


_successor = api_keys.alias("successor")
_STATE = sa.case(
    (api_keys.c.revoked_at.is_not(None), KeyState.REVOKED),
    (api_keys.c.expires_at <= sa.func.clock_timestamp(), KeyState.EXPIRED),
    else_=KeyState.ACTIVE,
)
_ROWS = sa.select(api_keys, _STATE.label("state"), _successor.c.id.label("replaced_by")).outerjoin(
    _successor, _successor.c.replaces == api_keys.c.id
)


def in_force(connection: sa.Connection) -> Sequence[ApiKey]:
    """Every key in force, except those of the environment."""
    statement = sa.select(api_keys).where(_STATE == KeyState.ACTIVE, api_keys.c.digest.is_not(None))
    return [
        ApiKey(
            id=row.id,
            name=row.name,
            kind=KeyKind(row.kind),
            scopes=_scopes(row),
            digest=bytes(row.digest),
            expires_at=row.expires_at,
        )
        for row in connection.execute(statement)
    ]


def insert(
    connection: sa.Connection,
    *,
    key_id: str,
    name: str,
    kind: KeyKind,
    scopes: Sequence[KeyScope],
    digest: bytes,
    created_by: str,
    expires_at: datetime | None,
    replaces: str | None = None,
) -> KeyRow:
    """A new key. The caller has announced the change first (`system.announce_keys`)."""
    seconds = sa.func.extract("epoch", sa.cast(expires_at, sa.TIMESTAMP(timezone=True)) - sa.func.clock_timestamp())
    values: dict[str, Any] = {
        "id": key_id,
        "name": name,
        "kind": kind,
        "scopes": list(scopes),
        "digest": digest,
        "created_by": created_by,
        "expires_at": expires_at,
        "lifetime_seconds": None if expires_at is None else sa.cast(sa.func.ceil(seconds), sa.BigInteger),
        "replaces": replaces,
    }
    connection.execute(sa.insert(api_keys).values(values))
    return _one(connection, key_id)


def find(connection: sa.Connection, key_id: str) -> KeyRow | None:
    row = connection.execute(_ROWS.where(api_keys.c.id == key_id)).one_or_none()
    return None if row is None else _from_row(row)


def is_name_taken(connection: sa.Connection, name: str) -> bool:
    """Whether a key in force has this name."""
    taken = sa.exists().where(sa.func.lower(api_keys.c.name) == name.lower(), _STATE == KeyState.ACTIVE)
    return connection.execute(sa.select(taken)).scalar_one()


def revoke(connection: sa.Connection, key_id: str, revoked_by: str) -> KeyRow:
    return _change(connection, key_id, {"revoked_at": sa.func.clock_timestamp(), "revoked_by": revoked_by})


def end_within(connection: sa.Connection, key_id: str, seconds: int) -> KeyRow:
    """Have a key expire within this many seconds, unless it expires earlier anyway."""
    end = sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    return _change(connection, key_id, {"expires_at": sa.func.least(api_keys.c.expires_at, end)})


def list_newest(connection: sa.Connection, wanted: KeyFilter, before_number: int, limit: int) -> Sequence[KeyRow]:
    statement = _ROWS.where(api_keys.c.number < before_number)
    if wanted.name is not None:
        statement = statement.where(api_keys.c.name == wanted.name)
    if wanted.kind is not None:
        statement = statement.where(api_keys.c.kind == wanted.kind)
    if wanted.state is not None:
        statement = statement.where(_STATE.is_not_distinct_from(wanted.state))
    return [_from_row(row) for row in connection.execute(statement.order_by(api_keys.c.number.desc()).limit(limit))]


def write_uses(connection: sa.Connection, uses: Sequence[Use]) -> None:
    """Store when keys were last used, where that is later than what is stored: in one statement, locking rows in one
    order.
    """
    ordered = sorted(uses, key=lambda use: use.key_id)
    used = sa.select(
        sa.func.unnest(sa.cast([use.key_id for use in ordered], pg.ARRAY(sa.Text))).label("id"),
        sa.func.unnest(sa.cast([use.at for use in ordered], pg.ARRAY(sa.TIMESTAMP(timezone=True)))).label("at"),
        sa.func.unnest(sa.cast([use.address for use in ordered], pg.ARRAY(sa.Text))).label("address"),
    ).subquery("used")
    is_later = sa.or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < used.c.at)
    # A key row that is locked (its key is being revoked) is skipped: the time of last use isn't worth waiting for.
    later = (
        sa.select(used)
        .join(api_keys, api_keys.c.id == used.c.id)
        .where(is_later)
        .order_by(api_keys.c.id)
        .with_for_update(of=api_keys, skip_locked=True)
        .cte("later")
    )
    connection.execute(
        sa.update(api_keys)
        .values(last_used_at=later.c.at, last_used_address=later.c.address)
        .where(api_keys.c.id == later.c.id)
    )


def _change(connection: sa.Connection, key_id: str, values: Mapping[str, Any]) -> KeyRow:
    connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(dict(values)))
    return _one(connection, key_id)


def _one(connection: sa.Connection, key_id: str) -> KeyRow:
    return _from_row(connection.execute(_ROWS.where(api_keys.c.id == key_id)).one())


def _from_row(row: Any) -> KeyRow:
    kind = KeyKind(row.kind)
    is_of_environment = row.digest is None
    return KeyRow(
        number=row.number,
        id=row.id,
        name=row.name,
        kind=kind,
        scopes=SCOPES_OF_KIND[kind] if is_of_environment else _scopes(row),
        state=KeyState(row.state),
        is_of_environment=is_of_environment,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        lifetime_seconds=row.lifetime_seconds,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        replaces=row.replaces,
        replaced_by=row.replaced_by,
        last_used_at=row.last_used_at,
        last_used_address=row.last_used_address,
    )


def _scopes(row: Any) -> frozenset[KeyScope]:
    # A newer release may have written scopes that this one doesn't know and never checks.
    known = frozenset(KeyScope)
    return frozenset(KeyScope(name) for name in row.scopes if name in known)
