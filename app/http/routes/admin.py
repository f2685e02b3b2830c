"""What administrators call: the catalog, wallets and postings."""

from __future__ import annotations

from flask import Blueprint, Response
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import NotFound as NoSuchPath
from werkzeug.routing import BaseConverter

from app.domain.catalog import FeatureEndpoint, Unpriced
from app.domain.corrections import Chargeback
from app.domain.errors import (
    AlreadyExists,
    BalanceOutOfRange,
    HoldNotFound,
    IdempotencyConflict,
    NotFound,
    WalletBusy,
    WalletNotFound,
)
from app.domain.inputs import ID_LENGTH_MAX, WALLET_PARTS, identifier
from app.domain.pages import FIRST_ID
from app.domain.postings import Posting, PostingKind
from app.http import filters
from app.http.auth import caller_of_call
from app.http.json import read_object
from app.http.openapi.describe import PageOf, answers
from app.http.paging import Listing, by_expiry, by_id, listed, newest_first
from app.http.query import PAGE, read, takes, takes_page
from app.http.routes import asked_by_operator, container, repeatable, success
from app.http.routes.corrections import corrected
from app.http.schemas import RequestSchema
from app.http.schemas.admin import (
    AdjustmentSchema,
    CreditSchema,
    FeatureSchema,
    PackageSchema,
    ProfitRuleSchema,
    WalletChangeSchema,
    WalletSchema,
)
from app.operations.wallets import check_position
from app.wire import columns
from app.wire.answers import (
    CorrectionAnswer,
    FeatureAnswer,
    HoldAnswer,
    PackageAnswer,
    ProfitRuleAnswer,
    ReleasedHoldAnswer,
    TransactionAnswer,
    WalletAnswer,
    feature_answer,
    hold_answer,
    package_answer,
    released_hold_answer,
    rule_answer,
    transaction_answer,
    wallet_answer,
)
from app.wire.cursors import Order

blueprint = Blueprint("admin", __name__, url_prefix="/api/admin")

# The errors of posting to a wallet.
POSTING_ERRORS = (WalletNotFound, IdempotencyConflict, BalanceOutOfRange, WalletBusy)

_feature = FeatureSchema()
_feature_change = FeatureSchema(exclude=("id",), partial=True)
_package = PackageSchema()
_package_change = PackageSchema(exclude=("id",), partial=True)
_profit_rule = ProfitRuleSchema()
_wallet = WalletSchema()
_wallet_change = WalletChangeSchema(exclude=("user_id",), partial=True)
_credit = CreditSchema()
_adjustment = AdjustmentSchema()


class IdConverter(BaseConverter):
    """Matches ids, slashes included. A text that can't be an id is answered 404.

    It raises NotFound itself: with a mere mismatch, a route of another method with the same path would answer 405.
    """

    part_isolating = False
    regex = ".+?"

    def to_python(self, value: str) -> str:
        try:
            return identifier(value, ID_LENGTH_MAX)
        except ValueError as error:
            raise NoSuchPath from error


class WalletIdConverter(IdConverter):
    """Matches the user's id at the end of a wallet's path, but not paths below the wallet: these keep their own routes,
    even for a wrong method.
    """

    regex = f"(?!.*/(?:{'|'.join(WALLET_PARTS)})(?:/|$)).+?"


@blueprint.record_once
def _register_converters(state: BlueprintSetupState) -> None:
    state.app.url_map.converters.update(id=IdConverter, wallet=WalletIdConverter)


@blueprint.post("/feature-endpoints")
@answers(FeatureAnswer, status=201, body=_feature, refuses=(AlreadyExists,))
def create_feature() -> Response:
    """What is sold."""
    body = _feature.load(read_object())
    feature = FeatureEndpoint(**{**body, "unpriced": Unpriced(body["unpriced"])})
    created = container().catalog_admin.create_feature(feature, caller_of_call())
    return success("Feature endpoint created", feature_answer(created), 201)


@blueprint.get("/feature-endpoints")
@takes_page
@answers(PageOf(FeatureAnswer))
def list_features() -> Response:
    return listed("Feature endpoints", by_id(container().catalog_admin.features, feature_answer), columns.FEATURES)


@blueprint.patch("/feature-endpoints/<id:feature_id>")
@answers(FeatureAnswer, body=_feature_change)
def update_feature(feature_id: str) -> Response:
    """Changes only the fields that the body has."""
    changed = container().catalog_admin.update_feature(
        feature_id, _feature_change.load(read_object()), caller_of_call()
    )
    return success("Feature endpoint updated", feature_answer(changed))


@blueprint.post("/packages")
@answers(PackageAnswer, status=201, body=_package, refuses=(AlreadyExists, NotFound))
def create_package() -> Response:
    """What a wallet may use."""
    body = _package.load(read_object())
    created = container().catalog_admin.create_package(body["id"], body["name"], body["feature_ids"], caller_of_call())
    return success("Package created", package_answer(created), 201)


@blueprint.get("/packages")
@takes_page
@answers(PageOf(PackageAnswer))
def list_packages() -> Response:
    return listed("Packages", by_id(container().catalog_admin.packages, package_answer), columns.PACKAGES)


@blueprint.patch("/packages/<id:package_id>")
@answers(PackageAnswer, body=_package_change)
def update_package(package_id: str) -> Response:
    """Changes only the fields that the body has."""
    changed = container().catalog_admin.update_package(
        package_id, **_package_change.load(read_object()), caller=caller_of_call()
    )
    return success("Package updated", package_answer(changed))


