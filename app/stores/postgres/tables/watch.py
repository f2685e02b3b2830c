"""What operators watch: a sample of the whole system each minute, and the processes that report they are alive."""

from __future__ import annotations

import sqlalchemy as sa

from app.stores.postgres.tables.base import metadata, now

# Amounts are numeric: sums over all wallets may exceed 64 bits.
samples = sa.Table(
    "samples",
    metadata,
    # The minute's start. `accepted`, `settled` and the lags are of this minute; all else is the state right after it.
    sa.Column("minute", sa.TIMESTAMP(timezone=True), primary_key=True),
    sa.Column("accepted", sa.BigInteger, nullable=False),
    sa.Column("settled", sa.BigInteger, nullable=False),
    sa.Column("lag_median_seconds", sa.Double),
    sa.Column("lag_p95_seconds", sa.Double),
    sa.Column("backlog", sa.BigInteger, nullable=False),
    sa.Column("backlog_age_seconds", sa.Double),
    sa.Column("pending_micros", sa.Numeric, nullable=False),
    sa.Column("retrying", sa.BigInteger, nullable=False),
    sa.Column("retrying_micros", sa.Numeric, nullable=False),
    sa.Column("dead", sa.BigInteger, nullable=False),
    sa.Column("dead_micros", sa.Numeric, nullable=False),
    sa.Column("debt_micros", sa.Numeric, nullable=False),
    sa.Column("oldest_debt_seconds", sa.Double),
    sa.Column("liability_micros", sa.Numeric, nullable=False),
    sa.Column("overdrawn_micros", sa.Numeric, nullable=False),
    sa.Column("wallets", sa.BigInteger, nullable=False),
    # Null where Redis, which has the holds, was away.
    sa.Column("held_micros", sa.Numeric),
)

processes = sa.Table(
    "processes",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    sa.Column("seen_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=now),
    sa.CheckConstraint("kind IN ('web', 'worker', 'webhooks', 'beat')", name="processes_kind_known"),
)
