"""Top-ups by schedule: when they fall due next, what they have done, and pausing or ending them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, url_for

from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, Review, change
from app.console.filters import Filters
from app.console.forms import REASON, REFERENCE, Choice, Field, Form, Kind, identifier, plain, whole
from app.console.pages import page
from app.console.paging import paged
from app.console.scopes import package_choices
from app.console.views.top_ups import AMOUNT_FIELDS, amount_text, target_of, target_text
from app.console.views.top_ups import TONES as TOP_UP_TONES
from app.domain.errors import Invalid
from app.domain.keys import KeyScope
from app.domain.top_ups import Calendar, CatchUp, Period, Rhythm, ScheduleState, TopUpAmount, due_day
from app.stores.postgres.top_up_schedules import NewSchedule, TopUpSchedule
from app.wire.cursors import NEWEST_FIRST

blueprint = Blueprint("top_up_schedules", __name__, url_prefix="/top-ups/schedules")

TONES = {ScheduleState.ACTIVE: "good", ScheduleState.PAUSED: "warn", ScheduleState.ENDED: ""}
_PERIODS: Sequence[Choice] = [(period, str(period)) for period in Period]
_CATCH_UPS: Sequence[Choice] = (
    (CatchUp.EACH, "each of them is made up for"),
    (CatchUp.LATEST, "only the latest is"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NEW = Form(
    (
        Field("package_id", "Package", plain, Kind.CHOICE, is_required=False, choices=package_choices, unchosen="none"),
        Field("user_id", "Or one user", identifier(), is_required=False),
        *AMOUNT_FIELDS,
        Field("period", "Period", Period, Kind.CHOICE, choices=_PERIODS, default=Period.MONTHLY),
        Field(
            "day",
            "Day",
            whole(1, 31),
            Kind.NUMBER,
            is_required=False,
            help="1 (Monday) to 7 of a week; 1 to 31 of a month, whose last day it is where it is shorter.",
        ),
        Field("starts_on", "Starts on", due_day, Kind.DAY, is_required=False, help="Empty: today, in UTC."),
        Field("ends_on", "Last day", due_day, Kind.DAY, is_required=False, help="Empty: it goes on."),
        Field(
            "catch_up",
            "Of periods missed while no worker runs",
            CatchUp,
            Kind.CHOICE,
            choices=_CATCH_UPS,
            default=CatchUp.EACH,
        ),
        REFERENCE,
        REASON,
    )
)
_WHY = Form((REASON,))
_NO_FILTERS = Filters()
_VERBS = {"pause": "Pause", "resume": "Resume", "end": "End"}
_EFFECTS = {
    "pause": "It falls due no more until it is resumed. What has begun goes on.",
    "resume": "It falls due again. What fell due before today meanwhile is left out.",
    "end": "It never falls due again. What has begun goes on.",
}


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    _NO_FILTERS.read()
    found = paged(NEWEST_FIRST, services().top_up_schedules.list)
    return page(
        "top_ups/schedules.html", paged=found, tones=TONES, amount_text=amount_text, target_text=target_text, when=when
    )


@blueprint.get("/show/<int:number>")
@needs(KeyScope.READ)
def show(number: int) -> Response:
    _NO_FILTERS.read()
    view, top_ups = services().top_up_schedules.get(number), services().top_ups
    history = paged(NEWEST_FIRST, lambda limit, before_id: top_ups.list(limit, before_id, schedule_id=number))
    return page(
        "top_ups/schedule.html",
        view=view,
        tone=TONES[view.schedule.state],
        history=history,
        tones=TOP_UP_TONES,
        amount_text=amount_text,
        target_text=target_text,
        when=when,
    )


@blueprint.route("/new", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def new() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        made = services().top_up_schedules.create(_asked(values))
        said = "It was created before, under the same reference." if made.replayed else "The schedule was created."
        return Done(url_for("top_up_schedules.show", number=made.schedule.id), said)

    def review(values: Mapping[str, Any]) -> Review:
        asked = _asked(values)
        outlook = services().top_up_schedules.dry_run(asked)
        return Review(
            f"{asked.target.package_id or asked.target.user_id}: {amount_text(asked.amount)},"
            f" {_rhythm_text(asked.rhythm)}.",
            [
                ("It falls due on", ", ".join(day.isoformat() for day in outlook.dates)),
                ("Wallets, as of now", text.count(outlook.planned.wallets)),
                ("Tokens in all, as of now", text.amount(outlook.planned.micros)),
                ("Reference", asked.reference),
                ("Reason", asked.reason),
            ],
        )

    return change(
        _NEW,
        title="New schedule of top-ups",
        action="Create it",
        back=url_for("top_up_schedules.index"),
        review=review,
        perform=perform,
    )


@blueprint.route("/<any(pause, resume, end):verb>/<int:number>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def change_state(verb: str, number: int) -> Response:
    schedules = services().top_up_schedules
    schedule = schedules.get(number).schedule

    def perform(values: Mapping[str, Any]) -> Done:
        changes = {"pause": schedules.pause, "resume": schedules.resume, "end": schedules.end}
        changed = changes[verb](number, reason=values["reason"], caller=acting(values))
        return Done(url_for("top_up_schedules.show", number=number), f"The schedule is {changed.schedule.state}.")

    return change(
        _WHY,
        title=f"{_VERBS[verb]} schedule {number}",
        action=f"{_VERBS[verb]} it",
        back=url_for("top_up_schedules.show", number=number),
        review=lambda values: Review(
            _EFFECTS[verb],
            [
                ("Schedule", schedule.reference),
                ("Each time", amount_text(schedule.amount)),
                ("Reason", values["reason"]),
            ],
        ),
        perform=perform,
        intro=f"For {target_text(schedule.target)}: {amount_text(schedule.amount)}, {when(schedule)}.",
        is_dangerous=verb == "end",
    )


def when(schedule: TopUpSchedule) -> str:
    return _rhythm_text(schedule.rhythm)


def _rhythm_text(rhythm: Rhythm) -> str:
    calendar = rhythm.calendar
    if calendar.day is None:
        return "each day"
    if calendar.period is Period.WEEKLY:
        return f"each {_WEEKDAYS[calendar.day - 1]}"
    return f"each month on day {calendar.day}"


def _asked(values: Mapping[str, Any]) -> NewSchedule:
    """Raises Invalid."""
    if (values["package_id"] is None) == (values["user_id"] is None):
        raise Invalid(errors={"package_id": ["Give either a package or a user."]})
    return NewSchedule(
        reference=values["reference"],
        target=target_of(values),
        amount=TopUpAmount(values["mode"], values["amount"]),
        rhythm=Rhythm(Calendar(values["period"], values["day"]), values["ends_on"], values["catch_up"]),
        starts_on=values["starts_on"],
        reason=values["reason"],
        caller=acting(values),
    )
