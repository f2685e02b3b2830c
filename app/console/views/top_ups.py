"""Top-ups of all wallets of a package: dry runs, applying them, and the outcome of each wallet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, request, url_for

from app.billing.top_ups import TopUpView
from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, Review, change
from app.console.filters import Filters
from app.console.forms import REASON, REFERENCE, Choice, Field, Form, Kind, amount, plain
from app.console.pages import page
from app.console.paging import paged
from app.console.scopes import package_choices
from app.domain.keys import KeyScope
from app.domain.top_ups import Target, TopUpAmount, TopUpMode, TopUpState
from app.domain.wallets import WalletStatus
from app.stores.postgres.top_ups import WAITING, NewBatch
from app.wire.cursors import BY_ID, NEWEST_FIRST
from app.wire.top_ups import OUTCOMES

blueprint = Blueprint("top_ups", __name__, url_prefix="/top-ups")

TONES = {TopUpState.READY: "warn", TopUpState.APPLYING: "", TopUpState.DONE: "good"}
ANY = "any"
MODES: Sequence[Choice] = (
    (TopUpMode.ADD, "each wallet gets it"),
    (TopUpMode.FILL, "each wallet is filled up to it"),
)
STATUSES: Sequence[Choice] = [*((status, f"{status} only") for status in WalletStatus), (ANY, "any")]
PACKAGE = Field("package_id", "Package", plain, Kind.CHOICE, choices=package_choices)
AMOUNT_FIELDS = (
    Field("amount", "Amount", amount(), Kind.NUMBER, unit="tokens", wire_names=("token", "fill_up_to_token")),
    Field("mode", "How it is meant", TopUpMode, Kind.CHOICE, choices=MODES, default=TopUpMode.ADD),
    Field("wallet_status", "Wallets that are", plain, Kind.CHOICE, choices=STATUSES, default=WalletStatus.ACTIVE),
)
_NEW = Form((PACKAGE, *AMOUNT_FIELDS, REFERENCE, REASON))
_NOTHING = Form(())
_NO_FILTERS = Filters()
_OUTCOMES: Sequence[Choice] = [(outcome, text.words(outcome)) for outcome in (*OUTCOMES, WAITING)]
WALLETS = Filters(Field("outcome", "Outcome", plain, Kind.CHOICE, is_required=False, choices=_OUTCOMES))


@blueprint.get("")
@needs(KeyScope.READ)
def index() -> Response:
    _NO_FILTERS.read()
    found = paged(NEWEST_FIRST, services().top_ups.list)
    return page("top_ups/index.html", paged=found, tones=TONES, amount_text=amount_text, target_text=target_text)


@blueprint.route("/new", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def new() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        made = services().top_ups.create(
            NewBatch(
                reference=values["reference"],
                target=target_of(values),
                amount=TopUpAmount(values["mode"], values["amount"]),
                reason=values["reason"],
                caller=acting(values),
            )
        )
        said = "This was asked for before, under the same reference." if made.replayed else "Nothing is posted yet."
        return Done(url_for("top_ups.show", number=made.batch.id), said)

    return change(
        _NEW,
        title="Top up a package",
        action="Show what it would do",
        back=url_for("top_ups.index"),
        review=None,
        perform=perform,
        intro="First a dry run: which wallets are meant is frozen, and how many tokens that takes is shown.",
    )


@blueprint.get("/show/<int:number>")
@needs(KeyScope.READ)
def show(number: int) -> Response:
    filtered = WALLETS.read()
    view = services().top_ups.get(number)
    found = None
    if filtered.is_valid:
        outcome, top_ups = filtered.values.get("outcome"), services().top_ups
        found = paged(BY_ID, lambda limit, after_id: top_ups.wallets(number, limit, after_id, outcome=outcome))
    return page(
        "top_ups/show.html",
        filtered.status,
        view=view,
        done=_done(view),
        tone=TONES[view.batch.state],
        filtered=filtered,
        paged=found,
        amount_text=amount_text,
        target_text=target_text,
        here=request.full_path,
    )


@blueprint.route("/apply/<int:number>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def apply(number: int) -> Response:
    batch = services().top_ups.get(number).batch

    def perform(values: Mapping[str, Any]) -> Done:
        services().top_ups.apply(number, caller=acting(values))
        return Done(url_for("top_ups.show", number=number), "Workers top the wallets up now.")

    return change(
        _NOTHING,
        title=f"Apply top-up {number}",
        action="Top them up",
        back=url_for("top_ups.show", number=number),
        review=lambda values: Review(
            f"{text.counted(batch.planned.wallets, 'wallet')} get {text.amount(batch.planned.micros)} tokens in all.",
            [
                ("For", target_text(batch.target)),
                ("Each", amount_text(batch.amount)),
                ("Reference", batch.reference),
                ("Reason", batch.reason),
            ],
            warning="What was filled up or has left since then is passed over.",
        ),
        perform=perform,
    )


@blueprint.route("/discard/<int:number>", methods=["GET", "POST"])
@needs(KeyScope.WALLETS)
def discard(number: int) -> Response:
    batch = services().top_ups.get(number).batch

    def perform(values: Mapping[str, Any]) -> Done:
        services().top_ups.discard(number, caller=acting(values))
        return Done(url_for("top_ups.index"), f"Top-up {number} was discarded. Its reference may be used again.")

    return change(
        _NOTHING,
        title=f"Discard top-up {number}",
        action="Discard it",
        back=url_for("top_ups.show", number=number),
        review=lambda values: Review(
            f"The dry run for {text.counted(batch.planned.wallets, 'wallet')} is forgotten. Nothing was posted.",
            [("Reference", batch.reference)],
        ),
        perform=perform,
    )


def target_of(values: Mapping[str, Any]) -> Target:
    status = values["wallet_status"]
    return Target(values.get("package_id"), values.get("user_id"), None if status == ANY else status)


def target_text(target: Target) -> str:
    return f"package {target.package_id}" if target.package_id is not None else f"user {target.user_id}"


def amount_text(amount: TopUpAmount) -> str:
    tokens = f"{text.amount(amount.micros)} tokens"
    return tokens if amount.mode is TopUpMode.ADD else f"filled up to {tokens}"


def _done(view: TopUpView) -> int:
    return view.results.topped_up + view.results.skipped + view.results.refused