@blueprint.post("/profit-rules")
@answers(ProfitRuleAnswer, status=201, body=_profit_rule, refuses=(NotFound,))
def create_profit_rule() -> Response:
    """A rule is followed by a newer one, never edited. The most specific that is in force counts: feature and model,
    feature, model, any.
    """
    created = container().catalog_admin.create_rule(**_profit_rule.load(read_object()), caller=caller_of_call())
    return success("Profit rule created", rule_answer(created), 201)


@blueprint.get("/profit-rules")
@takes(*PAGE, *filters.SCOPE)
@answers(PageOf(ProfitRuleAnswer))
def list_profit_rules() -> Response:
    """Newest first."""
    scope, catalog = filters.scope(), container().catalog_admin
    found = newest_first(lambda limit, before_id: catalog.rules(scope, limit, before_id), rule_answer)
    return listed("Profit rules", found, columns.PROFIT_RULES)


@blueprint.post("/wallets")
@answers(WalletAnswer, status=201, body=_wallet, refuses=(AlreadyExists, NotFound))
def create_wallet() -> Response:
    """Opens an empty wallet."""
    created = container().wallet_admin.create(**_wallet.load(read_object()), caller=caller_of_call())
    return success("Wallet created", wallet_answer(created), 201)


@blueprint.get("/wallets")
@takes(*PAGE, *filters.WALLETS, *filters.WALLET_ORDER)
@answers(PageOf(WalletAnswer))
def list_wallets() -> Response:
    wanted, order, wallets = filters.wallets(), filters.wallet_order(), container().wallet_admin
    found = Listing(
        Order(FIRST_ID, lambda text: check_position(order, text)),
        lambda limit, after: wallets.list(limit, after, wanted, order),
        wallet_answer,
    )
    return listed("Wallets", found, columns.WALLETS)


@blueprint.get("/wallets/<wallet:user_id>")
@answers(WalletAnswer, refuses=(WalletNotFound,))
def show_wallet(user_id: str) -> Response:
    return success("Wallet", wallet_answer(container().wallet_admin.get(user_id)))


@blueprint.patch("/wallets/<wallet:user_id>")
@answers(WalletAnswer, body=_wallet_change, refuses=(WalletNotFound, BalanceOutOfRange))
def update_wallet(user_id: str) -> Response:
    """Changes only the fields that the body has."""
    changes = _wallet_change.load(read_object())
    reason = changes.pop("reason", None)
    changed = container().wallet_admin.update(user_id, changes, caller_of_call(), reason=reason)
    return success("Wallet updated", wallet_answer(changed))


@blueprint.post("/wallets/<id:user_id>/top-ups")
@answers(TransactionAnswer, body=_credit, is_repeatable=True, refuses=POSTING_ERRORS)
def top_up_wallet(user_id: str) -> Response:
    """Tokens that were paid for. Debts are collected from them at once."""
    return _post(user_id, PostingKind.TOP_UP, _credit, "Wallet topped up")


@blueprint.post("/wallets/<id:user_id>/refunds")
@answers(TransactionAnswer, body=_credit, is_repeatable=True, refuses=POSTING_ERRORS)
def refund_wallet(user_id: str) -> Response:
    """Gives tokens back, for any reason."""
    return _post(user_id, PostingKind.REFUND, _credit, "Tokens refunded")


@blueprint.post("/wallets/<id:user_id>/adjustments")
@answers(TransactionAnswer, body=_adjustment, is_repeatable=True, refuses=POSTING_ERRORS)
def adjust_wallet(user_id: str) -> Response:
    """Corrects a balance: upwards, or downwards if the amount is negative."""
    return _post(user_id, PostingKind.ADJUSTMENT, _adjustment, "Wallet adjusted")


@blueprint.post("/wallets/<id:user_id>/chargebacks")
@answers(CorrectionAnswer, body=_credit, is_repeatable=True, refuses=POSTING_ERRORS)
def charge_back_wallet(user_id: str) -> Response:
    """Takes back tokens whose payment was charged back. If the wallet can't pay, the amount becomes debt."""
    asked = Chargeback(user_id, **asked_by_operator(_credit))
    return corrected(container().corrections.charge_back(asked), "Chargeback taken")


@blueprint.get("/wallets/<id:user_id>/holds")
@takes_page
@answers(PageOf(HoldAnswer), refuses=(WalletNotFound,))
def list_holds(user_id: str) -> Response:
    """Open holds, in the order in which they expire."""
    holds = container().holds
    return listed(
        "Open holds", by_expiry(lambda limit, after: holds.list(user_id, limit, after), hold_answer), columns.HOLDS
    )


@blueprint.delete("/wallets/<id:user_id>/holds/<process_id>")
@takes(*filters.REASON)
@answers(ReleasedHoldAnswer, refuses=(HoldNotFound, WalletNotFound))
def release_hold(user_id: str, process_id: str) -> Response:
    """Gives an open hold back."""
    reason = read(filters.REASON).get("reason")
    released = container().holds.give_back(user_id, process_id, caller_of_call(), reason=reason)
    return success("Hold given back", released_hold_answer(user_id, process_id, released))


def _post(user_id: str, kind: PostingKind, schema: RequestSchema, message: str) -> Response:
    posted = container().postings.post(Posting(user_id, kind, **asked_by_operator(schema)))
    return repeatable(message, transaction_answer(posted.entry), replayed=posted.replayed)
