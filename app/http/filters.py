"""The query parameters that filter lists and reports. Each is checked by itself, and all errors are reported at once.

A tuple of parameters is both what a route `takes` and what is read from its query. `query.Parameter` has the check of a
value and its JSON Schema.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from marshmallow import ValidationError

from app.domain import failed_ends as failed
from app.domain import inputs, reports
from app.domain.audit import AuditFilter
from app.domain.balance_rules import Owner, RequestState
from app.domain.ends import EndState
from app.domain.failed_ends import AgeBand, Filter
from app.domain.inputs import ACTOR_LENGTH_MAX, ID_LENGTH_MAX, REASON_LENGTH_MAX
from app.domain.keys import NAME_LENGTH_MAX, KeyKind
from app.domain.reasons import FailureReason
from app.domain.reports import (
    CHARGE_KINDS,
    RUN_KINDS,
    Entries,
    EntryKind,
    Group,
    Scope,
    Usage,
    WalletOrder,
    Wallets,
    WalletSort,
)
from app.domain.wallets import WalletStatus, wallet_of
from app.domain.webhooks import DeliveryState, EventType
from app.http.query import Parameter, read
from app.http.schemas import shapes
from app.stores.postgres.api_keys import KeyFilter, KeyState
from app.stores.postgres.top_up_requests import RequestFilter
from app.stores.postgres.webhooks.deliveries import DeliveryFilter
from app.stores.postgres.webhooks.events import EventFilter

FAILED_STATES = (EndState.RETRYING, EndState.DEAD)


def _text(value: str) -> str:
    return inputs.identifier(value, ID_LENGTH_MAX)


def number(value: str) -> int:
    """Read the number that the server has given to something."""
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**63):
        raise ValueError("Must be a whole number above 0.")
    return int(value)


def _price_id(value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) < 2**63):
        raise ValueError("Must be the id of a price, or 0 for the default rule.")
    return int(value)


def text(name: str, description: str = "") -> Parameter:
    """A parameter that is an id, taken as it is."""
    return Parameter(name, _text, shapes.identifier(), description)


def flag(name: str, description: str) -> Parameter:
    def check(value: str) -> bool:
        if value not in ("true", "false"):
            raise ValueError("Must be true or false.")
        return value == "true"

    return Parameter(name, check, {"type": "boolean"}, description)


def amount(name: str, description: str) -> Parameter:
    """A parameter that is an amount of tokens, which may be negative."""

    def check(value: str) -> int:
        return inputs.amount_micros(inputs.json_number(value), allow_negative=True, allow_zero=True)

    return Parameter(name, check, shapes.amount(allow_negative=True, allow_zero=True), description)


def one_of(name: str, values: Sequence[str], description: str = "") -> Parameter:
    """A parameter that is one of a few words."""

    def check(value: str) -> str:
        if value not in values:
            raise ValueError(f"Must be {', '.join(values[:-1])} or {values[-1]}.")
        return value

    return Parameter(name, check, shapes.one_of(values), description)


def _duration(name: str, description: str) -> Parameter:
    return Parameter(name, failed.duration_seconds, shapes.duration(), description)


def _cost(name: str, description: str) -> Parameter:
    def check(value: str) -> int:
        return inputs.amount_micros(inputs.json_number(value), allow_zero=True)

    return Parameter(name, check, shapes.amount(allow_zero=True), description)


def moment_or_day(name: str, description: str) -> Parameter:
    return Parameter(name, reports.moment_or_day, shapes.moment_or_day(), description)


# A range begins with `from` and ends before `to`: `read` refuses one that is empty.
MOMENTS = (
    moment_or_day("from", "From this moment on, or from this day's beginning (UTC)."),
    moment_or_day("to", "Before this moment, or before this day's beginning (UTC)."),
)
DAYS = (
    Parameter("from", reports.day, shapes.day(), "From this day on (UTC)."),
    Parameter("to", reports.day, shapes.day(), "Before this day (UTC)."),
)
PACKAGE = text("package_id", "Of wallets that have this package now.")
FEATURE = text("feature_endpoint_id")
MODEL = text("model", "The model as it was sent.")
USER = text("user_id")
PRICE = Parameter(
    "price_id", _price_id, shapes.whole_number(0, 2**63 - 1), "Priced by this price; 0: by the default rule."
)
_OF_WALLET = (PACKAGE, FEATURE, MODEL, USER)

ENTRIES_OF_WALLET = (*MOMENTS, one_of("kind", tuple(EntryKind)), FEATURE, MODEL, PRICE)
ENTRIES = (*ENTRIES_OF_WALLET, PACKAGE, USER)
FAILED_ENDS = (
    *MOMENTS,
    one_of("state", FAILED_STATES),
    one_of("kind", CHARGE_KINDS),
    *_OF_WALLET,
    one_of("last_error", tuple(FailureReason), "Why they failed."),
    one_of("age", tuple(AgeBand), "How long ago they were accepted: a group of `group_by=age`."),
    _duration("older_than", "Accepted longer ago than this: 90s, 15m, 24h, 7d."),
    _duration("younger_than", "Accepted within this time."),
    _cost("min_cost", "In tokens."),
    _cost("max_cost", "In tokens."),
)
FAILED_END_SUMS = (
    *FAILED_ENDS,
    Parameter(
        "group_by", failed.groups, shapes.some_of(failed.Group), "What to add up by: names with commas between them."
    ),
)
WALLETS = (
    PACKAGE,
    one_of("status", tuple(WalletStatus)),
    text("search", "A part of the user id, in capitals or not. Reads all wallets."),
    text("prefix", "How the user id begins, exactly. Found by an index."),
    flag("in_debt", "Whether it owes anything."),
    flag("with_holds", "Whether it has open holds."),
    amount("balance_below", "A posted balance of less than so many tokens."),
    amount("balance_above", "A posted balance of more than so many tokens."),
)
WALLET_ORDER = (
    Parameter(
        "sort",
        WalletOrder.named,
        {**shapes.one_of([*WalletSort, *(f"-{name}" for name in WalletSort)]), "default": WalletSort.USER},
        "By the user id, the posted balance, the debt, or when it last changed; behind a minus the highest first.",
    ),
)
# For routes without a body.
REASON = (
    Parameter(
        "reason",
        lambda value: inputs.printable(value, REASON_LENGTH_MAX),
        shapes.printable(REASON_LENGTH_MAX),
        "Why: it stands in the audit log.",
    ),
)
SCOPE = (text("feature_endpoint_id", "Made for this feature."), text("model", "Made for this model or pattern."))
USAGE = (
    *DAYS,
    Parameter("group_by", reports.groups, shapes.some_of(Group), "What to add up by: names with commas between them."),
    one_of("kind", RUN_KINDS),
    *_OF_WALLET,
    PRICE,
)
KEYS = (text("name"), one_of("kind", tuple(KeyKind)), one_of("state", tuple(KeyState)))
# An actor is the name of a key, a slash, and a person.
_ACTOR_LENGTH_MAX = NAME_LENGTH_MAX + 1 + ACTOR_LENGTH_MAX
AUDIT_LOG = (
    *MOMENTS,
    text("action", "What was done: `wallet.suspended`."),
    text("subject_kind", "To what kind of thing: `wallet`."),
    text("subject_id", "To which of them."),
    Parameter(
        "actor",
        lambda value: inputs.identifier(value, _ACTOR_LENGTH_MAX),
        shapes.identifier(_ACTOR_LENGTH_MAX),
        "Whose doing: a whole actor, or a key's name for all who are behind it.",
    ),
    text("key_id", "By which key."),
    text("address", "Where from."),
    text("request_id"),
)


def _number(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= int(value) < 2**63):
        raise ValueError("Must be the id of a webhook endpoint.")
    return int(value)


def _event_id(value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise ValueError("Must be the id of an event.") from None


_ENDPOINT = Parameter("endpoint_id", _number, shapes.whole_number(1, 2**63 - 1), "To this webhook endpoint.")
_DELIVERY = one_of("state", tuple(DeliveryState), "What became of a delivery.")
_EVENT_TYPE = one_of("type", tuple(EventType), "What happened.")
WEBHOOK_EVENTS = (*MOMENTS, _EVENT_TYPE, USER, _ENDPOINT, _DELIVERY)
WEBHOOK_DELIVERIES = (
    *WEBHOOK_EVENTS,
    Parameter("event_id", _event_id, {"type": "string", "format": "uuid"}, "Of this event."),
)
OWNER = (text("user_id", "Whose wallet's."), text("package_id", "Which package's."))
TOP_UP_REQUESTS = (USER, one_of("state", tuple(RequestState), "What became of it."))


def webhook_events() -> EventFilter:
    """The filters of webhook events. Raises ValidationError."""
    return EventFilter(**_renamed(read(WEBHOOK_EVENTS)))


def webhook_deliveries() -> DeliveryFilter:
    """The filters of deliveries. Raises ValidationError."""
    return DeliveryFilter(**_renamed(read(WEBHOOK_DELIVERIES)))


def top_up_requests() -> RequestFilter:
    """The filters of top-up requests. Raises ValidationError."""
    found = read(TOP_UP_REQUESTS)
    user_id = found.get("user_id")
    return RequestFilter(None if user_id is None else wallet_of(user_id), found.get("state"))


def owner() -> Owner:
    """The user or the package that owns a rule. Raises ValidationError or Invalid."""
    return Owner(**read(OWNER))


def entries() -> Entries:
    """The filters of ledger entries. Raises ValidationError."""
    return Entries(**_renamed(read(ENTRIES)))


def entries_of_wallet() -> Entries:
    """The filters of one wallet's ledger entries. Raises ValidationError."""
    return Entries(**_renamed(read(ENTRIES_OF_WALLET)))


