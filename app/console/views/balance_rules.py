"""Balance rules: when wallets are low, when top-ups are requested, and the requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request, url_for

from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, Review, change
from app.console.filters import Filters
from app.console.forms import (
    REASON,
    Field,
    Form,
    Kind,
    amount,
    duration,
    duration_text,
    flag,
    identifier,
    percentage,
    plain,
    whole,
)
from app.console.pages import page
from app.console.paging import paged
from app.console.scopes import initial_from, package_choices
from app.console.views.webhooks import tabs
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
from app.domain.errors import Invalid
from app.domain.keys import KeyScope
from app.domain.wallets import wallet_of
from app.stores.postgres.top_up_requests import RequestFilter
from app.wire.cursors import NEWEST_UUID_FIRST

blueprint = Blueprint("balance_rules", __name__, url_prefix="/webhooks")

RULES_SHOWN = 200
REQUEST_TONES = {RequestState.OPEN: "warn", RequestState.ANSWERED: "good"}

_OWNER = (
    Field("user_id", "User", identifier(), is_required=False, help="For this user's wallet, or:"),
    Field(
        "package_id",
        "Package",
        plain,
        Kind.CHOICE,
        is_required=False,
        choices=package_choices,
        unchosen="none",
        help="For all wallets with this package that have no rule of their own.",
    ),
)
_OFF = Field("off", "Never, whatever the package says", flag, Kind.FLAG, is_required=False)
_LOW = Form(
    (
        *_OWNER,
        Field("below_token", "Low below", amount(), Kind.NUMBER, is_required=False, unit="tokens"),
        Field(
            "below_percent",
            "Or below",
            percentage,
            Kind.NUMBER,
            is_required=False,
            unit="%",
            help="Of what a wallet had after its last top-up.",
        ),
        _OFF,
        REASON,
    )
)
_AUTO = Form(
    (
        *_OWNER,
        Field("below_token", "Below", amount(), Kind.NUMBER, is_required=False, unit="tokens"),
        Field("token", "Ask for", amount(), Kind.NUMBER, is_required=False, unit="tokens"),
        Field(
            "requests_per_month",
            "At most so many requests in a month",
            whole(1, REQUESTS_PER_MONTH_MAX),
            Kind.NUMBER,
            default=str(REQUESTS_PER_MONTH_DEFAULT),
        ),
        Field(
            "token_per_month",
            "And so many tokens in a month",
            amount(),
            Kind.NUMBER,
            is_required=False,
            help="Empty: as much as that many requests bring.",
        ),
        Field(
            "failures_max",
            "Stop after so many requests in a row that bring nothing",
            whole(1, FAILURES_MAX),
            Kind.NUMBER,
            default=str(FAILURES_DEFAULT),
        ),
        Field(
            "answer_seconds",
            "A request waits for its top-up for",
            duration(ANSWER_SECONDS_MIN, ANSWER_SECONDS_MAX),
            default=duration_text(ANSWER_SECONDS_DEFAULT),
            help="Such as 15m, 24h or 7d. Then it counts as one that brought nothing.",
        ),
        _OFF,
        REASON,
    )
)
# The owner is hidden, as the title says who it is.
_REMOVAL = Form((*(replace(each, kind=Kind.HIDDEN) for each in _OWNER), REASON))
_REASON = Form((REASON,))
_NO_FILTERS = Filters()
REQUESTS = Filters(
    Field("user_id", "User", identifier(), is_required=False),
    Field(
        "state",
        "State",
        RequestState,
        Kind.CHOICE,
        is_required=False,
        choices=[(state.value, state.value) for state in RequestState],
    ),
)


@blueprint.context_processor
def _frame() -> dict[str, Any]:
    return {"webhook_tabs": tabs}


@blueprint.get("/balance-rules")
@needs(KeyScope.READ)
def index() -> Response:
    """The rules of both kinds, as many as one page has room for: there are few."""
    _NO_FILTERS.read()
    rules = services().balance_rules
    return page(
        "webhooks/balance_rules.html",
        low=rules.low_balance_rules(RULES_SHOWN),
        auto=rules.auto_top_up_rules(RULES_SHOWN),
    )


@blueprint.route("/balance-rules/low-balance", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def set_low_balance() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        services().balance_rules.set_low_balance(_owner(values), _low(values), acting(values))
        return _done("The rule is set.")

    return change(
        _LOW,
        title="Set when a balance is low",
        action="Set it",
        back=url_for("balance_rules.index"),
        review=lambda values: Review(f"{_whose(values)} {_low_text(_low(values))}.", [("Reason", values["reason"])]),
        perform=perform,
        initial=initial_from(_LOW, request.args),
        intro="In place of the rule that the wallet or the package has.",
    )


@blueprint.route("/balance-rules/auto-top-up", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def set_auto_top_up() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        services().balance_rules.set_auto_top_up(_owner(values), _auto(values), acting(values))
        return _done("The rule is set. Wallets that are below already are seen to within a minute.")

    return change(
        _AUTO,
        title="Set when a top-up is asked for",
        action="Set it",
        back=url_for("balance_rules.index"),
        review=lambda values: Review(_auto_text(values, _auto(values)), [("Reason", values["reason"])]),
        perform=perform,
        initial=initial_from(_AUTO, request.args),
        intro="In place of the rule that the wallet or the package has. Receivers of topup.requested take the payment.",
    )


@blueprint.route("/balance-rules/remove-<any('low-balance', 'auto-top-up'):kind>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def remove(kind: str) -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        rules = services().balance_rules
        forget = rules.remove_low_balance if kind == "low-balance" else rules.remove_auto_top_up
        forget(_owner(values), acting(values))
        return _done("The rule was removed.")

    return change(
        _REMOVAL,
        title=f"Remove the rule of {_owner_named()}: {kind.replace('-', ' ', 1)}",
        action="Remove it",
        back=url_for("balance_rules.index"),
        review=lambda values: Review(
            "The rule is forgotten. What a package says holds for its wallets again.",
            [("Whose", _name(_owner(values))), ("Reason", values["reason"])],
        ),
        perform=perform,
        initial=initial_from(_REMOVAL, request.args),
        is_dangerous=True,
    )


@blueprint.get("/top-up-requests")
@needs(KeyScope.READ)
def requests() -> Response:
    filtered = REQUESTS.read()
    found, standing = None, None
    if filtered.is_valid:
        user_id = filtered.values.get("user_id")
        wanted = RequestFilter(None if user_id is None else wallet_of(user_id), filtered.values.get("state"))
        found = paged(NEWEST_UUID_FIRST, lambda limit, before: services().top_up_requests.list(limit, before, wanted))
        if user_id is not None and found.items:
            standing = services().balance_rules.of_wallet(user_id).standing
    return page(
        "webhooks/top_up_requests.html",
        filtered.status,
        filtered=filtered,
        paged=found,
        standing=standing,
        user_id=filtered.values.get("user_id"),
        request_tones=REQUEST_TONES,
    )


@blueprint.route("/top-up-requests/<uuid:request_id>/decline", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def decline(request_id: UUID) -> Response:
    found = services().top_up_requests.get(request_id)
    back = url_for("balance_rules.requests", user_id=found.user_id)

    def perform(values: Mapping[str, Any]) -> Done:
        services().top_up_requests.decline(request_id, values["reason"], acting(values))
        return Done(back, "The request is declined.")

    return change(
        _REASON,
        title=f"Decline a top-up for {found.user_id}",
        action="Decline it",
        back=back,
        review=lambda values: Review(
            f"No top-up of {text.amount(found.amount_micros)} tokens will come. The next one is asked for in an hour,"
            " unless too many have failed.",
            [("Reference", found.reference), ("Reason", values["reason"])],
        ),
        perform=perform,
        intro=f"{text.amount(found.amount_micros)} tokens, reference {found.reference}.",
        is_dangerous=True,
    )


@blueprint.route("/auto-top-up/resume/<id:user_id>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def resume(user_id: str) -> Response:
    back = url_for("balance_rules.requests", user_id=user_id)

    def perform(values: Mapping[str, Any]) -> Done:
        services().top_up_requests.resume(user_id, acting(values))
        return Done(back, "Auto top-up goes on.")

    return change(
        _REASON,
        title=f"Resume auto top-up for {user_id}",
        action="Resume it",
        back=back,
        review=lambda values: Review(
            "Failures are forgotten. If the balance is still below, a top-up is asked for at once.",
            [("Reason", values["reason"])],
        ),
        perform=perform,
    )


def _done(message: str) -> Done:
    return Done(url_for("balance_rules.index"), message)


def _owner(values: Mapping[str, Any]) -> Owner:
    """Raises Invalid."""
    return Owner(values["user_id"], values["package_id"])


def _owner_named() -> str:
    """The owner as named by the address or by the form. A missing owner is reported when the form is sent."""
    user_id, package_id = request.values.get("user_id"), request.values.get("package_id")
    return f"user {user_id}" if user_id else f"package {package_id}" if package_id else "nobody"


def _name(owner: Owner) -> str:
    return f"user {owner.user_id}" if owner.user_id is not None else f"package {owner.package_id}"


def _whose(values: Mapping[str, Any]) -> str:
    owner = _owner(values)
    if owner.user_id is not None:
        return f"The wallet of {owner.user_id} is"
    return f"Wallets with the package {owner.package_id} are"


def _low(values: Mapping[str, Any]) -> LowBalance:
    """Raises Invalid."""
    below, percent = values["below_token"], values["below_percent"]
    if (below is not None, percent is not None, values["off"]).count(True) != 1:
        raise Invalid(errors={"below_token": ["Give an amount, or a percentage, or say never."]})
    if percent is not None and not 0 < percent <= 10_000:
        raise Invalid(errors={"below_percent": ["Must be above 0, and at most 100."]})
    return LowBalance(below, percent)


def _low_text(low: LowBalance) -> str:
    if low.below_micros is not None:
        return f"told to be low below {text.amount(low.below_micros)} tokens"
    if low.below_basis_points is not None:
        return f"told to be low below {text.percent(low.below_basis_points)} of the balance after the last top-up"
    return "never told to be low"


def _auto(values: Mapping[str, Any]) -> AutoTopUp | None:
    """Raises Invalid."""
    below, asked, month = values["below_token"], values["token"], values["token_per_month"]
    if values["off"] and below is None and asked is None:
        return None
    if values["off"] or below is None or asked is None:
        raise Invalid(errors={"below_token": ["Give below what and how much, or say never."]})
    if month is not None and month < asked:
        raise Invalid(errors={"token_per_month": ["Must not be less than what is asked for."]})
    return AutoTopUp(
        below_micros=below,
        amount_micros=asked,
        requests_per_month=values["requests_per_month"],
        micros_per_month=asked * values["requests_per_month"] if month is None else month,
        failures_max=values["failures_max"],
        answer_seconds=values["answer_seconds"],
    )


def _auto_text(values: Mapping[str, Any], rule: AutoTopUp | None) -> str:
    if rule is None:
        return f"{_whose(values)} never asked for top-ups."
    return (
        f"For {_name(_owner(values))}: below {text.amount(rule.below_micros)} tokens a top-up of"
        f" {text.amount(rule.amount_micros)} is asked for, at most {text.count(rule.requests_per_month)} times and"
        f" {text.amount(rule.micros_per_month)} tokens in a month."
    )
