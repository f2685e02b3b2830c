"""Commands on ends whose deduction has failed: list, replay, write off."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import UUID

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.failed_end_options import after_position, by_groups, checked_position, echo_sums, filters
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.ends import EndState
from app.domain.failed_ends import Filter, Group
from app.operations.failed_ends import FIRST_END
from app.stores.postgres.failed_ends import FailedEndRow
from app.wire.answers import failed_end_answer, transaction_answer
from app.wire.failed_ends import failed_end_group_answer

INTERRUPTED = 130

end_id = click.argument("end_id", type=click.UUID)


@click.group("failed-ends")
def failed_ends() -> None:
    """Failed ends: used and recorded, but not deducted so far."""


@failed_ends.command("list")
@filters
@page_size
@click.option("--after", type=click.UUID, help="Start behind this one.")
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
@click.argument("end_ids", type=click.UUID, nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All that match the options, dead ones unless --state is given.")
@filters
@with_services
def replay(services: Container, *, end_ids: tuple[UUID, ...], is_all: bool, matching: Filter) -> None:
    """Have failed ends tried again now. Interrupted, the same command goes on with the rest.

    \b
    flask failed-ends replay --all --state dead
    """
    if is_all == bool(end_ids):
        raise click.UsageError("Give the ids of failed ends, or --all.")
    if not is_all and matching != Filter():
        raise click.UsageError("Filters go with --all.")
    if is_all:
        matching = replace(matching, state=matching.state or EndState.DEAD)
        _replay(services.failed_ends.replay_matching(matching), services.failed_ends.count(matching))
    else:
        _replay(([services.failed_ends.replay(end_id)] for end_id in end_ids), len(end_ids))


def _replay(pages: Iterator[Sequence[FailedEndRow]], total: int) -> None:
    """Replay page after page, with a progress bar for whoever watches, then say what was done."""
    done = settling = 0
    try:
        with click.progressbar(length=total, label="Replaying", file=sys.stderr) as bar:
            for ends in pages:
                done += len(ends)
                settling += sum(end.state == EndState.ACCEPTED for end in ends)
                bar.update(len(ends))
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted: {done} of {total} replayed. The same command goes on with the rest.", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"{done} replayed: {settling} to be settled, {done - settling} to be tried again.")


@failed_ends.command("write-off")
@end_id
@click.option("--reason", type=support.REASON, required=True)
@support.by
@as_json
@with_services
def write_off(services: Container, *, end_id: UUID, reason: str, actor: str | None, as_json: bool) -> None:
    """Give up a failed end's cost: the balance stays as it is, and the end is never deducted.

    \b
    flask failed-ends write-off 01890a5d-ac96-774b-bcce-b302099a8057 --reason "Customer left" --by alice
    """
    written_off = services.failed_ends.write_off(end_id, reason, actor or support.operator())
    if written_off.replayed:
        click.echo("Written off before; nothing was done now.", err=True)
    echo_object(transaction_answer(written_off.entry), as_json=as_json)
