"""What operators call about ends whose deduction has failed, and about any end's story. Part of the admin API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from flask import Blueprint, Response

from app.domain.errors import AlreadyExists, WalletBusy, WalletNotFound
from app.domain.failed_ends import Filter, Group
from app.domain.pages import FIRST_ID, Page
from app.domain.tables import Kind
from app.http import filters
from app.http.auth import caller_of_call
from app.http.openapi.describe import PageOf, answers
from app.http.paging import Listing, listed, oldest_first
from app.http.query import PAGE, takes
from app.http.routes import asked_by_operator, container, repeatable, success
from app.http.schemas.admin import WriteOffSchema
from app.operations.failed_end_sums import check_position
from app.wire import columns
from app.wire.answers import FailedEndAnswer, TransactionAnswer, failed_end_answer, transaction_answer
from app.wire.cursors import Order
from app.wire.failed_ends import (
    DebtAnswer,
    EndStoryAnswer,
    FailedEndGroupAnswer,
    debt_answer,
    end_story_answer,
    failed_end_group_answer,
)

blueprint = Blueprint("failed_ends", __name__, url_prefix="/api/admin")

_write_off = WriteOffSchema()


@blueprint.get("/failed-ends")
@takes(*PAGE, *filters.FAILED_ENDS)
@answers(PageOf(FailedEndAnswer))
def list_failed_ends() -> Response:
    """Runs, and charges of corrections, that couldn't be deducted so far. Oldest first."""
    matching = filters.failed_ends()
    failed_ends = container().failed_ends
    return listed(
        "Failed ends",
        oldest_first(lambda limit, after_id: failed_ends.list(matching, limit, after_id), failed_end_answer),
        columns.FAILED_ENDS,
    )


@blueprint.get("/failed-ends/groups")
@takes(*PAGE, *filters.FAILED_END_SUMS)
@answers(PageOf(FailedEndGroupAnswer, total=FailedEndGroupAnswer))
def group_failed_ends() -> Response:
    """Number and cost of failed ends by group, the largest sums first, and the total of all that match."""
    return _sums(
        "Groups of failed ends", container().failed_end_sums.failed_ends, failed_end_group_answer,
        columns.FAILED_END_SUMS,
    )  # fmt: skip


@blueprint.get("/debts")
@takes(*PAGE, *filters.FAILED_END_SUMS)
@answers(PageOf(DebtAnswer, total=DebtAnswer))
def list_debts() -> Response:
    """What wallets owe, the largest sums first, and the total of all that match."""
    return _sums("Debts", container().failed_end_sums.debts, debt_answer, columns.DEBT_SUMS)


@blueprint.get("/ends/<uuid:end_id>")
@answers(EndStoryAnswer)
def show_end(end_id: UUID) -> Response:
    """One end's whole history, whether it failed, waits, is settled or was written off."""
    return success("End", end_story_answer(container().end_stories.tell(end_id)))


@blueprint.post("/failed-ends/<uuid:end_id>/replay")
@answers(FailedEndAnswer, refuses=(WalletBusy,))
def replay_failed_end(end_id: UUID) -> Response:
    """Retries a failed end immediately."""
    replayed = container().failed_ends.replay(end_id, caller_of_call())
    return success("Failed end is tried again", failed_end_answer(replayed))


@blueprint.post("/failed-ends/<uuid:end_id>/write-off")
@answers(TransactionAnswer, body=_write_off, is_repeatable=True, refuses=(AlreadyExists, WalletNotFound, WalletBusy))
def write_off_failed_end(end_id: UUID) -> Response:
    """Writes a failed end off: the ledger shows it as billed and as given back, so the balance doesn't change."""
    written_off = container().failed_ends.write_off(end_id, **asked_by_operator(_write_off))
    return repeatable("Failed end written off", transaction_answer(written_off.entry), replayed=written_off.replayed)


def _sums(
    message: str,
    add_up: Callable[[Filter, Sequence[Group], int, str], Any],
    answer: Callable[[Sequence[Group], Any], Mapping[str, Any]],
    sums: Mapping[str, Kind],
) -> Response:
    matching, groups = filters.failed_end_sums()
    totals: list[Any] = []

    def fetch(limit: int, after: str) -> Page[Any, str]:
        found = add_up(matching, groups, limit, after)
        totals.append(found.total)
        return found.page  # type: ignore[no-any-return]

    listing = Listing(
        Order(FIRST_ID, lambda text: check_position(groups, text)), fetch, lambda found: answer(groups, found)
    )
    keys = {group.value: Kind.TEXT for group in groups}
    return listed(message, listing, {**keys, **sums}, lambda: {"total": answer((), totals[0])})
