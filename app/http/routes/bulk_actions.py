"""Replaying and writing off many failed ends: draft, confirm, watch. Part of the admin API."""

from __future__ import annotations

from flask import Blueprint, Response, url_for

from app.domain.bulk_actions import BulkOutcome
from app.domain.errors import BulkActionCancelled, FiguresDiffer, IdempotencyConflict, NotFound
from app.domain.pages import NEWEST
from app.http import filters
from app.http.auth import caller_of_call
from app.http.openapi.describe import PageOf, answers
from app.http.paging import listed, newest_first, oldest_first
from app.http.query import PAGE, read, takes, takes_page
from app.http.routes import asked_by_operator, container, repeatable, success
from app.http.schemas.bulk_actions import BulkActionSchema, ConfirmationSchema
from app.operations.bulk_actions import Asked
from app.wire import columns
from app.wire.bulk_actions import (
    BulkActionAnswer,
    BulkActionHeadAnswer,
    BulkEndAnswer,
    bulk_action_answer,
    bulk_action_head_answer,
    bulk_end_answer,
)

blueprint = Blueprint("bulk_actions", __name__, url_prefix="/api/admin/bulk-actions")

_bulk_action = BulkActionSchema()
_confirmation = ConfirmationSchema()

OUTCOME = filters.one_of("outcome", tuple(BulkOutcome), "What became of them.")


@blueprint.post("")
@answers(BulkActionAnswer, body=_bulk_action, is_repeatable=True, has_location=True, refuses=(IdempotencyConflict,))
def draft_bulk_action() -> Response:
    """Makes a draft: freezes the selection of failed ends and changes nothing."""
    drafted, is_known = container().bulk_actions.draft(Asked(**asked_by_operator(_bulk_action)))
    answer = bulk_action_answer(drafted)
    response = repeatable("Bulk action drafted", answer, replayed=is_known)
    response.headers["Location"] = url_for("bulk_actions.show_bulk_action", number=drafted.action.id)
    return response


@blueprint.get("")
@takes_page
@answers(PageOf(BulkActionHeadAnswer))
def list_bulk_actions() -> Response:
    """Newest first, drafts among them."""
    found = newest_first(container().bulk_actions.list, bulk_action_head_answer)
    return listed("Bulk actions", found, columns.BULK_ACTIONS)


@blueprint.get("/<int:number>")
@answers(BulkActionAnswer)
def show_bulk_action(number: int) -> Response:
    """The action's state, and the outcomes of its ends so far."""
    return success("Bulk action", bulk_action_answer(container().bulk_actions.get(_known(number))))


@blueprint.get("/<int:number>/ends")
@takes(*PAGE, OUTCOME)
@answers(PageOf(BulkEndAnswer))
def list_ends_of_bulk_action(number: int) -> Response:
    """Each end as it was selected, with its outcome."""
    outcome = read([OUTCOME]).get("outcome")
    wanted = None if outcome is None else BulkOutcome(outcome)
    bulk_actions = container().bulk_actions
    return listed(
        "Ends of a bulk action",
        oldest_first(
            lambda limit, after_id: bulk_actions.ends(_known(number), limit, after_id, outcome=wanted), bulk_end_answer
        ),
        columns.BULK_ENDS,
    )


@blueprint.post("/<int:number>/confirm")
@answers(BulkActionAnswer, status=202, body=_confirmation, refuses=(FiguresDiffer, BulkActionCancelled))
def confirm_bulk_action(number: int) -> Response:
    """Confirms the draft, by its `ends` and `cost`; a worker processes it. Repeating the call does nothing more."""
    asked = asked_by_operator(_confirmation)
    confirmed = container().bulk_actions.confirm(_known(number), **asked)
    return success("Bulk action is worked off", bulk_action_answer(confirmed), 202)


@blueprint.post("/<int:number>/cancel")
@answers(BulkActionAnswer)
def cancel_bulk_action(number: int) -> Response:
    """Cancels the action: its remaining ends stay as they are."""
    cancelled = container().bulk_actions.cancel(_known(number), caller=caller_of_call())
    return success("Bulk action cancelled", bulk_action_answer(cancelled))


def _known(number: int) -> int:
    if number > NEWEST:
        raise NotFound("Bulk action not found")
    return number
