"""Samples: the state of the whole system, one row a minute, taken in one snapshot of ledger, inbox and wallets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import samples

# How long after a minute its sample is taken, so that all entries made in it are committed.
COMMIT_SECONDS_MAX = 3
# A longer lag belongs to a debt that was collected later, and says nothing about the speed of settlement. Where
# settlement itself stops for this long, the age of the backlog shows it.
LAG_SECONDS_MAX = 600
KEPT_DAYS = 7

# By Postgres's clock, which all hosts share.
_TO_TAKE = sa.text("""
    SELECT last.minute FROM (
        SELECT date_trunc('minute', now() - make_interval(secs => :commit_seconds)) - interval '1 minute' AS minute
    ) AS last
    WHERE NOT EXISTS (SELECT FROM samples WHERE samples.minute = last.minute)
""")

# The index on created_at limits the read to the last minute or two of the ledger.
_TAKE = sa.text("""
    WITH entered AS MATERIALIZED (
        SELECT accepted_at, created_at, CAST(extract(epoch FROM created_at - accepted_at) AS double precision) AS lag
        FROM token_transactions WHERE created_at >= :minute AND kind = 'usage'
    ), ledger AS (
        SELECT count(*) FILTER (WHERE accepted_at >= :minute AND accepted_at < :until) AS accepted,
            count(*) FILTER (WHERE created_at < :until) AS settled,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY lag)
                FILTER (WHERE created_at < :until AND lag < :lag_max) AS lag_median_seconds,
            percentile_disc(0.95) WITHIN GROUP (ORDER BY lag)
                FILTER (WHERE created_at < :until AND lag < :lag_max) AS lag_p95_seconds
        FROM entered
    ), inbox AS (
        SELECT count(*) FILTER (WHERE kind = 'usage' AND accepted_at >= :minute AND accepted_at < :until) AS accepted,
            count(*) FILTER (WHERE state = 'accepted') AS backlog,
            extract(epoch FROM now() - min(accepted_at) FILTER (WHERE state = 'accepted')) AS backlog_age_seconds,
            coalesce(sum(cost_micros) FILTER (WHERE state = 'accepted' AND NOT is_debt), 0) AS pending_micros,
            count(*) FILTER (WHERE state = 'retrying') AS retrying,
            coalesce(sum(cost_micros) FILTER (WHERE state = 'retrying'), 0) AS retrying_micros,
            count(*) FILTER (WHERE state = 'dead') AS dead,
            coalesce(sum(cost_micros) FILTER (WHERE state = 'dead'), 0) AS dead_micros,
            coalesce(sum(cost_micros) FILTER (WHERE state <> 'accepted' AND NOT is_debt), 0) AS untold_micros,
            extract(epoch FROM now() - min(accepted_at) FILTER (WHERE state <> 'accepted')) AS oldest_debt_seconds
        FROM end_inbox
    ), purses AS (
        SELECT count(*) AS wallets, coalesce(sum(debt_micros), 0) AS debt_micros,
            coalesce(sum(posted_micros) FILTER (WHERE posted_micros > 0), 0) AS liability_micros,
            coalesce(-sum(posted_micros) FILTER (WHERE posted_micros < 0), 0) AS overdrawn_micros
        FROM wallets
    )
    INSERT INTO samples (
        minute, accepted, settled, lag_median_seconds, lag_p95_seconds, backlog, backlog_age_seconds, pending_micros,
        retrying, retrying_micros, dead, dead_micros, debt_micros, oldest_debt_seconds, liability_micros,
        overdrawn_micros, wallets, held_micros
    )
    SELECT :minute, l.accepted + i.accepted, l.settled, l.lag_median_seconds, l.lag_p95_seconds, i.backlog,
        i.backlog_age_seconds, i.pending_micros, i.retrying, i.retrying_micros, i.dead, i.dead_micros,
        p.debt_micros + i.untold_micros, i.oldest_debt_seconds, p.liability_micros, p.overdrawn_micros, p.wallets,
        :held_micros
    FROM ledger AS l, inbox AS i, purses AS p
    ON CONFLICT (minute) DO NOTHING
