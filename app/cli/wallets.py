"""Commands on wallets and what is posted to them."""

from __future__ import annotations

from typing import Any

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.ends import echo_corrected
from app.cli.statements import balances, statement
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.corrections import Chargeback
from app.domain.keys import Caller
from app.domain.pages import FIRST_ID, NEWEST
from app.domain.postings import Posting, PostingKind
from app.domain.reports import Entries, EntryKind, WalletOrder, Wallets
from app.domain.wallets import WalletStatus
from app.operations.wallets import check_position
from app.wire.answers import hold_answer, released_hold_answer, transaction_answer, wallet_answer
from app.wire.cursors import hold_position

user_id = click.argument("user_id", type=support.ID)
status = click.option("--status", type=click.Choice([status.value for status in WalletStatus]))
overdraft_limit = click.option(
    "--overdraft-limit-token",
    "overdraft_limit_micros",
    type=support.LIMIT,
    help="How far the balance may go below zero.",
)
token_amount = click.option("--token", "amount_micros", type=support.CREDIT, required=True, help="At most 6 decimals.")
reference = click.option(
    "--reference",
    type=support.REFERENCE,
    required=True,
    help="Your own reference, unique per wallet: repeating the command posts nothing more.",
)

POSITION = support.Checked("position", hold_position)


@click.group()
def wallets() -> None:
    """Wallets: the tokens that users have."""


wallets.add_command(statement)
wallets.add_command(balances)


