"""Changes of one wallet. Each asks for a reason, says what will happen, and is written to the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request, url_for

from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, Review, change
from app.console.forms import REASON, REFERENCE, Field, Form, Kind, amount, plain
from app.console.scopes import initial_from, package_choices
from app.domain.corrections import CorrectionKind, CorrectionRequest
from app.domain.errors import HoldNotFound, NotFound
from app.domain.keys import KeyScope
from app.domain.postings import Posting, PostingKind
from app.domain.reports import EntryKind
from app.domain.wallets import Balance, WalletBalance, WalletStatus

blueprint = Blueprint("wallet_changes", __name__, url_prefix="/wallets")

_TOP_UP = Form(
    (Field("token", "Amount", amount(), Kind.NUMBER, unit="tokens", wire_names=("amount_micros",)), REFERENCE, REASON)
)
_ADJUST = Form(
    (
        Field(
            "token",
            "Amount",
            amount(allow_negative=True),
            Kind.NUMBER,
            unit="tokens",
            help="Below zero to take tokens away.",
            wire_names=("amount_micros",),
        ),
        REFERENCE,
        REASON,
    )
)
_TERMS = Form(
    (
        Field(
            "package_id",
            "Package",
            plain,
            Kind.CHOICE,
            is_required=False,
            choices=package_choices,
            unchosen="none",
            help="Without one the user can start nothing.",
        ),
        Field(
            "overdraft_limit_token",
            "Overdraft limit",
            amount(allow_zero=True),
            Kind.NUMBER,
            unit="tokens",
            help="How far below zero the posted balance may go.",
            wire_names=("overdraft_limit_micros",),
        ),
        REASON,
    )
)
_REFUND_RUN = Form((REFERENCE, REASON))
_WHY = Form((REASON,))

# The maximum of a wallet's open holds, as in `prelude.lua`.
HOLDS_MAX = 1_000
_EFFECTS = {
    WalletStatus.ACTIVE: "{user} may start runs again.",
    WalletStatus.SUSPENDED: "{user} can start nothing any more. What runs already still bills.",
    WalletStatus.CLOSED: "The wallet of {user} is closed: nothing starts, and top-ups of packages pass it over.",
}
_VERBS = {WalletStatus.ACTIVE: "Activate", WalletStatus.SUSPENDED: "Suspend", WalletStatus.CLOSED: "Close"}
_DONE = {WalletStatus.ACTIVE: "is active", WalletStatus.SUSPENDED: "is suspended", WalletStatus.CLOSED: "is closed"}


@blueprint.route("/top-up/<id:user_id>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def top_up(user_id: str) -> Response:
    return _post(user_id, PostingKind.TOP_UP, _TOP_UP, f"Top up {user_id}", "Top up")


@blueprint.route("/adjust/<id:user_id>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def adjust(user_id: str) -> Response:
    return _post(user_id, PostingKind.ADJUSTMENT, _ADJUST, f"Adjust the balance of {user_id}", "Adjust it")


@blueprint.route("/terms/<id:user_id>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def terms(user_id: str) -> Response:
    """Change a wallet's package and overdraft limit."""
    wallet = _wallet(user_id).wallet

    def changes(values: Mapping[str, Any]) -> dict[str, Any]:
        return {"package_id": values["package_id"], "overdraft_limit_micros": values["overdraft_limit_token"]}

    def perform(values: Mapping[str, Any]) -> Done:
        services().wallet_admin.update(user_id, changes(values), acting(values))
        return _done(user_id, f"The wallet of {user_id} was changed.")

    def review(values: Mapping[str, Any]) -> Review:
        return Review(
            f"The wallet of {user_id} is changed, for starts from now on.",
            [
                ("Package", _from_to(wallet.package_id or "none", values["package_id"] or "none")),
                (
                    "Overdraft limit",
                    _from_to(_tokens(wallet.overdraft_limit_micros), _tokens(values["overdraft_limit_token"])),
                ),
                ("Reason", values["reason"]),
            ],
            warning=None if values["package_id"] else "Without a package the user can start nothing.",
        )

    return change(
        _TERMS,
        title=f"Package and limit of {user_id}",
        action="Change it",
        back=_back(user_id),
        review=review,
        perform=perform,
        initial={
            "package_id": wallet.package_id or "",
            "overdraft_limit_token": text.tokens(wallet.overdraft_limit_micros),
        },
    )


