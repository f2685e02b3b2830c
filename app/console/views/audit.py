"""The audit log: who changed what, when and from where, and how it was before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, url_for
from werkzeug.exceptions import BadRequest

from app.console import text
from app.console.access import needs, services
from app.console.downloads import download
from app.console.filters import Filtered, Filters
from app.console.forms import Field, identifier, moment
from app.console.pages import page
from app.console.paging import paged
from app.domain.audit import AuditEntry, AuditFilter
from app.domain.inputs import ACTOR_LENGTH_MAX
from app.domain.keys import NAME_LENGTH_MAX, KeyScope
from app.domain.pricing import percentage_number
from app.wire.columns import AUDIT_LOG
from app.wire.cursors import NEWEST_FIRST
from app.wire.json import write
from app.wire.keys import audit_answer
from app.wire.tables import Format, csv_of_rows

blueprint = Blueprint("audit", __name__, url_prefix="/audit-log")

FILTERS = Filters(
    Field("from", "From", moment, is_required=False, unit="UTC"),
    Field("to", "Before", moment, is_required=False, unit="UTC"),
    Field(
        "actor",
        "Who",
        identifier(NAME_LENGTH_MAX + 1 + ACTOR_LENGTH_MAX),
        is_required=False,
        help="admin/anna, or admin for all who used that key.",
    ),
    Field("action", "What was done", identifier(), is_required=False, help="Such as wallet.suspended."),
    Field("subject_kind", "To what", identifier(), is_required=False, help="Such as wallet, key or price."),
    Field("subject_id", "The id of that", identifier(), is_required=False),
    Field("key_id", "By key", identifier(), is_required=False),
    Field("address", "Address", identifier(), is_required=False),
    Field("request_id", "Request", identifier(), is_required=False),
)
BASIS_POINTS = "_basis_points"
_TOKEN = re.compile(r"\btoken\b")
# Kind of subject -> its page, and the parameter of that page's address that is the subject's id.
_PAGES = {
    "wallet": ("wallets.show", "user_id"),
    "end": ("failed_ends.show", "end_id"),
    "bulk_action": ("bulk_actions.show", "number"),
    "top_up": ("top_ups.show", "number"),
    "top_up_schedule": ("top_up_schedules.show", "number"),
    "price_import": ("price_imports.show", "number"),
    "key": ("keys.show", "key_id"),
}


@blueprint.get("")
@needs(KeyScope.AUDIT)
def index() -> Response:
    filtered = FILTERS.read()
    found = None
    if filtered.is_valid:
        wanted, log = _wanted(filtered), services().audit_log
        found = paged(NEWEST_FIRST, lambda limit, before_id: log.list(wanted, limit, before_id))
    return page(
        "audit/index.html",
        filtered.status,
        filtered=filtered,
        paged=found,
        changes=changes_of,
        subject_url=_subject_url,
        export_url=url_for("audit.table") + filtered.query(),
    )


@blueprint.get("/table")
@needs(KeyScope.AUDIT)
def table() -> Response:
    """All matching entries, as CSV."""
    filtered = FILTERS.read()
    if not filtered.is_valid:
        raise BadRequest("These filters say nothing that can be looked for.")
    rows = map(audit_answer, services().audit_log.all(_wanted(filtered)))
    return download("Audit log", AUDIT_LOG, csv_of_rows(AUDIT_LOG, rows), Format.CSV)


def changes_of(entry: AuditEntry) -> Sequence[tuple[str, str | None, str | None]]:
    """The changed fields as (label, before, after). Reference and reason come last."""
    answer = audit_answer(entry)
    before: Mapping[str, Any] = answer["before"] or {}
    after: Mapping[str, Any] = answer["after"] or {}
    names = sorted({**before, **after}, key=lambda name: name in ("reference", "reason"))
    return [(_label(name), _shown(before, name), _shown(after, name)) for name in names]


def _label(name: str) -> str:
    """The label of a field of the wire: "posted tokens" for `posted_token`, "below, %" for `below_basis_points`."""
    if name.endswith(BASIS_POINTS):
        return f"{text.words(name.removesuffix(BASIS_POINTS))}, %"
    return _TOKEN.sub("tokens", text.words(name))


def _shown(fields: Mapping[str, Any], name: str) -> str | None:
    return _written(fields[name], is_share=name.endswith(BASIS_POINTS)) if name in fields else None


def _written(value: Any, *, is_share: bool) -> str:
    match value:
        case None | bool():
            return {None: "none", True: "yes", False: "no"}[value]
        case int() if is_share:
            return str(percentage_number(value))
        case int() | Decimal():
            return f"{value:,}"
        case list() if all(isinstance(each, str) for each in value):
            return ", ".join(value) or "none"
        case list() | dict():
            return write(value).decode()
    return str(value)


def _wanted(filtered: Filtered) -> AuditFilter:
    names = {"from": "since", "to": "until"}
    return AuditFilter(**{names.get(name, name): value for name, value in filtered.values.items()})


def _subject_url(entry: AuditEntry) -> str | None:
    found = _PAGES.get(entry.change.subject_kind)
    if found is None:
        return None
    endpoint, parameter = found
    subject_id = entry.change.subject_id
    converted: dict[str, Any] = {"number": int, "end_id": UUID}
    return url_for(endpoint, **{parameter: converted.get(parameter, str)(subject_id)})
