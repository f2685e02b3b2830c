"""The overview: what is stuck, whose and since when, and charts of the last hours.

Money comes first, and each figure links to the page where something can be done about it. Figures whose store is away
are left out, and the page says so: the overview is needed most when something is away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from flask import Blueprint, Response, current_app, url_for

from app.access.gate import StoreState
from app.console import text
from app.console.access import needs, services
from app.console.charts import LineChart, Series, line_chart
from app.console.filters import Filters
from app.console.forms import Field, Kind, whole
from app.console.pages import page
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.errors import Unavailable
from app.domain.failed_ends import Filter, Group
from app.domain.keys import KeyScope
from app.operations.status import Status
from app.stores.postgres.processes import ProcessKind
from app.stores.postgres.samples import Sample
from app.stores.postgres.watch import Watched

blueprint = Blueprint("overview", __name__)

HOURS = (1, 3, 12, 24, 168)
HOURS_DEFAULT = 3
POINTS_MAX = 60
DEBTORS_SHOWN = 8
CAUSES_SHOWN = 6
# A process whose last heartbeat is older counts as gone. Heartbeats come every few seconds.
SILENT_SECONDS_MAX = 30.0
# An older sample isn't shown: beat or the workers have stopped.
SAMPLE_SECONDS_MAX = 180.0
BACKLOG_SECONDS_MAX = 10

FILTERS = Filters(
    Field(
        "hours",
        "Charts of",
        whole(HOURS[0], HOURS[-1]),
        Kind.CHOICE,
        is_required=False,
        choices=[(str(hours), str(hours)) for hours in HOURS],
    )
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that an operator should look into."""

    words: str
    is_bad: bool = False


@blueprint.get("/")
@needs(KeyScope.READ)
def show() -> Response:
    filtered = FILTERS.read()
    hours: int = filtered.values.get("hours", HOURS_DEFAULT)
    status = services().status.look()
    now = services().clock.now()
    sums = services().failed_end_sums
    every_seconds = 60 * -(-hours * 60 // POINTS_MAX)
    samples = _known(lambda: services().samples.thinned(now - timedelta(hours=hours), every_seconds)) or ()
    return page(
        "overview.html",
        filtered.status,
        status=status,
        watched=status.postgres,
        sample=_sample(status.postgres),
        causes=_known(lambda: sums.failed_ends(Filter(), (Group.ERROR,), CAUSES_SHOWN)),
        owed=_known(lambda: sums.debts(Filter(), (Group.USER,), DEBTORS_SHOWN)),
        alarms=_alarms(status),
        charts=_charts(samples, hours),
        spans=[(_span(each), url_for("overview.show", hours=each), each == hours) for each in HOURS],
        as_of=now,
        messages=_messages(status),
        reconciled=_reconciled(status.postgres),
        silent_seconds_max=SILENT_SECONDS_MAX,
        backlog_seconds_max=BACKLOG_SECONDS_MAX,
        failed_ends_url=lambda **filters: _url("failed_ends.index", **filters),
        wallet_url=lambda user_id: _url("wallets.show", user_id=user_id),
        wallets_url=lambda **filters: _url("wallets.index", **filters),
    )


def _known(ask: Callable[[], T]) -> T | None:
    """The result of `ask`, or None if its store is away."""
    try:
        return ask()
    except Unavailable:
        return None


def _sample(watched: Watched | None) -> Sample | None:
    """The latest sample, or None if it is too old to describe the present."""
    if watched is None or watched.sample_age_seconds is None or watched.sample_age_seconds > SAMPLE_SECONDS_MAX:
        return None
    return watched.sample


def _alarms(status: Status) -> Sequence[Alarm]:
    found = [
        Alarm(f"{store.capitalize()} {'takes no writes' if state is StoreState.REFUSES_WRITES else 'is away'}.", True)
        for store, state in status.stores.items()
        if state is not StoreState.UP
    ]
    watched = status.postgres
    if watched is None:
        return [*found, Alarm("Postgres doesn't tell how things stand, so there are few figures here.", True)]
    alive = {process.kind for process in watched.processes if process.silent_seconds <= SILENT_SECONDS_MAX}
    if ProcessKind.WORKER not in alive:
        found.append(Alarm("No worker says that it lives: ends are accepted and wait. Start one.", True))
    if ProcessKind.BEAT not in alive:
        found.append(Alarm("Beat is silent: what no message reached waits, and retries stand still. Start it.", True))
    if watched.oldest_accepted_seconds > BACKLOG_SECONDS_MAX:
        age = text.span(watched.oldest_accepted_seconds)
        found.append(Alarm(f"Settlement lags: the oldest end has waited for {age}."))
    if watched.ends_aside:
        found.append(Alarm(f"{watched.ends_aside:,} ends of the spool can't be recorded as they are."))
    if watched.reconciliation is not None and watched.reconciliation.unrepaired:
        count = watched.reconciliation.unrepaired
        found.append(Alarm(f"The last reconciliation found {count:,} wallets that don't add up.", True))
    return found


def _messages(status: Status) -> str | None:
    if status.messages_by_queue is None:
        return None
    return ", ".join(f"{queue} {count:,}" for queue, count in status.messages_by_queue.items())


def _reconciled(watched: Watched | None) -> str:
    if watched is None:
        return "unknown"
    if watched.reconciliation is None:
        return "none yet"
    found = watched.reconciliation
    ago = f"{text.span(found.age_seconds)} ago"
    if found.unrepaired:
        return f"{ago}: {found.unrepaired:,} don't add up"
    return f"{ago}: all add up" + (f", {found.repaired:,} copies repaired" if found.repaired else "")


def _charts(samples: Sequence[Sample], hours: int) -> Sequence[LineChart]:
    minutes = [sample.minute for sample in samples]
    label = text.minute if hours <= 24 else text.day_and_minute

    def of(title: str, *series: Series) -> LineChart:
        return line_chart(title, minutes, series, label=label)

    def of_money(title: str, *series: Series) -> LineChart:
        return line_chart(
            title,
            minutes,
            series,
            text.rounded,
            label=label,
            unit=MICROS_PER_TOKEN,
            unit_name="tokens",
            exact=text.amount,
        )

    return [
        of(
            "Ends a minute",
            Series("accepted", [sample.accepted for sample in samples]),
            Series("settled", [sample.settled for sample in samples]),
        ),
        of_money(
            "Failed ends, tokens",
            Series("retrying", [sample.retrying_micros for sample in samples]),
            Series("dead", [sample.dead_micros for sample in samples]),
            Series("owed in all", [sample.debt_micros for sample in samples]),
        ),
        of(
            "Ends that wait for settlement",
            Series("waiting", [sample.backlog for sample in samples]),
            Series("oldest, seconds", [_whole(sample.backlog_age_seconds) for sample in samples]),
        ),
        of_money(
            "What users have bought and not used, tokens",
            Series("liability", [sample.liability_micros for sample in samples]),
            Series("held", [sample.held_micros for sample in samples]),
        ),
    ]


def _whole(seconds: float | None) -> int:
    return 0 if seconds is None else int(seconds)


def _span(hours: int) -> str:
    return f"{hours} h" if hours <= 24 else f"{hours // 24} days"


def _url(endpoint: str, **values: str) -> str | None:
    """The address that a figure links to. None if there is no such page."""
    given: dict[str, Any] = dict(values)
    return url_for(endpoint, **given) if endpoint in current_app.view_functions else None
