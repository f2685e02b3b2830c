"""What operators watch, queried at each scrape of the metrics: every query reads only a bounded part of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.stores.postgres import inbox, processes, samples, spool_aside
from app.stores.postgres.processes import Process
from app.stores.postgres.samples import Sample
from app.stores.postgres.webhooks import deliveries
from app.stores.postgres.webhooks.deliveries import Counts

# Uses the partial index of failed ends. Their ids begin with their time.
_OLDEST_FAILED = sa.text("""
    SELECT CAST(extract(epoch FROM now() - accepted_at) AS double precision) FROM end_inbox
    WHERE state <> 'accepted' ORDER BY id LIMIT 1
""")
_DUE = sa.text("SELECT count(*) FROM (SELECT FROM wallets WHERE collect_at <= now() LIMIT :counted_max) AS due")
# The table keeps the last thousand reconciliations.
_RECONCILED = sa.text("""
    SELECT CAST(extract(epoch FROM now() - finished_at) AS double precision) AS age_seconds,
        drifted_count - repaired AS unrepaired, repaired
    FROM reconciliations WHERE state = 'done' ORDER BY id DESC LIMIT 1
""")
# Also counts a first reconciliation that was requested and never finished.
_NEVER_RECONCILED = sa.text("""
    SELECT CAST(extract(epoch FROM now() - min(requested_at)) AS double precision) FROM reconciliations
""")
_SAMPLE_AGE = sa.text("""
    SELECT CAST(extract(epoch FROM now() - :minute) AS double precision)
""").bindparams(sa.bindparam("minute", type_=sa.TIMESTAMP(timezone=True)))
# Each of these kinds has a partial index of unfinished operations, or few rows at all.
_BULK = sa.text("""
    SELECT (SELECT count(*) FROM repricings WHERE state IN ('selecting', 'applying')) AS repricing,
        (SELECT count(*) FROM bulk_actions WHERE state IN ('running', 'cancelling')) AS failed_ends,
        (SELECT count(*) FROM top_up_batches WHERE state = 'applying') AS top_up
""")


@dataclass(frozen=True, slots=True)
class LastReconciliation:
    """`unrepaired` counts differences in money; differences in cached copies are repaired."""

    age_seconds: float
    unrepaired: int
    repaired: int


@dataclass(frozen=True, slots=True)
class Watched:
    ends_by_state: Mapping[str, int]
    oldest_accepted_seconds: int
    oldest_failed_seconds: float | None
    ends_aside: int
    due_wallets: int
    """Wallets whose debts are due for a retry."""
    reconciliation: LastReconciliation | None
    """The last one that finished."""
    never_reconciled_seconds: float | None
    """Seconds since the first one was requested, where none has finished."""
    processes: Sequence[Process]
    webhooks: Counts
    bulk_by_kind: Mapping[str, int]
    """Unfinished operations on many ends or wallets, by kind."""
    sample: Sample | None
    sample_age_seconds: float | None
    """Seconds since the end of the sample's minute."""


def look(connection: sa.Connection) -> Watched:
    by_state, oldest_accepted_seconds = inbox.summary(connection)
    reconciled = connection.execute(_RECONCILED).one_or_none()
    latest = samples.between(connection, None, None, limit=1)
    sample = latest[0] if latest else None
    return Watched(
        ends_by_state=by_state,
        oldest_accepted_seconds=oldest_accepted_seconds,
        oldest_failed_seconds=connection.execute(_OLDEST_FAILED).scalar_one_or_none(),
        ends_aside=spool_aside.size(connection),
        webhooks=deliveries.counts(connection),
        due_wallets=connection.execute(_DUE, {"counted_max": inbox.COUNTED_MAX}).scalar_one(),
        reconciliation=None if reconciled is None else LastReconciliation(*reconciled),
        never_reconciled_seconds=(connection.execute(_NEVER_RECONCILED).scalar_one() if reconciled is None else None),
        processes=processes.find(connection),
        bulk_by_kind=connection.execute(_BULK).one()._asdict(),
        sample=sample,
        sample_age_seconds=None if sample is None else _age(connection, sample),
    )


def _age(connection: sa.Connection, sample: Sample) -> float:
    since_minute: float = connection.execute(_SAMPLE_AGE, {"minute": sample.minute}).scalar_one()
    return max(0.0, since_minute - 60)
