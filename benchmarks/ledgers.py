"""Reads from the ledgers how many ends a measurement has settled, and when.

Works for Tokentill's ledger and that of the plain reference, by Postgres's commit timestamps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

SETTLE_SECONDS_MAX = 30.0
# Within this time, calls that were in flight when a generator hung up are recorded.
QUIET_SECONDS = 0.5


@dataclass(frozen=True)
class Ledger:
    """A table of settled ends, and the condition for its rows that are ends."""

    engine: sa.Engine
    table: str
    condition: str
    key_column: str

    @property
    def last_id(self) -> int:
        """The id of the last entry. Entries after it belong to the next measurement."""
        with self.engine.connect() as connection:
            last = connection.execute(sa.text(f"SELECT coalesce(max(id), 0) FROM {self.table}"))  # noqa: S608
            return int(last.scalar_one())

    def settled(self, after_id: int, begun_at: float, run_id: str = "") -> Settled:
        """The ends of a run that were settled after an entry. `begun_at` is when the run began to send them.

        Filtered by run, because calls in flight when a generator hangs up are settled during the next measurement.
        """
        with self.engine.connect() as connection:
            row = connection.execute(
                sa.text(
                    f"""
                    SELECT count(*) AS ends, count(DISTINCT xmin::text) AS commits,
                        extract(epoch FROM min(pg_xact_commit_timestamp(xmin))) AS first,
                        extract(epoch FROM max(pg_xact_commit_timestamp(xmin))) AS last
                    FROM {self.table}
                    WHERE id > :after AND {self.condition} AND starts_with({self.key_column}, :run)
                    """  # noqa: S608
                ),
                {"after": after_id, "run": run_id},
            ).one()
        if not row.ends:
            return Settled(0, 0, begun_at, begun_at, begun_at)
        return Settled(row.ends, row.commits, begun_at, float(row.first), float(row.last))

    def settled_at(self, after_id: int) -> dict[str, float]:
        """When each end was settled, by its idempotency key."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.text(
                    f"""
                    SELECT {self.key_column}, extract(epoch FROM pg_xact_commit_timestamp(xmin))
                    FROM {self.table} WHERE id > :after AND {self.condition}
                    """  # noqa: S608
                ),
                {"after": after_id},
            )
            return {str(key): float(moment) for key, moment in rows}


@dataclass(frozen=True)
class Settled:
    ends: int
    commits: int
    begun_at: float
    first_at: float
    last_at: float

    @property
    def per_second(self) -> float:
        """From the first request to the last settled end."""
        return self.ends / (self.last_at - self.begun_at) if self.ends else 0.0


def wait_until_settled(engine: sa.Engine) -> bool:
    """Wait until Tokentill's inbox has no accepted ends, and no new ones come. False if that took too long."""
    over = time.monotonic() + SETTLE_SECONDS_MAX
    empty_since: float | None = None
    with engine.connect() as connection:
        while empty_since is None or time.monotonic() < empty_since + QUIET_SECONDS:
            if time.monotonic() > over:
                return False
            waits = connection.execute(sa.text("SELECT EXISTS (SELECT FROM end_inbox)")).scalar_one()
            empty_since = None if waits else empty_since or time.monotonic()
            time.sleep(0.02)
    return True


def lags_seconds(answered_at: dict[str, float], settled_at: dict[str, float]) -> list[float]:
    """For each answered end, the time from its answer to the commit that settled it; 0 if the commit came first."""
    return [max(0.0, settled_at[key] - moment) for key, moment in answered_at.items() if key in settled_at]
