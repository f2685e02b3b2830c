"""State that processes share, and the results of upkeep."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.stores.postgres.tables.base import metadata, now

# One row of counters, by which every process notices that its copy of something is stale.
system_state = sa.Table(
    "system_state",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("catalog_version", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("cache_epoch", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("heartbeat", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("keys_version", sa.BigInteger, nullable=False, server_default="1"),
    # Ends without a key up to this one may already be archived, so the ledger may no longer show them.
    sa.Column("archived_end_id", pg.UUID, nullable=False, server_default="00000000-0000-0000-0000-000000000000"),
    sa.CheckConstraint("id = 1", name="system_state_single_row"),
)

# Wallets whose cached copy may be stale: a note is written in the transaction that changes them, and deleted once Redis
# has the change. The sweep works off the notes that stay.
stale_notes = sa.Table(
    "stale_notes",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("wallet_ids", pg.ARRAY(sa.Text), nullable=False),
    # The first of the wallets and its version after the change, which identify the note. Null: only a refresh deletes
    # it.
    sa.Column("wallet_id", sa.Text),
    sa.Column("version", sa.BigInteger),
    sa.Column("noted_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    sa.Index("stale_notes_change", "wallet_id", "version"),
)

# The result of each reconciliation. `drifted` lists the differences up to a bound; `drifted_count` counts all.
reconciliations = sa.Table(
    "reconciliations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("started_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("checked", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cache_checked", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("drifted_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("repaired", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("drifted", pg.JSONB, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("is_full", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("requested_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    # When it last reported that it is running. One that has been silent for too long counts as dead.
    sa.Column("alive_at", sa.TIMESTAMP(timezone=True)),
    sa.CheckConstraint("state IN ('requested', 'running', 'done', 'failed')", name="reconciliations_state_known"),
)

# Spooled ends that couldn't be recorded. They are bytes, because the spool may contain anything.
spool_aside = sa.Table(
    "spool_aside",
    metadata,
    sa.Column("field", pg.BYTEA, primary_key=True),
    sa.Column("entry", pg.BYTEA, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
    sa.Column("put_aside_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    sa.Column("tried_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
)
