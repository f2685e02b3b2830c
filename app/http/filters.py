"""What lists and reports are filtered by: each parameter checked by itself, and all that are wrong told at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import request
from marshmallow import ValidationError

from app.domain import inputs, reports
from app.domain.ends import EndState
from app.domain.inputs import ID_LENGTH_MAX
from app.domain.reports import CHARGE_KINDS, RUN_KINDS, Entries, EntryKind, Scope, Usage, Wallets
from app.domain.wallets import WalletStatus
from app.stores.postgres.failed_ends import Filter

FAILED_STATES = (EndState.RETRYING, EndState.DEAD)
ENTRIES = ("from", "to", "kind", "package_id", "feature_endpoint_id", "model", "user_id", "price_id")
FAILED_ENDS = ("from", "to", "state", "kind", "package_id", "feature_endpoint_id", "model", "user_id")
WALLETS = ("package_id", "status")
SCOPE = ("feature_endpoint_id", "model")
USAGE = ("from", "to", "group_by", "kind", "package_id", "feature_endpoint_id", "model", "user_id", "price_id")

Check = Callable[[str], Any]


def read(checks: Mapping[str, Check]) -> dict[str, Any]:
    """The parameters that are given, checked. Raises ValidationError."""
    found: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for name, check in checks.items():
        if (given := request.args.get(name)) is not None:
            try:
                found[name] = check(given)
            except ValueError as error:
                errors[name] = [str(error)]
    if {"from", "to"} <= set(found) and found["from"] >= found["to"]:
        errors["to"] = ["Must be later than from."]
    if errors:
        raise ValidationError(errors)
    return found


def text(value: str) -> str:
    return inputs.identifier(value, ID_LENGTH_MAX)


def _price_id(value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) < 2**63):
        raise ValueError("Must be the id of a price, or 0 for the default rule.")
    return int(value)


def one_of(values: tuple[str, ...]) -> Check:
    def check(value: str) -> str:
        if value not in values:
            raise ValueError(f"Must be {', '.join(values[:-1])} or {values[-1]}.")
        return value

    return check


_COMMON: dict[str, Check] = {
    "package_id": text,
    "feature_endpoint_id": text,
    "model": text,
    "user_id": text,
    "price_id": _price_id,
}


def entries() -> Entries:
    """The filters of ledger entries. Raises ValidationError."""
    found = read(
        {**_COMMON, "from": reports.moment_or_day, "to": reports.moment_or_day, "kind": one_of(tuple(EntryKind))}
    )
    return Entries(**_renamed(found))


def usage() -> Usage:
    """Filters and groups of the usage report. Raises ValidationError."""
    checks = {**_COMMON, "from": reports.day, "to": reports.day, "group_by": reports.groups}
    found = read({**checks, "kind": one_of(RUN_KINDS)})
    groups = found.pop("group_by", ())
    return Usage(groups=groups, **_renamed(found))


def failed_ends() -> Filter:
    """The filters of failed ends. Raises ValidationError."""
    checks = dict.fromkeys(("user_id", "package_id", "feature_endpoint_id", "model"), text)
    found = read(
        {
            **checks,
            "from": reports.moment_or_day,
            "to": reports.moment_or_day,
            "state": one_of(FAILED_STATES),
            "kind": one_of(CHARGE_KINDS),
        }
    )
    return Filter(**_renamed(found))


def wallets() -> Wallets:
    """The filters of wallets. Raises ValidationError."""
    return Wallets(**read({"package_id": text, "status": one_of(tuple(WalletStatus))}))


def scope() -> Scope:
    """The filters of profit rules and of prices. Raises ValidationError."""
    return Scope(**read({"feature_endpoint_id": text, "model": text}))


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    names = {"from": "since", "to": "until"}
    renamed = {names.get(name, name): value for name, value in found.items()}
    if "kind" in renamed:
        renamed["kind"] = EntryKind(renamed["kind"])
    return renamed
