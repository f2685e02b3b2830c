"""Bulk actions: drafts, their confirmation by count and amount, and the outcome of each end."""

from __future__ import annotations

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import BadRequest

from app.console import text
from app.console.access import acting, needs, services
from app.console.failed_end_selections import described
from app.console.filters import Filters
from app.console.forms import Field, Form, Kind, amount, whole
from app.console.pages import page, see_other
from app.console.paging import paged
from app.domain.bulk_actions import BulkOutcome, BulkState
from app.domain.keys import KeyScope
from app.wire.bulk_actions import bulk_action_head_answer
from app.wire.cursors import NEWEST_FIRST, OLDEST_FIRST

blueprint = Blueprint("bulk_actions", __name__, url_prefix="/bulk-actions")

_FIGURES = Form(
    (
        Field("ends", "Ends", whole(0, 2**53), Kind.HIDDEN),
        Field("cost", "Amount", amount(allow_zero=True), Kind.HIDDEN),
    )
)
FILTERS = Filters(
    Field(
        "outcome",
        "What became of them",
        BulkOutcome,
        Kind.CHOICE,
        False,
        choices=[(outcome.value, text.words(outcome)) for outcome in BulkOutcome],
    )
)
TONES = {
    BulkOutcome.WRITTEN_OFF: "good",
    BulkOutcome.SETTLED: "good",
    BulkOutcome.FAILED_AGAIN: "bad",
    BulkOutcome.REFUSED: "bad",
    BulkOutcome.CHANGED: "warn",
}


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    return page("failed_ends/bulk_actions.html", paged=paged(NEWEST_FIRST, services().bulk_actions.list))


@blueprint.get("/<int:number>")
@needs(KeyScope.READ)
def show(number: int) -> Response:
    filtered = FILTERS.read()
    bulk_actions = services().bulk_actions
    view = bulk_actions.get(number)
    outcome: BulkOutcome | None = filtered.values.get("outcome")
    ends = paged(OLDEST_FIRST, lambda limit, after_id: bulk_actions.ends(number, limit, after_id, outcome=outcome))
    selection = bulk_action_head_answer(view.action)["selection"]
    return page(
        "failed_ends/bulk_action.html",
        filtered.status,
        view=view,
        action=view.action,
        figures=view.figures,
        is_at_work=view.action.state in (BulkState.RUNNING, BulkState.CANCELLING),
        selected=described([(name, str(value)) for name, value in selection["filter"].items()]) or "all failed ends"
        if "filter" in selection
        else "chosen one by one",
        tones=TONES,
        filtered=filtered,
        paged=ends,
    )


@blueprint.post("/<int:number>/confirm")
@needs(KeyScope.FAILED_ENDS)
def confirm(number: int) -> Response:
    """Confirm a draft by the figures that the confirmation showed. A draft never changes, and runs only once."""
    stated = _FIGURES.read(request.form)
    if not stated.is_valid:
        raise BadRequest("A confirmation without its figures. Nothing was done.")
    services().bulk_actions.confirm(
        number, ends=stated.values["ends"], cost_micros=stated.values["cost"], caller=acting()
    )
    return see_other(url_for("bulk_actions.show", number=number))


@blueprint.post("/<int:number>/cancel")
@needs(KeyScope.FAILED_ENDS)
def cancel(number: int) -> Response:
    """Cancel an action: the ends that it hasn't touched are left alone."""
    services().bulk_actions.cancel(number, caller=acting())
    return see_other(url_for("bulk_actions.show", number=number))
