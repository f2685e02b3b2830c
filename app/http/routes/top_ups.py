"""What operators call to top up all wallets of a package, once or by schedule. Part of the admin API."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, url_for

from app.billing.top_up_schedules import ScheduleView
from app.domain.errors import AlreadyApplied, IdempotencyConflict, NotFound, ScheduleEnded, WalletNotFound
from app.domain.pages import NEWEST
from app.http import filters
from app.http.auth import caller_of_call
from app.http.openapi.describe import PageOf, answers
from app.http.paging import by_id, listed, newest_first
from app.http.query import PAGE, Parameter, read, takes, takes_page
from app.http.routes import asked_by_operator, container, repeatable, success
from app.http.schemas import shapes
from app.http.schemas.admin import ReasonSchema
from app.http.schemas.top_ups import TopUpScheduleSchema, TopUpSchema
from app.stores.postgres.top_up_schedules import NewSchedule
from app.stores.postgres.top_ups import WAITING, NewBatch
from app.wire import columns
from app.wire.top_ups import (
    OUTCOMES,
    OutlookAnswer,
    ScheduleAnswer,
    ScheduleHeadAnswer,
    TopUpAnswer,
    TopUpWalletAnswer,
    outlook_answer,
    schedule_answer,
    schedule_head_answer,
    top_up_answer,
    top_up_wallet_answer,
)

blueprint = Blueprint("top_ups", __name__, url_prefix="/api/admin")

_top_up = TopUpSchema()
_schedule = TopUpScheduleSchema()
_reason = ReasonSchema()

_OF_SCHEDULE = (
    Parameter("schedule_id", filters.number, shapes.whole_number(1, NEWEST), "Only what this schedule has done."),
)
_WITH_OUTCOME = (filters.one_of("outcome", (*OUTCOMES, WAITING), "Only wallets of which this became."),)


@blueprint.post("/top-ups")
@answers(TopUpAnswer, body=_top_up, is_repeatable=True, has_location=True, refuses=(NotFound, IdempotencyConflict))
def create_top_up() -> Response:
    """Makes a dry run that freezes the selected wallets; with `apply`, the top-up starts immediately."""
    asked = asked_by_operator(_top_up)
    is_applied = asked.pop("is_applied")
    made = container().top_ups.create(NewBatch(**asked), is_applied=is_applied)
    response = repeatable("Top-up prepared", top_up_answer(made), replayed=made.replayed)
    response.headers["Location"] = url_for("top_ups.show_top_up", number=made.batch.id)
    return response


@blueprint.get("/top-ups")
@takes(*PAGE, *_OF_SCHEDULE)
@answers(PageOf(TopUpAnswer))
def list_top_ups() -> Response:
    """Newest first."""
    schedule_id = read(_OF_SCHEDULE).get("schedule_id")
    top_ups = container().top_ups
    found = newest_first(
        lambda limit, before_id: top_ups.list(limit, before_id, schedule_id=schedule_id), top_up_answer
    )
    return listed("Top-ups", found, columns.TOP_UPS)


@blueprint.get("/top-ups/<int:number>")
@answers(TopUpAnswer)
def show_top_up(number: int) -> Response:
    """One top-up, with its results so far."""
    return success("Top-up", top_up_answer(container().top_ups.get(_known(number, "Top-up not found"))))


@blueprint.get("/top-ups/<int:number>/wallets")
@takes(*PAGE, *_WITH_OUTCOME)
@answers(PageOf(TopUpWalletAnswer))
def list_top_up_wallets(number: int) -> Response:
    """The outcome for each wallet."""
    outcome = read(_WITH_OUTCOME).get("outcome")
    top_ups, known = container().top_ups, _known(number, "Top-up not found")
    found = by_id(
        lambda limit, after_id: top_ups.wallets(known, limit, after_id, outcome=outcome), top_up_wallet_answer
    )
    return listed("Wallets of a top-up", found, columns.TOP_UP_WALLETS)


@blueprint.post("/top-ups/<int:number>/apply")
@answers(TopUpAnswer, status=202)
def apply_top_up(number: int) -> Response:
    """Applies a dry run: workers top up the wallets. Repeating the call does nothing more."""
    known = _known(number, "Top-up not found")
    return success("Top-up is applied", top_up_answer(container().top_ups.apply(known, caller_of_call())), 202)


@blueprint.delete("/top-ups/<int:number>")
@answers(TopUpAnswer, refuses=(AlreadyApplied,))
def discard_top_up(number: int) -> Response:
    """Discards a dry run."""
    discarded = container().top_ups.discard(_known(number, "Top-up not found"), caller_of_call())
    return success("Top-up discarded", top_up_answer(discarded))


@blueprint.post("/top-up-schedules")
@answers(
    ScheduleAnswer | OutlookAnswer,
    body=_schedule,
    is_repeatable=True,
    has_location=True,
    refuses=(NotFound, WalletNotFound, IdempotencyConflict),
)
def create_top_up_schedule() -> Response:
    """Creates a schedule that tops up once each period. With `dry_run` it only returns what it would do."""
    asked = asked_by_operator(_schedule)
    is_dry_run = asked.pop("is_dry_run")
    new = NewSchedule(**asked)
    if is_dry_run:
        return success("What it would do", outlook_answer(container().top_up_schedules.dry_run(new)))
    made = container().top_up_schedules.create(new)
    response = repeatable("Schedule created", schedule_answer(made), replayed=made.replayed)
    response.headers["Location"] = url_for("top_ups.show_top_up_schedule", number=made.schedule.id)
    return response


@blueprint.get("/top-up-schedules")
@takes_page
@answers(PageOf(ScheduleHeadAnswer))
def list_top_up_schedules() -> Response:
    """Newest first."""
    return listed(
        "Schedules", newest_first(container().top_up_schedules.list, schedule_head_answer), columns.TOP_UP_SCHEDULES
    )


@blueprint.get("/top-up-schedules/<int:number>")
@answers(ScheduleAnswer)
def show_top_up_schedule(number: int) -> Response:
    """One schedule, with what it would do now."""
    found = container().top_up_schedules.get(_known(number, "Schedule not found"))
    return success("Schedule", schedule_answer(found))


@blueprint.post("/top-up-schedules/<int:number>/pause")
@answers(ScheduleAnswer, body=_reason, refuses=(ScheduleEnded,))
def pause_top_up_schedule(number: int) -> Response:
    """Pauses a schedule: it doesn't fall due until it is resumed."""
    return _changed(number, container().top_up_schedules.pause, "Schedule paused")


@blueprint.post("/top-up-schedules/<int:number>/resume")
@answers(ScheduleAnswer, body=_reason, refuses=(ScheduleEnded,))
def resume_top_up_schedule(number: int) -> Response:
    """Resumes a paused schedule."""
    return _changed(number, container().top_up_schedules.resume, "Schedule resumed")


@blueprint.post("/top-up-schedules/<int:number>/end")
@answers(ScheduleAnswer, body=_reason)
def end_top_up_schedule(number: int) -> Response:
    """Ends a schedule for good. A top-up that has begun is finished."""
    return _changed(number, container().top_up_schedules.end, "Schedule ended")


def _changed(number: int, change: Callable[..., ScheduleView], message: str) -> Response:
    changed = change(_known(number, "Schedule not found"), **asked_by_operator(_reason))
    return success(message, schedule_answer(changed))


def _known(number: int, message: str) -> int:
    if number > NEWEST:
        raise NotFound(message)
    return number