@blueprint.route("/status/<any(active, suspended, closed):status>/<id:user_id>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def status(status: str, user_id: str) -> Response:
    wanted = WalletStatus(status)
    found = _wallet(user_id)

    def perform(values: Mapping[str, Any]) -> Done:
        services().wallet_admin.update(user_id, {"status": wanted}, acting(values))
        return _done(user_id, f"The wallet of {user_id} {_DONE[wanted]}.")

    return change(
        _WHY,
        title=f"{_VERBS[wanted]} the wallet of {user_id}",
        action=f"{_VERBS[wanted]} it",
        back=_back(user_id),
        review=lambda values: Review(
            _EFFECTS[wanted].format(user=user_id),
            [
                ("Status", _from_to(found.wallet.status, wanted)),
                ("Posted balance", _tokens(found.balance.posted_micros)),
                ("Reason", values["reason"]),
            ],
        ),
        perform=perform,
        intro=_stands(found.balance),
        is_dangerous=wanted is not WalletStatus.ACTIVE,
    )


@blueprint.route("/refund-run/<uuid:end_id>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def refund_run(end_id: UUID) -> Response:
    """Give back all that a run has cost."""
    story = services().end_stories.tell(end_id)
    if story.accepted.kind != EntryKind.USAGE:
        raise NotFound("This is no run")
    user_id: str = story.accepted.user_id
    last = story.corrections[-1].correction if story.corrections else None
    cost_micros = story.cost_micros if last is None or last.cost_after_micros is None else last.cost_after_micros

    def perform(values: Mapping[str, Any]) -> Done:
        asked = CorrectionRequest(
            end_id, CorrectionKind.REVERSAL, values["reference"], values["reason"], caller=acting(values)
        )
        done = services().corrections.correct(asked)
        if done.replayed:
            return _done(user_id, "This run was refunded before, under the same reference. Nothing was done now.")
        return _done(user_id, f"{_tokens(done.correction.amount_micros)} were given back to {user_id}.")

    return change(
        _REFUND_RUN,
        title=f"Refund a run of {user_id}",
        action="Refund it",
        back=_back(user_id),
        review=lambda values: Review(
            f"{_tokens(cost_micros)} that a run has cost are given back to {user_id}.",
            [
                ("Run", str(end_id)),
                ("Feature endpoint", story.accepted.feature_endpoint_id or "-"),
                ("Model", story.accepted.model or "-"),
                ("It is", text.words(story.state)),
                ("Reference", values["reference"]),
                ("Reason", values["reason"]),
            ],
            warning="This run has nothing left to give back." if cost_micros == 0 else None,
        ),
        perform=perform,
        intro=(
            f"The run of {text.moment(story.accepted.accepted_at)} UTC has cost {_tokens(cost_micros)}"
            f" ({story.accepted.feature_endpoint_id or 'no feature endpoint'},"
            f" {story.accepted.model or 'no model'})."
        ),
    )


@blueprint.route("/release-hold/<process_id>/<id:user_id>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def release_hold(process_id: str, user_id: str) -> Response:
    open_holds = services().holds.list(user_id, HOLDS_MAX).items
    held = next((_tokens(hold.amount_micros) for hold in open_holds if hold.process_id == process_id), "No tokens")

    def perform(values: Mapping[str, Any]) -> Done:
        try:
            released = services().holds.give_back(user_id, process_id, acting(values))
        except HoldNotFound:
            return _done(user_id, "The hold was gone already.")
        return _done(user_id, f"{_tokens(released.released_micros)} are free again.")

    return change(
        _WHY,
        title=f"Release a hold of {user_id}",
        action="Release it",
        back=_back(user_id),
        review=lambda values: Review(
            f"{held}, which a run reserves of what {user_id} has, are free again. The run may go on, and still bills.",
            [("Process", process_id), ("Reason", values["reason"])],
        ),
        perform=perform,
        intro=f"{held}, of the run {process_id}.",
        is_dangerous=True,
    )


def _post(user_id: str, kind: PostingKind, form: Form, title: str, action: str) -> Response:
    balance = _wallet(user_id).balance

    def perform(values: Mapping[str, Any]) -> Done:
        posting = Posting(user_id, kind, values["token"], values["reference"], values["reason"], caller=acting(values))
        posted = services().postings.post(posting)
        if posted.replayed:
            return _done(user_id, "Posted before, under the same reference. Nothing was posted now.")
        return _done(
            user_id,
            f"{_tokens(posted.entry.amount_micros)} were posted; the balance is"
            f" {_tokens(posted.entry.balance_after_micros)}.",
        )

    def review(values: Mapping[str, Any]) -> Review:
        micros = values["token"]
        verb = "are posted to" if micros > 0 else "are taken from"
        pays = micros > 0 and balance.debt_micros
        return Review(
            f"{_tokens(abs(micros))} {verb} {user_id}.",
            [
                ("Posted balance", _from_to(_tokens(balance.posted_micros), _tokens(balance.posted_micros + micros))),
                ("Reference", values["reference"]),
                ("Reason", values["reason"]),
            ],
            warning=f"Debts of {_tokens(balance.debt_micros)} are collected out of it." if pays else None,
        )

    return change(
        form,
        title=title,
        action=action,
        back=_back(user_id),
        review=review,
        perform=perform,
        initial=initial_from(form, request.args),
        intro=_stands(balance),
        is_dangerous=kind is PostingKind.ADJUSTMENT,
    )


def _wallet(user_id: str) -> WalletBalance:
    return services().wallet_admin.get(user_id)


def _stands(balance: Balance) -> str:
    owes = f", and {_tokens(balance.debt_micros)} are owed" if balance.debt_micros else ""
    return f"Posted are {_tokens(balance.posted_micros)}, spendable {_tokens(balance.spendable_micros)}{owes}."


def _back(user_id: str) -> str:
    return url_for("wallets.show", user_id=user_id)


def _done(user_id: str, message: str) -> Done:
    return Done(_back(user_id), message)


def _tokens(micros: int) -> str:
    return f"{text.amount(micros)} tokens"


def _from_to(old: str, new: str) -> str:
    return new if old == new else f"{old} → {new}"
