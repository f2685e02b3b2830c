"""The console's sessions, and the forms sent in them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata, now

# Of the token in a browser's cookie only the hash is stored, and of the key that opened the session only its
# fingerprint.
console_sessions = sa.Table(
    "console_sessions",
    metadata,
    sa.Column("token_hash", pg.BYTEA, primary_key=True),
    sa.Column("key_id", sa.Text),
    sa.Column("key_fingerprint", sa.Text, nullable=False),
    # The person as stated at sign-in, beside the key's name.
    sa.Column("person", sa.Text),
    sa.Column("address", sa.Text),
    created_at(),
    sa.Column("seen_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
)

# Forms that have been sent, so that a form sent twice takes effect once. Without a location the form is still being
# handled, or the process that handled it has died.
console_forms = sa.Table(
    "console_forms",
    metadata,
    sa.Column(
        "session_hash",
        pg.BYTEA,
        sa.ForeignKey("console_sessions.token_hash", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("id", pg.UUID, primary_key=True),
    sa.Column("location", sa.Text),
    sa.Column("message", sa.Text),
    created_at(),
)
