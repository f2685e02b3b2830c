"""Commands on low balances and auto top-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.balance_rules import (
    ANSWER_SECONDS_DEFAULT,
    ANSWER_SECONDS_MAX,
    ANSWER_SECONDS_MIN,
    FAILURES_DEFAULT,
    FAILURES_MAX,
    REQUESTS_PER_MONTH_DEFAULT,
    REQUESTS_PER_MONTH_MAX,
    AutoTopUp,
    LowBalance,
    Owner,
    RequestState,
)
from app.domain.keys import Caller
from app.domain.pages import NEWEST
from app.domain.wallets import wallet_of
from app.stores.postgres.top_up_requests import RequestFilter
from app.webhooks.events import NEWEST_EVENT
from app.wire.webhooks import (
    auto_top_up_answer,
    low_balance_answer,
    standing_answer,
    top_up_request_answer,
    wallet_rules_answer,
)

for_user = click.option("--user", "user_id", type=support.ID, help="For this user's wallet.")
for_package = click.option("--package", "package_id", type=support.ID, help="For all wallets with this package.")
request_id = click.argument("request_id", type=click.UUID)


@click.group("balance-rules")
def balance_rules() -> None:
    """Rules for low balances and auto top-up, which send webhooks."""


@balance_rules.command("show")
@click.argument("user_id", type=support.ID)
@as_json
@with_services
def show(services: Container, user_id: str, as_json: bool) -> None:
    """Print the rules that apply to a wallet.

    \b
    flask balance-rules show alice
    """
    answer = wallet_rules_answer(user_id, services.balance_rules.of_wallet(user_id))
    if as_json:
        echo_object({**answer}, as_json=True)
        return
    low, asked = answer["low_balance"], answer["auto_top_up"]
    low_columns, asked_columns = ("below_token", "below_percent"), ("below_token", "token", "requests_per_month")
    echo_object(
        {
            **answer,
            "low_balance": "-" if low is None else _of(low, low_columns),
            "auto_top_up": "-" if asked is None else _of(asked, asked_columns),
        },
        as_json=False,
    )


def _of(rule: Mapping[str, Any], names: Sequence[str]) -> str:
    """A rule as one line of text."""
    said = ", ".join(f"{name} {rule[name]}" for name in names if rule[name] is not None)
    owner = "its own" if rule["user_id"] is not None else "its package's"
    return f"{said or 'off'} ({owner})"


@balance_rules.command("low-balance")
@for_user
@for_package
@click.option("--below-token", "below_micros", type=support.CREDIT)
@click.option(
    "--below-percent",
    "below_basis_points",
    type=support.PERCENTAGE,
    help="Percentage of the balance right after the last top-up.",
)
@click.option("--off", is_flag=True, help="No rule for this wallet, even if its package has one.")
@support.by
@as_json
@with_services
def low_balance(
    services: Container,
    /,
    *,
    user_id: str | None,
    package_id: str | None,
    below_micros: int | None,
    below_basis_points: int | None,
    off: bool,
    caller: Caller,
    as_json: bool,
) -> None:
    """Set when a wallet counts as low.

    \b
    flask balance-rules low-balance --package basic --below-percent 20
    flask balance-rules low-balance --user alice --below-token 100
    """
    if [below_micros is not None, below_basis_points is not None, off].count(True) != 1:
        raise click.UsageError("Give one of --below-token, --below-percent and --off.")
    if below_basis_points is not None and not 0 < below_basis_points <= 10_000:
        raise click.UsageError("--below-percent must be above 0, and at most 100.")
    below = LowBalance(below_micros, below_basis_points)
    rule = services.balance_rules.set_low_balance(Owner(user_id, package_id), below, caller)
    echo_object({**low_balance_answer(rule)}, as_json=as_json)


@balance_rules.command("auto-top-up")
@for_user
@for_package
@click.option("--below-token", "below_micros", type=support.CREDIT)
@click.option("--token", "amount_micros", type=support.CREDIT, help="How many tokens to request.")
@click.option(
    "--requests-per-month",
    type=click.IntRange(1, REQUESTS_PER_MONTH_MAX),
    default=REQUESTS_PER_MONTH_DEFAULT,
    show_default=True,
)
@click.option(
    "--token-per-month", "micros_per_month", type=support.CREDIT, help="[requests per month times the amount]"
)
@click.option("--failures-max", type=click.IntRange(1, FAILURES_MAX), default=FAILURES_DEFAULT, show_default=True)
@click.option(
    "--answer-seconds",
    type=click.IntRange(ANSWER_SECONDS_MIN, ANSWER_SECONDS_MAX),
    default=ANSWER_SECONDS_DEFAULT,
    show_default=True,
    help="How long a request waits for its top-up.",
)
@click.option("--off", is_flag=True, help="No rule for this wallet, even if its package has one.")
@support.by
@as_json
@with_services
def auto_top_up(
    services: Container,
    /,
    *,
    user_id: str | None,
    package_id: str | None,
    below_micros: int | None,
    amount_micros: int | None,
    requests_per_month: int,
    micros_per_month: int | None,
    failures_max: int,
    answer_seconds: int,
    off: bool,
    caller: Caller,
    as_json: bool,
) -> None:
    """Set when to request a top-up, and of how many tokens.

    \b
    flask balance-rules auto-top-up --user alice --below-token 100 --token 1000 --requests-per-month 5
    """
    rule = None
    if below_micros is not None and amount_micros is not None and not off:
        month = amount_micros * requests_per_month if micros_per_month is None else micros_per_month
        if month < amount_micros:
            raise click.UsageError("--token-per-month must not be less than --token.")
        rule = AutoTopUp(below_micros, amount_micros, requests_per_month, month, failures_max, answer_seconds)
    elif not off or below_micros is not None or amount_micros is not None:
        raise click.UsageError("Give --below-token and --token, or --off.")
    made = services.balance_rules.set_auto_top_up(Owner(user_id, package_id), rule, caller)
    echo_object({**auto_top_up_answer(made)}, as_json=as_json)


@balance_rules.command("list")
@click.option("--kind", type=click.Choice(["low-balance", "auto-top-up"]), default="low-balance", show_default=True)
@page_size
@support.before_number
@as_json
@with_services
def list_rules(services: Container, kind: str, limit: int, before: int | None, as_json: bool) -> None:
    """List rules, newest first.

    \b
    flask balance-rules list --kind auto-top-up
    """
    if kind == "low-balance":
        columns: tuple[str, ...] = ("id", "user_id", "package_id", "below_token", "below_percent")
        low = services.balance_rules.low_balance_rules(limit, before or NEWEST)
        echo_page(low, low_balance_answer, columns, as_json=as_json, more="--before")
        return
    columns = ("id", "user_id", "package_id", "below_token", "token", "requests_per_month", "token_per_month")
    top_ups = services.balance_rules.auto_top_up_rules(limit, before or NEWEST)
    echo_page(top_ups, auto_top_up_answer, columns, as_json=as_json, more="--before")


@balance_rules.command("remove")
@click.argument("kind", type=click.Choice(["low-balance", "auto-top-up"]))
@for_user
@for_package
@support.by
@with_services
def remove(services: Container, kind: str, user_id: str | None, package_id: str | None, caller: Caller) -> None:
    """Delete a rule. A wallet without a rule follows its package's rule.

    \b
    flask balance-rules remove low-balance --user alice
    """
    owner = Owner(user_id, package_id)
    if kind == "low-balance":
        services.balance_rules.remove_low_balance(owner, caller)
    else:
        services.balance_rules.remove_auto_top_up(owner, caller)
    click.echo("Removed.")


@balance_rules.command("requests")
@click.option("--user", "user_id", type=support.ID, help="Only of this user.")
@click.option("--state", type=click.Choice([state.value for state in RequestState]))
@page_size
@click.option("--before", type=click.UUID, help="Start after this one (continue with older ones).")
@as_json
@with_services
def requests(
    services: Container, /, *, user_id: str | None, state: str | None, limit: int, before: UUID | None, as_json: bool
) -> None:
    """List requested top-ups, newest first.

    \b
    flask balance-rules requests --state open
    """
    matching = RequestFilter(
        None if user_id is None else wallet_of(user_id), None if state is None else RequestState(state)
    )
    page = services.top_up_requests.list(limit, NEWEST_EVENT if before is None else str(before), matching)
    columns = ("id", "user_id", "token", "state", "requested_at", "expires_at", "reference")
    echo_page(page, top_up_request_answer, columns, as_json=as_json, more="--before")


@balance_rules.command("decline")
@request_id
@click.option("--reason", type=support.REASON, required=True)
@support.by
@as_json
@with_services
def decline(services: Container, request_id: UUID, reason: str, caller: Caller, as_json: bool) -> None:
    """Decline a requested top-up.

    \b
    flask balance-rules decline 01a20591-939c-7411-9602-9fa0c3c61c49 --reason "Card refused"
    """
    echo_object(
        {**top_up_request_answer(services.top_up_requests.decline(request_id, reason, caller))}, as_json=as_json
    )


@balance_rules.command("resume")
@click.argument("user_id", type=support.ID)
@support.by
@as_json
@with_services
def resume(services: Container, user_id: str, caller: Caller, as_json: bool) -> None:
    """Resume requesting top-ups after failures have stopped it.

    \b
    flask balance-rules resume alice
    """
    echo_object({**standing_answer(services.top_up_requests.resume(user_id, caller))}, as_json=as_json)