""").bindparams(
    sa.bindparam("minute", type_=sa.TIMESTAMP(timezone=True)),
    sa.bindparam("until", type_=sa.TIMESTAMP(timezone=True)),
    sa.bindparam("held_micros", type_=sa.Numeric),
)

_PRUNE = sa.text("DELETE FROM samples WHERE minute < now() - make_interval(days => :days)")


@dataclass(frozen=True, slots=True)
class Sample:
    """Numbers of ends accepted and settled in the minute that begins at `minute`, and the state right after it.

    The lags are the median and the 95th percentile of ends settled within LAG_SECONDS_MAX; None where there were none.
    An age is None where nothing waits. `debt_micros` is what wallets owe, in retries or dead letters. `held_micros` is
    None where Redis was away.
    """

    minute: datetime
    accepted: int
    settled: int
    lag_median_seconds: float | None
    lag_p95_seconds: float | None
    backlog: int
    backlog_age_seconds: float | None
    pending_micros: int
    retrying: int
    retrying_micros: int
    dead: int
    dead_micros: int
    debt_micros: int
    oldest_debt_seconds: float | None
    liability_micros: int
    overdrawn_micros: int
    wallets: int
    held_micros: int | None


_COLUMNS = [samples.c[field.name] for field in fields(Sample)]
_AMOUNTS = [field.name for field in fields(Sample) if field.name.endswith("_micros")]


def to_take(connection: sa.Connection) -> datetime | None:
    """The last whole minute, unless its sample has been taken."""
    minute: datetime | None = connection.execute(_TO_TAKE, {"commit_seconds": COMMIT_SECONDS_MAX}).scalar_one_or_none()
    return minute


def take(connection: sa.Connection, minute: datetime, until: datetime, held_micros: int | None, seconds: float) -> bool:
    """Write a minute's sample and delete those older than KEPT_DAYS. False where another process has written it."""
    allow_seconds(connection, seconds)
    parameters = {"minute": minute, "until": until, "held_micros": held_micros, "lag_max": LAG_SECONDS_MAX}
    is_ours = connection.execute(_TAKE, parameters).rowcount == 1
    if is_ours:
        connection.execute(_PRUNE, {"days": KEPT_DAYS})
    return is_ours


def between(
    connection: sa.Connection,
    since: datetime | None,
    until: datetime | None,
    *,
    before: datetime | None = None,
    limit: int | None = None,
) -> Sequence[Sample]:
    """Newest first; only minutes before `before`, where a page continues."""
    statement = sa.select(*_COLUMNS).order_by(samples.c.minute.desc()).limit(limit)
    if since is not None:
        statement = statement.where(samples.c.minute >= since)
    for bound in (until, before):
        if bound is not None:
            statement = statement.where(samples.c.minute < bound)
    return [_sample(row) for row in connection.execute(statement)]


def thinned(connection: sa.Connection, since: datetime, every_seconds: int) -> Sequence[Sample]:
    """One sample for each `every_seconds` (whole minutes), oldest first, and the latest one."""
    moment = sa.cast(sa.func.extract("epoch", samples.c.minute), sa.BigInteger)
    latest = sa.select(sa.func.max(samples.c.minute)).scalar_subquery()
    statement = sa.select(*_COLUMNS).where(
        samples.c.minute >= since, sa.or_(moment % every_seconds == 0, samples.c.minute == latest)
    )
    return [_sample(row) for row in connection.execute(statement.order_by(samples.c.minute))]


def _sample(row: Any) -> Sample:
    found = row._asdict()
    for name in _AMOUNTS:
        found[name] = None if found[name] is None else int(found[name])
    return Sample(**found)
