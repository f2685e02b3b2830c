"""What operators call about low balances and auto top-up. Part of the admin API."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response

from app.domain.balance_rules import Owner
from app.domain.errors import Invalid, NotFound, WalletNotFound
from app.http import filters
from app.http.auth import caller_of_call
from app.http.openapi.describe import PageOf, answers
from app.http.paging import Listing, listed, newest_first
from app.http.query import PAGE, takes, takes_page
from app.http.routes import asked_by_operator, container, success
from app.http.schemas.webhooks import AutoTopUpSchema, DeclineSchema, LowBalanceSchema
from app.wire import columns
from app.wire.cursors import NEWEST_UUID_FIRST
from app.wire.webhooks import (
    AutoTopUpRuleAnswer,
    AutoTopUpStandingAnswer,
    BalanceRuleOwnerAnswer,
    LowBalanceRuleAnswer,
    RequestedTopUpAnswer,
    WalletRulesAnswer,
    auto_top_up_answer,
    low_balance_answer,
    standing_answer,
    top_up_request_answer,
    wallet_rules_answer,
)

blueprint = Blueprint("balance_rules", __name__, url_prefix="/api/admin")

_low_balance = LowBalanceSchema()
_auto_top_up = AutoTopUpSchema()
_decline = DeclineSchema()


@blueprint.put("/low-balance-rules")
@answers(LowBalanceRuleAnswer, body=_low_balance, refuses=(WalletNotFound, NotFound))
def set_low_balance_rule() -> Response:
    """For a wallet, or for all wallets with a package that have none of their own, in place of what it had.

    With neither amount: no warning, whatever the package says.
    """
    asked = asked_by_operator(_low_balance)
    owner = Owner(asked.pop("user_id"), asked.pop("package_id"))
    return success(
        "Low balance rule set", low_balance_answer(container().balance_rules.set_low_balance(owner, **asked))
    )


@blueprint.get("/low-balance-rules")
@takes_page
@answers(PageOf(LowBalanceRuleAnswer))
def list_low_balance_rules() -> Response:
    found = newest_first(container().balance_rules.low_balance_rules, low_balance_answer)
    return listed("Low balance rules", found, columns.LOW_BALANCE_RULES)


@blueprint.delete("/low-balance-rules")
@takes(*filters.OWNER)
@answers(BalanceRuleOwnerAnswer, refuses=(Invalid, NotFound))
def remove_low_balance_rule() -> Response:
    """By `user_id` or `package_id`."""
    owner = filters.owner()
    container().balance_rules.remove_low_balance(owner, caller_of_call())
    return success("Low balance rule removed", {"user_id": owner.user_id, "package_id": owner.package_id})


@blueprint.put("/auto-top-up-rules")
@answers(AutoTopUpRuleAnswer, body=_auto_top_up, refuses=(WalletNotFound, NotFound))
def set_auto_top_up_rule() -> Response:
    """For a wallet, or for all wallets with a package that have none of their own, in place of what it had.

    Without amounts: no top-up is asked for, whatever the package says.
    """
    asked = asked_by_operator(_auto_top_up)
    owner = Owner(asked.pop("user_id"), asked.pop("package_id"))
    return success(
        "Auto top-up rule set", auto_top_up_answer(container().balance_rules.set_auto_top_up(owner, **asked))
    )


@blueprint.get("/auto-top-up-rules")
@takes_page
@answers(PageOf(AutoTopUpRuleAnswer))
def list_auto_top_up_rules() -> Response:
    found = newest_first(container().balance_rules.auto_top_up_rules, auto_top_up_answer)
    return listed("Auto top-up rules", found, columns.AUTO_TOP_UP_RULES)


@blueprint.delete("/auto-top-up-rules")
@takes(*filters.OWNER)
@answers(BalanceRuleOwnerAnswer, refuses=(Invalid, NotFound))
def remove_auto_top_up_rule() -> Response:
    """By `user_id` or `package_id`."""
    owner = filters.owner()
    container().balance_rules.remove_auto_top_up(owner, caller_of_call())
    return success("Auto top-up rule removed", {"user_id": owner.user_id, "package_id": owner.package_id})


@blueprint.get("/wallets/<id:user_id>/balance-rules")
@answers(WalletRulesAnswer, refuses=(WalletNotFound,))
def show_balance_rules(user_id: str) -> Response:
    """The rules that apply to a wallet, its own or its package's, and the state of its auto top-up."""
    rules = container().balance_rules.of_wallet(user_id)
    return success("Balance rules", wallet_rules_answer(user_id, rules))


@blueprint.post("/wallets/<id:user_id>/auto-top-up/resume")
@answers(AutoTopUpStandingAnswer, refuses=(WalletNotFound,))
def resume_auto_top_up(user_id: str) -> Response:
    """Resets the count of failures. If the balance is still below the threshold, a top-up is requested."""
    standing = container().top_up_requests.resume(user_id, caller_of_call())
    return success("Auto top-up resumed", standing_answer(standing))


@blueprint.get("/top-up-requests")
@takes(*PAGE, *filters.TOP_UP_REQUESTS)
@answers(PageOf(RequestedTopUpAnswer))
def list_top_up_requests() -> Response:
    matching, requests = filters.top_up_requests(), container().top_up_requests
    found = Listing(
        NEWEST_UUID_FIRST, lambda limit, before: requests.list(limit, before, matching), top_up_request_answer
    )
    return listed("Top-up requests", found, columns.TOP_UP_REQUESTS)


@blueprint.get("/top-up-requests/<uuid:request_id>")
@answers(RequestedTopUpAnswer)
def show_top_up_request(request_id: UUID) -> Response:
    return success("Top-up request", top_up_request_answer(container().top_up_requests.get(request_id)))


@blueprint.post("/top-up-requests/<uuid:request_id>/decline")
@answers(RequestedTopUpAnswer, body=_decline, refuses=(NotFound,))
def decline_top_up_request(request_id: UUID) -> Response:
    """Declines a request, for example because a payment failed. The next request waits for an hour."""
    declined = container().top_up_requests.decline(request_id, **asked_by_operator(_decline))
    return success("Top-up request declined", top_up_request_answer(declined))
