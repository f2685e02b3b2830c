"""Samples of the whole by the minute, and which processes have said that they live."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE samples (
            minute timestamptz PRIMARY KEY,
            accepted bigint NOT NULL,
            settled bigint NOT NULL,
            lag_median_seconds double precision,
            lag_p95_seconds double precision,
            backlog bigint NOT NULL,
            backlog_age_seconds double precision,
            pending_micros numeric NOT NULL,
            retrying bigint NOT NULL,
            retrying_micros numeric NOT NULL,
            dead bigint NOT NULL,
            dead_micros numeric NOT NULL,
            debt_micros numeric NOT NULL,
            oldest_debt_seconds double precision,
            liability_micros numeric NOT NULL,
            overdrawn_micros numeric NOT NULL,
            wallets bigint NOT NULL,
            held_micros numeric
        );

        CREATE TABLE processes (
            name text PRIMARY KEY,
            kind text NOT NULL CONSTRAINT processes_kind_known CHECK (kind IN ('web', 'worker', 'beat')),
            started_at timestamptz NOT NULL DEFAULT now(),
            seen_at timestamptz NOT NULL DEFAULT now()
        );
    """)