def usage() -> Usage:
    """Filters and groups of the usage report. Raises ValidationError."""
    found = read(USAGE)
    groups = found.pop("group_by", ())
    return Usage(groups=groups, **_renamed(found))


def failed_ends() -> Filter:
    """The filters of failed ends. Raises ValidationError."""
    return failed_end_filter(read(FAILED_ENDS))


def failed_end_sums() -> tuple[Filter, tuple[failed.Group, ...]]:
    """The filters of failed ends, and the groups to add them up by. Raises ValidationError."""
    found = read(FAILED_END_SUMS)
    groups = found.pop("group_by", ())
    return failed_end_filter(found), groups


def failed_end_filter(found: dict[str, Any]) -> Filter:
    """The filter made of checked parameters. Raises ValidationError."""
    if found.get("min_cost", 0) > found.get("max_cost", math.inf):
        raise ValidationError({"max_cost": ["Must not be less than min_cost."]})
    return Filter(**_renamed(found))


def moments() -> tuple[datetime | None, datetime | None]:
    """The range of time: from, to. Raises ValidationError."""
    found = read(MOMENTS)
    return found.get("from"), found.get("to")


def wallets() -> Wallets:
    """The filters of wallets. Raises ValidationError."""
    names = {"balance_below": "balance_below_micros", "balance_above": "balance_above_micros"}
    return Wallets(**{names.get(name, name): value for name, value in read(WALLETS).items()})


def wallet_order() -> WalletOrder:
    """The order in which wallets are listed. Raises ValidationError."""
    order: WalletOrder = read(WALLET_ORDER).get("sort", WalletOrder())
    return order


def scope() -> Scope:
    """The filters of profit rules and of prices. Raises ValidationError."""
    return Scope(**read(SCOPE))


def keys() -> KeyFilter:
    """The filters of API keys. Raises ValidationError."""
    return KeyFilter(**read(KEYS))


def audit_log() -> AuditFilter:
    """The filters of the audit log. Raises ValidationError."""
    return AuditFilter(**_renamed(read(AUDIT_LOG)))


# Parameter -> the filter's field, where the names differ.
_FIELDS = {
    "from": "since",
    "to": "until",
    "older_than": "older_than_seconds",
    "younger_than": "younger_than_seconds",
    "min_cost": "cost_min_micros",
    "max_cost": "cost_max_micros",
}


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    renamed = {_FIELDS.get(name, name): value for name, value in found.items()}
    if "kind" in renamed:
        renamed["kind"] = EntryKind(renamed["kind"])
    if "age" in renamed:
        renamed["age"] = AgeBand(renamed["age"])
    return renamed
