"""API keys and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import created_at, metadata

# API keys by their hash. The two keys of the environment have rows without a hash, for their last use.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("number", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    # The holder's name in the ledger; the successor of a rotated key has the same name.
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("scopes", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("digest", pg.BYTEA, unique=True),
    created_at(),
    sa.Column("created_by", sa.Text),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
    # The lifetime it was made with; null: for ever. A successor gets the same lifetime, unless told otherwise.
    sa.Column("lifetime_seconds", sa.BigInteger),
    sa.Column("replaces", sa.Text, unique=True),
    sa.Column("revoked_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("revoked_by", sa.Text),
    # Written by each process every few seconds, not with each call.
    sa.Column("last_used_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("last_used_address", sa.Text),
    sa.CheckConstraint("kind IN ('service', 'operator')", name="api_keys_kind_known"),
    sa.CheckConstraint("(digest IS NULL) = (id IN ('server', 'admin'))", name="api_keys_digest_unless_of_environment"),
    sa.Index("api_keys_name", "name"),
)

# Append-only, as the ledger: a trigger refuses updates and deletes.
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
    # Also finds actors by prefix: persons behind a key begin with the key's name.
    sa.Index("audit_log_actor", "actor", "id", postgresql_ops={"actor": "text_pattern_ops"}),
    sa.Index("audit_log_key_id", "key_id", "id"),
    sa.Index("audit_log_at", "at"),
)
