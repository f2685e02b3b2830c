"""The command that holds wallets, ledger and cache against each other."""

from __future__ import annotations

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, with_services
from app.domain.keys import Caller
from app.domain.pages import Page
from app.stores.postgres.reconciliation import Drift, Reconciliation
from app.wire.answers import drift_answer, reconciliation_answer

DOES_NOT_ADD_UP = 1


@click.command("reconcile")
@click.option("--full", "is_full", is_flag=True, help="Read every ledger from its start, and all days' roll-ups.")
@click.option("--repair", is_flag=True, help="Rebuild wrong roll-ups from the ledger.")
@support.by
@as_json
@with_services
def reconcile(services: Container, is_full: bool, repair: bool, caller: Caller, as_json: bool) -> None:
    """Compare every wallet with its ledger and its cached copy, and correct the copies.

    Each ledger is read from where the last reconciliation found it right, and the roll-ups of yesterday and today are
    held to it.

    Exits with 1 when money doesn't add up, with 0 when all is right or has been put right.

    \b
    flask reconcile --full
    """
    done = services.reconciliation.run(is_full=is_full, repair=repair, caller=caller)
    answer = dict(reconciliation_answer(done))
    if as_json:
        echo_object(answer, as_json=True)
    else:
        del answer["drifted"]
        echo_object(answer, as_json=False)
        if done.drifted:
            click.echo()
            columns = ("user_id", "kind", "expected_token", "found_token", "difference_token", "detail")
            drifted: Page[Drift, int] = Page(done.drifted, None)
            echo_page(drifted, drift_answer, columns, as_json=False, more="")
    click.echo(_verdict(done), err=True)
    if not done.adds_up:
        click.get_current_context().exit(DOES_NOT_ADD_UP)


def _verdict(done: Reconciliation) -> str:
    if not done.adds_up:
        left = done.drifted_count - done.repaired
        said = f"Money does not add up: {left} {'difference is' if left == 1 else 'differences are'} left."
    elif done.drifted_count:
        had = "copy had" if done.repaired == 1 else "copies had"
        said = f"Money adds up. {done.repaired} {had} drifted and {'was' if done.repaired == 1 else 'were'} repaired."
    else:
        said = "Money adds up."
    return said if done.cache_checked else f"{said} Redis is away: the cache was not checked."
