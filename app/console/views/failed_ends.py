"""Failed ends: their sums by user, cause, feature and age; the list; one end's history; replay and write-off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from secrets import token_hex
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import BadRequest

from app.console import failed_end_selections as selections
from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, change
from app.console.failed_end_selections import FILTERS, LABELS
from app.console.filters import Filtered
from app.console.forms import REASON, REFERENCE, Field, Form, Kind
from app.console.pages import page
from app.console.paging import paged
from app.domain.bulk_actions import BulkKind
from app.domain.failed_ends import Filter, Group
from app.domain.keys import KeyScope
from app.domain.pages import FIRST_ID
from app.operations.bulk_actions import Asked
from app.operations.failed_end_sums import check_position
from app.stores.postgres.failed_end_groups import FailedEndGroup
from app.wire.bulk_actions import selection_answer
from app.wire.cursors import OLDEST_FIRST, Order

blueprint = Blueprint("failed_ends", __name__, url_prefix="/failed-ends")

# The groups shown side by side on the first page, and how many rows of each.
SIDES = (Group.USER, Group.ERROR, Group.FEATURE, Group.AGE)
ROWS_PER_SIDE = 8

_BULK = Form((Field("selection", "Selection", selections.read, Kind.HIDDEN), REASON, REFERENCE))
_VERBS = {BulkKind.REPLAY: "Replay", BulkKind.WRITE_OFF: "Write off"}
_INTROS = {
    BulkKind.REPLAY: "They are tried again, as if they had just come: what their wallets can pay by now is deducted.",
    BulkKind.WRITE_OFF: "Their costs are given up for good. Balances stay as they are, and the wallets owe less.",
}


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    """The sums, with links to their ends, and the list of ends."""
    filtered = FILTERS.read()
    if not filtered.is_valid:
        return page("failed_ends/index.html", filtered.status, filtered=filtered, paged=None)
    matching = selections.filter_of(filtered.values)
    group: Group | None = filtered.values.get("group_by")
    if group is not None:
        return _groups(filtered, matching, group)
    total, sides = services().failed_end_sums.overview(matching, SIDES)
    failed_ends = services().failed_ends
    return page(
        "failed_ends/index.html",
        filtered=filtered,
        paged=paged(OLDEST_FIRST, lambda limit, after_id: failed_ends.list(matching, limit, after_id)),
        total=total,
        users=len(sides[Group.USER]),
        sides=[
            (LABELS[side], side.value, [_row(filtered, side, found) for found in sides[side][:ROWS_PER_SIDE]],
             len(sides[side]) - ROWS_PER_SIDE)
            for side in SIDES
        ],
        address=url_for("failed_ends.index"),
    )  # fmt: skip


def _groups(filtered: Filtered, matching: Filter, group: Group) -> Response:
    sums, totals = services().failed_end_sums, []

    def fetch(limit: int, after: str) -> Any:
        found = sums.failed_ends(matching, (group,), limit, after)
        totals.append(found.total)
        return found.page

    found = paged(Order(FIRST_ID, lambda given: check_position((group,), given)), fetch)
    return page(
        "failed_ends/groups.html",
        filtered=filtered,
        paged=found,
        rows=[_row(filtered, group, item) for item in found.items],
        label=LABELS[group],
        total=totals[0],
    )


def _row(filtered: Filtered, group: Group, found: FailedEndGroup) -> tuple[str, str | None, FailedEndGroup]:
    """A group's name, the address of its ends, if there is one, and its sums."""
    [value] = found.key
    if value is None:
        # There is no filter for ends without a value.
        return "none", None, found
    is_ours = group in (Group.ERROR, Group.AGE, Group.STATE, Group.KIND)
    address = url_for("failed_ends.index") + filtered.query(**{group.value: value, "group_by": None})
    return text.words(value) if is_ours else value, address, found


@blueprint.get("/ends/<uuid:end_id>")
@needs(KeyScope.READ)
def show(end_id: UUID) -> Response:
    """The whole history of one end, whether failed, waiting, settled or written off."""
    story = services().end_stories.tell(end_id)
    is_failed = story.wait is not None and story.state != "accepted"
    return page("failed_ends/end.html", story=story, is_failed=is_failed)


@blueprint.route("/replay", methods=["GET", "POST"])
@needs(KeyScope.FAILED_ENDS)
def replay() -> Response:
    return _draft(BulkKind.REPLAY)


@blueprint.route("/write-off", methods=["GET", "POST"])
@needs(KeyScope.FAILED_ENDS)
def write_off() -> Response:
    return _draft(BulkKind.WRITE_OFF)


def _draft(action: BulkKind) -> Response:
    """Draft a bulk action about one end, the chosen ones, or all that match. The draft freezes which ends these are."""
    selection = request.form.get("selection", "") if request.method == "POST" else _selection_of_address()

    def perform(values: Mapping[str, Any]) -> Done:
        which = values["selection"]
        caller = acting(values)
        asked = Asked(action, which, selection_answer(which), values["reference"], values["reason"], caller)
        drafted, _ = services().bulk_actions.draft(asked)
        return Done(url_for("bulk_actions.show", number=drafted.action.id), "Nothing is done yet: confirm it below.")

    return change(
        _BULK,
        title=f"{_VERBS[action]} {_told(selection)}",
        action="Show what would be done",
        back=url_for("failed_ends.index"),
        review=None,
        perform=perform,
        initial={"selection": selection, "reference": _proposed_reference(action)},
        intro=f"{_INTROS[action]} {_figures(selection)}Nothing happens before you confirm it on the next page.",
    )


def _selection_of_address() -> str:
    if end_ids := request.args.getlist("id"):
        return selections.written((), end_ids)
    filtered = FILTERS.read()
    if not filtered.is_valid:
        raise BadRequest("A filter of this list is wrong. Open the list, which says which one.")
    return selections.written(filtered.filled.pairs(), ())


def _told(selection: str) -> str:
    """A selection in words, for the title. If it can't be read, the form reports that."""
    try:
        selections.read(selection)
    except ValueError:
        return "failed ends"
    asked = json.loads(selection)
    if "ids" in asked:
        number = len(set(asked["ids"]))
        return "one failed end" if number == 1 else f"{text.count(number)} failed ends"
    words = selections.described(list(asked["filter"].items()))
    return f"all failed ends: {words}" if words else "all failed ends"


def _figures(selection: str) -> str:
    """The present figures of a filter. The next page has those of the ends that were frozen."""
    try:
        which = selections.read(selection)
    except ValueError:
        return ""
    if not isinstance(which, Filter):
        return ""
    total = services().failed_end_sums.failed_ends(which, (Group.STATE,), 1).total
    return (
        f"As of now that is {text.counted(total.ends, 'end')} of {text.counted(total.users, 'user')},"
        f" {text.amount(total.cost_micros)} tokens. "
    )


def _proposed_reference(action: BulkKind) -> str:
    """An unused reference, so that operators needn't think of one."""
    now = services().clock.now()
    return f"{action.value.replace('_', '-')}-{now:%Y%m%d-%H%M}-{token_hex(2)}"
