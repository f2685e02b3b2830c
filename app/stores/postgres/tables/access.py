"""Who may call, and who has changed what."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata

# Keys by their hash. The two of the environment have none: their rows tell when they were last used.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("number", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    # What the ledger calls its holder; a rotated key's successor has the same.
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("scopes", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("digest", pg.BYTEA, unique=True),
    created_at(),
    sa.Column("created_by", sa.Text),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
    # For how long it was made, None: for ever. A successor gets as long, unless it is told otherwise.
    sa.Column("lifetime_seconds", sa.BigInteger),
    sa.Column("replaces", sa.Text, unique=True),
    sa.Column("revoked_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("revoked_by", sa.Text),
    # Written by each process now and then, not with each call.
    sa.Column("last_used_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("last_used_address", sa.Text),
    sa.CheckConstraint("kind IN ('service', 'operator')", name="api_keys_kind_known"),
    sa.CheckConstraint("(digest IS NULL) = (id IN ('server', 'admin'))", name="api_keys_digest_unless_of_environment"),
    sa.Index("api_keys_name", "name"),
)

# Append-only, as the ledger is: a trigger refuses the rest.
audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject_kind", sa.Text, nullable=False),
    sa.Column("subject_id", sa.Text, nullable=False),
    sa.Column("before", pg.JSONB(none_as_null=True)),
    sa.Column("after", pg.JSONB(none_as_null=True)),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text),
    sa.Column("address", sa.Text),
    sa.Column("request_id", sa.Text),
    sa.Index("audit_log_subject", "subject_kind", "subject_id", "id"),
    sa.Index("audit_log_action", "action", "id"),
    # For those behind a key too, who begin with its name.
    sa.Index("audit_log_actor", "actor", "id", postgresql_ops={"actor": "text_pattern_ops"}),
    sa.Index("audit_log_key_id", "key_id", "id"),
    sa.Index("audit_log_at", "at"),
)