@wallets.command("create")
@click.argument("user_id", type=support.NEW_USER_ID)
@click.option("--package", "package_id", type=support.ID, help="Without a package the user can't start anything.")
@overdraft_limit
@support.by
@as_json
@with_services
def create(
    services: Container,
    *,
    user_id: str,
    package_id: str | None,
    overdraft_limit_micros: int | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Open an empty wallet.

    \b
    flask wallets create alice --package basic
    """
    created = services.wallet_admin.create(
        user_id, package_id, overdraft_limit_micros=overdraft_limit_micros or 0, caller=caller
    )
    echo_object(wallet_answer(created), as_json=as_json)


@wallets.command("show")
@user_id
@as_json
@with_services
def show(services: Container, user_id: str, as_json: bool) -> None:
    """Print a wallet.

    \b
    flask wallets show alice
    """
    echo_object(wallet_answer(services.wallet_admin.get(user_id)), as_json=as_json)


@wallets.command("list")
@click.option("--package", "package_id", type=support.ID, help="Only those with this package.")
@status
@click.option("--search", type=support.ID, help="Only wallets whose user id contains this, ignoring case.")
@click.option("--prefix", type=support.ID, help="Only wallets whose user id begins with this.")
@click.option("--in-debt/--no-debt", "in_debt", default=None, help="Only those that owe something, or nothing.")
@click.option("--with-holds/--no-holds", "with_holds", default=None, help="Only those with open holds, or without.")
@click.option("--balance-below", "balance_below_micros", type=support.ANY_AMOUNT, help="With a lower posted balance.")
@click.option("--balance-above", "balance_above_micros", type=support.ANY_AMOUNT, help="With a higher posted balance.")
@click.option(
    "--sort",
    "order",
    type=support.Checked("order", WalletOrder.named),
    default=WalletOrder().name,
    show_default=True,
    help="user_id, balance, debt or activity; with a minus in front, descending.",
)
@page_size
@click.option("--after", help="Start after this one.")
@as_json
@with_services
def list_wallets(
    services: Container,
    /,
    *,
    order: WalletOrder,
    limit: int,
    after: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List wallets, by default in the order of user ids.

    \b
    flask wallets list --limit 20 --after alice
    flask wallets list --in-debt --sort=-debt
    """
    try:
        start = FIRST_ID if after is None else check_position(order, after)
    except ValueError:
        raise click.UsageError("--after must be what a list of this order has named.") from None
    page = services.wallet_admin.list(limit, start, Wallets(**filters), order)
    columns = ("user_id", "status", "package_id", "token", "posted_token", "pending_token", "debt_token", "changed_at")
    echo_page(page, wallet_answer, columns, as_json=as_json, more="--after")


@wallets.command("update")
@user_id
@status
@click.option("--package", "package_id", type=support.ID)
@click.option("--no-package", is_flag=True, help="Take the package away.")
@overdraft_limit
@click.option("--reason", type=support.REASON, help="Recorded in the audit log.")
@support.by
@as_json
@with_services
def update(
    services: Container,
    *,
    user_id: str,
    status: str | None,
    package_id: str | None,
    no_package: bool,
    overdraft_limit_micros: int | None,
    reason: str | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Change a wallet's status, package or overdraft limit.

    \b
    flask wallets update alice --status suspended --reason "Fraud check"
    """
    if no_package and package_id is not None:
        raise click.UsageError("--package and --no-package exclude each other.")
    given = {"status": status, "package_id": package_id, "overdraft_limit_micros": overdraft_limit_micros}
    changes: dict[str, Any] = {column: value for column, value in given.items() if value is not None}
    if no_package:
        changes["package_id"] = None
    changed = services.wallet_admin.update(user_id, changes, caller, reason=reason)
    echo_object(wallet_answer(changed), as_json=as_json)


@wallets.command("transactions")
@user_id
@click.option("--kind", type=click.Choice([kind.value for kind in EntryKind]))
@page_size
@support.before_number
@as_json
@with_services
def transactions(
    services: Container, *, user_id: str, kind: str | None, limit: int, before: int | None, as_json: bool
) -> None:
    """List what changed a wallet's balance, newest first.

    \b
    flask wallets transactions alice --limit 20
    """
    wanted = Entries(kind=None if kind is None else EntryKind(kind))
    page = services.reports.transactions(wanted, limit, before or NEWEST, user_id=user_id)
    columns = ("id", "created_at", "kind", "token", "balance_after", "base_cost", "profit", "model", "price_id")
    echo_page(
        page,
        lambda priced: transaction_answer(priced.entry, priced.card),
        (*columns, "reference"),
        as_json=as_json,
        more="--before",
    )


@wallets.command("holds")
@user_id
@page_size
@click.option("--after", "after", type=POSITION, help="Start after this one.")
@as_json
@with_services
def holds(services: Container, user_id: str, limit: int, after: str | None, as_json: bool) -> None:
    """List the open holds of a wallet, in the order they expire.

    \b
    flask wallets holds alice
    """
    page = services.holds.list(user_id, limit, after or FIRST_ID)
    echo_page(page, hold_answer, ("process_id", "hold_token", "expires_at"), as_json=as_json, more="--after")


@wallets.command("release-hold")
@user_id
@click.argument("process_id", type=support.ID)
@click.option("--reason", type=support.REASON, help="Recorded in the audit log.")
@support.by
@as_json
@with_services
def release_hold(
    services: Container, *, user_id: str, process_id: str, reason: str | None, caller: Caller, as_json: bool
) -> None:
    """Give an open hold back. The run may go on and is still billed.

    \b
    flask wallets release-hold alice 01a20596-5336-7733-91c3-ec7baf964834-8db1423494eb
    """
    released = services.holds.give_back(user_id, process_id, caller, reason=reason)
    echo_object(released_hold_answer(user_id, process_id, released), as_json=as_json)


@wallets.command("charge-back")
@user_id
@token_amount
@reference
@click.option("--reason", type=support.REASON)
@support.by
@as_json
@with_services
def charge_back(services: Container, /, *, as_json: bool, **asked: Any) -> None:
    """Take back tokens whose payment was charged back. If the wallet can't pay, it becomes debt.

    \b
    flask wallets charge-back alice --token 100 --reference dispute-9 --reason "Card disputed"
    """
    chargeback = Chargeback(**asked)
    echo_corrected(services.corrections.charge_back(chargeback), as_json=as_json)


def _posting(name: str, kind: PostingKind, amount: support.Checked[int], help: str) -> None:
    @wallets.command(name, help=help)
    @user_id
    @click.option("--token", "amount_micros", type=amount, required=True, help="At most 6 decimals.")
    @reference
    @click.option("--reason", type=support.REASON)
    @support.by
    @as_json
    @with_services
    def post(services: Container, /, *, as_json: bool, **asked: Any) -> None:
        posting = Posting(kind=kind, **asked)
        posted = services.postings.post(posting)
        if posted.replayed:
            click.echo("Posted before, under the same reference; nothing was posted now.", err=True)
        echo_object(transaction_answer(posted.entry), as_json=as_json)


_posting(
    "top-up",
    PostingKind.TOP_UP,
    support.CREDIT,
    "Put bought tokens into a wallet.\n\n\b\nflask wallets top-up alice --token 1000 --reference invoice-17",
)
_posting(
    "refund",
    PostingKind.REFUND,
    support.CREDIT,
    "Give tokens back.\n\n\b\nflask wallets refund alice --token 11 --reference ticket-4 --reason Failed",
)
_posting(
    "adjust",
    PostingKind.ADJUSTMENT,
    support.ADJUSTMENT,
    "Correct a balance, up or down.\n\n\b\nflask wallets adjust alice --token -0.5 --reference audit-2030-1",
)
