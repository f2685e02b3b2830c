"""Which processes have reported that they are alive, and when, by Postgres's clock, which all hosts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

# A process silent for this long isn't listed any more: usually another one has replaced it under another name.
FORGOTTEN_SECONDS = 3_600


class ProcessKind(StrEnum):
    WEB = "web"
    WORKER = "worker"
    WEBHOOKS = "webhooks"
    """A worker that delivers webhooks and does nothing else."""
    BEAT = "beat"


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    kind: ProcessKind
    silent_seconds: float


_SAY = sa.text("""
    WITH gone AS (
        DELETE FROM processes WHERE seen_at < now() - make_interval(secs => :forgotten_seconds) AND name <> :name
    )
    INSERT INTO processes (name, kind) VALUES (:name, :kind)
    ON CONFLICT (name) DO UPDATE SET seen_at = now(), kind = excluded.kind
""")

_FIND = sa.text("""
    SELECT name, kind, CAST(extract(epoch FROM now() - seen_at) AS double precision) AS silent_seconds
    FROM processes WHERE seen_at >= now() - make_interval(secs => :forgotten_seconds) ORDER BY kind, name
""")


def say_alive(connection: sa.Connection, name: str, kind: ProcessKind) -> None:
    connection.execute(_SAY, {"name": name, "kind": kind, "forgotten_seconds": FORGOTTEN_SECONDS})


def find(connection: sa.Connection) -> Sequence[Process]:
    rows = connection.execute(_FIND, {"forgotten_seconds": FORGOTTEN_SECONDS})
    return [Process(row.name, ProcessKind(row.kind), max(0.0, row.silent_seconds)) for row in rows]
