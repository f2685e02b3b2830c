"""The console's sessions and the forms that were sent in them, as rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables import api_keys, console_forms, console_sessions


@dataclass(frozen=True, slots=True)
class SessionRow:
    token_hash: bytes
    key_fingerprint: str
    person: str | None
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class FormRow:
    """`location` is the page to which the sender was redirected afterwards; None while the form's action isn't
    finished.
    """

    location: str | None
    message: str | None


_NOW = sa.func.now().label("now")
_COLUMNS = (
    console_sessions.c.token_hash,
    console_sessions.c.key_fingerprint,
    console_sessions.c.person,
    console_sessions.c.created_at,
    console_sessions.c.seen_at,
    console_sessions.c.expires_at,
    _NOW,
)


def insert_session(
    connection: sa.Connection,
    *,
    token_hash: bytes,
    key_id: str | None,
    key_fingerprint: str,
    person: str | None,
    address: str | None,
    lifetime: timedelta,
) -> None:
    connection.execute(
        sa.insert(console_sessions).values(
            token_hash=token_hash,
            key_id=key_id,
            key_fingerprint=key_fingerprint,
            person=person,
            address=address,
            expires_at=sa.func.now() + lifetime,
        )
    )


def find_session(connection: sa.Connection, token_hash: bytes, idle_max: timedelta) -> SessionRow | None:
    """A session that has neither expired nor been idle for too long, and whose key is in force according to its row."""
    row = connection.execute(
        sa.select(*_COLUMNS)
        .select_from(console_sessions.outerjoin(api_keys, api_keys.c.id == console_sessions.c.key_id))
        .where(
            console_sessions.c.token_hash == token_hash,
            console_sessions.c.expires_at > sa.func.now(),
            console_sessions.c.seen_at > sa.func.now() - idle_max,
            api_keys.c.revoked_at.is_(None),
            sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > sa.func.now()),
        )
    ).one_or_none()
    return None if row is None else SessionRow(*row)


def touch_session(connection: sa.Connection, token_hash: bytes) -> None:
    connection.execute(
        sa.update(console_sessions).where(console_sessions.c.token_hash == token_hash).values(seen_at=sa.func.now())
    )


def delete_session(connection: sa.Connection, token_hash: bytes) -> None:
    """Delete a session and, by cascade, its forms."""
    connection.execute(sa.delete(console_sessions).where(console_sessions.c.token_hash == token_hash))


def delete_expired(connection: sa.Connection, idle_max: timedelta) -> None:
    connection.execute(
        sa.delete(console_sessions).where(
            sa.or_(
                console_sessions.c.expires_at <= sa.func.now(),
                console_sessions.c.seen_at <= sa.func.now() - idle_max,
            )
        )
    )


def claim_form(connection: sa.Connection, session_hash: bytes, form_id: UUID) -> bool:
    """Whether this form is sent for the first time."""
    insert = pg.insert(console_forms).values(session_hash=session_hash, id=form_id).on_conflict_do_nothing()
    return connection.execute(insert.returning(console_forms.c.id)).one_or_none() is not None


def find_form(connection: sa.Connection, session_hash: bytes, form_id: UUID) -> FormRow | None:
    row = connection.execute(
        sa.select(console_forms.c.location, console_forms.c.message).where(*_is(session_hash, form_id))
    ).one_or_none()
    return None if row is None else FormRow(*row)


def finish_form(connection: sa.Connection, session_hash: bytes, form_id: UUID, location: str, message: str) -> None:
    connection.execute(
        sa.update(console_forms).where(*_is(session_hash, form_id)).values(location=location, message=message)
    )


def release_form(connection: sa.Connection, session_hash: bytes, form_id: UUID) -> None:
    """The form was refused, so it may be sent again."""
    connection.execute(sa.delete(console_forms).where(*_is(session_hash, form_id)))


def _is(session_hash: bytes, form_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    return console_forms.c.session_hash == session_hash, console_forms.c.id == form_id
