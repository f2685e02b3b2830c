"""Commands on ends whose deduction has failed: list, replay, write off."""

from __future__ import annotations

from uuid import UUID

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.bulk_runs import BulkOptions, bulk_options, check_selection, run
from app.cli.failed_end_options import after_position, by_groups, checked_position, echo_sums, filters
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.bulk_actions import BulkKind
from app.domain.ends import EndState
from app.domain.failed_ends import Filter, Group
from app.operations.failed_ends import FIRST_END
from app.wire.answers import failed_end_answer, transaction_answer
from app.wire.failed_ends import failed_end_group_answer

end_id = click.argument("end_id", type=click.UUID)
end_ids = click.argument("end_ids", type=click.UUID, nargs=-1)


@click.group("failed-ends")
def failed_ends() -> None:
    """Failed ends: used and recorded, but not deducted so far."""


@failed_ends.command("list")
@filters
@page_size
@click.option("--after", type=click.UUID, help="Start after this one.")
@as_json
@with_services
def list_failed_ends(
    services: Container, /, *, matching: Filter, limit: int, after: UUID | None, as_json: bool
) -> None:
    """List failed ends, oldest first.

    \b
    flask failed-ends list --state dead --user alice
    """
    page = services.failed_ends.list(matching, limit, FIRST_END if after is None else str(after))
    columns = ("id", "user_id", "cost", "state", "attempts", "next_attempt_at", "last_error")
    echo_page(page, failed_end_answer, columns, as_json=as_json, more="--after")


@failed_ends.command("groups")
@by_groups
@filters
@page_size
@after_position
@as_json
@with_services
def group_failed_ends(
    services: Container, /, *, groups: tuple[Group, ...], matching: Filter, limit: int, after: str, as_json: bool
) -> None:
    """How many failed ends there are and what they cost, the largest sums first.

    \b
    flask failed-ends groups --by user_id,last_error --older-than 1h
    """
    found = services.failed_end_sums.failed_ends(matching, groups, limit, checked_position(groups, after))
    sums = ("ends", "users", "cost", "retrying", "dead", "oldest_accepted_at")
    echo_sums(groups, found.page, found.total, failed_end_group_answer, sums, as_json=as_json)


@failed_ends.command("show")
@end_id
@as_json
@with_services
def show(services: Container, end_id: UUID, as_json: bool) -> None:
    """Print a failed end.

    \b
    flask failed-ends show 01890a5d-ac96-774b-bcce-b302099a8057
    """
    echo_object(failed_end_answer(services.failed_ends.get(end_id)), as_json=as_json)


@failed_ends.command("replay")
@end_ids
@bulk_options
@click.option("--reason", type=support.REASON, help="Required with --all or --reference.")
@with_services
def replay(
    services: Container, *, end_ids: tuple[UUID, ...], bulk: BulkOptions, matching: Filter, reason: str | None
) -> None:
    """Retry failed ends now: single ones, or many as a bulk action, which records the outcome of each.

    \b
    flask failed-ends replay 01890a5d-ac96-774b-bcce-b302099a8057
    flask failed-ends replay --all --error wallet_missing --reference inc-7 --reason "Wallets were created"
    """
    check_selection(end_ids, bulk, matching)
    if bulk.is_all or bulk.reference is not None:
        run(services, bulk.asked(BulkKind.REPLAY, end_ids, matching, reason), bulk)
        return
    replayed = [services.failed_ends.replay(end_id, bulk.caller) for end_id in end_ids]
    settling = sum(end.state == EndState.ACCEPTED for end in replayed)
    click.echo(f"{len(replayed)} replayed: {settling} to be settled, {len(replayed) - settling} to be tried again.")


@failed_ends.command("write-off")
@end_ids
@bulk_options
@click.option("--reason", type=support.REASON, required=True)
@with_services
def write_off(
    services: Container, *, end_ids: tuple[UUID, ...], bulk: BulkOptions, matching: Filter, reason: str
) -> None:
    """Give up the cost of failed ends: balances don't change, and these ends are never deducted.

    \b
    flask failed-ends write-off 01890a5d-ac96-774b-bcce-b302099a8057 --reason "Customer left" --by alice
    flask failed-ends write-off --all --user poor --reference inc-8 --reason "Customer left" --dry-run
    """
    check_selection(end_ids, bulk, matching)
    if bulk.is_all or len(end_ids) > 1 or bulk.reference is not None:
        run(services, bulk.asked(BulkKind.WRITE_OFF, end_ids, matching, reason), bulk)
        return
    [end_id] = end_ids
    written_off = services.failed_ends.write_off(end_id, reason, bulk.caller)
    if written_off.replayed:
        click.echo("Written off before; nothing was done now.", err=True)
    echo_object(transaction_answer(written_off.entry), as_json=bulk.as_json)
