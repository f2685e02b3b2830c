"""The command that shows how things stood, minute by minute."""

from __future__ import annotations

from datetime import datetime

import click

from app.bootstrap import Container
from app.cli.support import MOMENT_OR_DAY, as_json, before_number, echo_page, page_size, with_services
from app.domain.pages import NEWEST
from app.wire.samples import sample_answer

COLUMNS = (
    "minute", "accepted", "settled", "lag_p95_seconds", "backlog", "backlog_age_seconds", "retrying", "retrying_token",
    "dead", "dead_token", "debt_token", "liability_token", "held_token",
)  # fmt: skip


@click.command("samples")
@click.option("--from", "since", type=MOMENT_OR_DAY, help="A day (UTC), or a moment with its offset.")
@click.option("--to", "until", type=MOMENT_OR_DAY, help="The first day or moment after the range.")
@page_size
@before_number
@as_json
@with_services
def samples(
    services: Container,
    /,
    *,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """The state of the system in each of the last minutes, newest first.

    \b
    flask samples --limit 5
    """
    page = services.samples.list(since, until, limit, NEWEST if before is None else before)
    echo_page(page, sample_answer, COLUMNS, as_json=as_json, more="--before")
