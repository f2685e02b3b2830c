"""The command on what wallets owe."""

from __future__ import annotations

import click

from app.bootstrap import Container
from app.cli.failed_end_options import after_position, by_groups, checked_position, echo_sums, filters
from app.cli.support import as_json, page_size, with_services
from app.domain.failed_ends import Filter, Group
from app.wire.failed_ends import debt_answer


@click.command()
@by_groups
@filters
@page_size
@after_position
@as_json
@with_services
def debts(
    services: Container,
    /,
    *,
    groups: tuple[Group, ...],
    matching: Filter,
    limit: int,
    after: str,
    as_json: bool,
) -> None:
    """What wallets owe, the largest sums first; by user also the top-up that would pay the debt.

    \b
    flask debts --by user_id
    flask debts --by feature_endpoint_id,last_error --older-than 7d
    """
    found = services.failed_end_sums.debts(matching, groups, limit, checked_position(groups, after))
    of_users = ("room_token", "missing_token") if groups == (Group.USER,) else ()
    sums = ("ends", "users", "debt_token", *of_users, "oldest_accepted_at")
    echo_sums(groups, found.page, found.total, debt_answer, sums, as_json=as_json)
