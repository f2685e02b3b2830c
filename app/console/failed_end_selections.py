"""Selections of failed ends, by a list's filters or by ids, carried from page to page as one text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from werkzeug.datastructures import MultiDict

from app.console import text
from app.console.filters import Filters
from app.console.forms import Choice, Field, Form, Kind, amount, identifier, moment, plain
from app.console.scopes import feature_field, package_choices
from app.domain.ends import EndState
from app.domain.failed_ends import AgeBand, Filter, Group, duration_seconds
from app.domain.reasons import FailureReason
from app.domain.reports import CHARGE_KINDS

IDS_MAX = 1_000
LABELS: Mapping[Group, str] = {
    Group.USER: "User",
    Group.FEATURE: "Feature endpoint",
    Group.MODEL: "Model",
    Group.ERROR: "Cause",
    Group.AGE: "Age",
    Group.STATE: "State",
    Group.KIND: "Kind",
    Group.PACKAGE: "Package",
}


def _choices(values: Any) -> Sequence[Choice]:
    return [(str(value), text.words(value)) for value in values]


_FIELDS = (
    Field("state", "State", plain, Kind.CHOICE, False, choices=_choices((EndState.RETRYING, EndState.DEAD))),
    Field("last_error", "Cause", plain, Kind.CHOICE, False, choices=_choices(FailureReason)),
    Field("age", "Age", AgeBand, Kind.CHOICE, False, choices=_choices(AgeBand)),
    Field("user_id", "User", identifier(), is_required=False),
    feature_field(),
    Field("model", "Model", identifier(), is_required=False),
    Field("package_id", "Package", plain, Kind.CHOICE, False, choices=package_choices),
    Field("kind", "Kind", plain, Kind.CHOICE, False, choices=_choices(CHARGE_KINDS)),
    Field("older_than", "Older than", duration_seconds, is_required=False, unit="such as 24h"),
    Field("younger_than", "Younger than", duration_seconds, is_required=False, unit="such as 7d"),
    Field("from", "Accepted from", moment, is_required=False, unit="UTC"),
    Field("to", "Accepted before", moment, is_required=False, unit="UTC"),
    Field("min_cost", "Costs at least", amount(allow_zero=True), Kind.NUMBER, False, unit="tokens"),
    Field("max_cost", "Costs at most", amount(allow_zero=True), Kind.NUMBER, False, unit="tokens"),
)
_GROUP_BY = Field(
    "group_by",
    "Added up by",
    Group,
    Kind.CHOICE,
    False,
    choices=[(group.value, LABELS[group]) for group in Group],
    unchosen="nothing",
)
FILTERS = Filters(*_FIELDS, _GROUP_BY)
_SELECTION = Form(_FIELDS)

# Name in the address -> field of `Filter`, where these differ.
_NAMES = {
    "from": "since",
    "to": "until",
    "older_than": "older_than_seconds",
    "younger_than": "younger_than_seconds",
    "min_cost": "cost_min_micros",
    "max_cost": "cost_max_micros",
}


def filter_of(values: Mapping[str, Any]) -> Filter:
    """The filter made of a form's values."""
    return Filter(
        **{_NAMES.get(name, name): value for name, value in values.items() if name != "group_by" and value is not None}
    )


def written(pairs: Sequence[tuple[str, str]], end_ids: Sequence[str]) -> str:
    """A selection as a text: the ids if there are any, otherwise the filters as they are in an address."""
    words = {name: value for name, value in pairs if name != "group_by"}
    return json.dumps({"ids": list(end_ids)} if end_ids else {"filter": words})


def read(selection: str) -> Filter | list[UUID]:
    """Read a selection made by `written`. Raises ValueError."""
    wrong = ValueError("Choose the failed ends once more.")
    try:
        [(kind, which)] = json.loads(selection).items()
    except (ValueError, AttributeError):
        raise wrong from None
    if kind == "ids" and isinstance(which, list) and 1 <= len(which) <= IDS_MAX:
        try:
            return sorted({UUID(end_id) for end_id in which})
        except (ValueError, AttributeError, TypeError):
            raise wrong from None
    if kind == "filter" and isinstance(which, dict) and which.keys() <= {field.name for field in _FIELDS}:
        filled = _SELECTION.read(MultiDict({name: str(value) for name, value in which.items()}))
        if filled.is_valid:
            return filter_of(filled.values)
    raise wrong


def described(pairs: Sequence[tuple[str, str]]) -> str:
    """Filters in words: "state dead, user poor". Empty if there are none."""
    told = []
    for name, value in pairs:
        field = _SELECTION.named(name)
        if field is not None:
            # Ids are shown as they are, the wire's own words in readable form.
            is_ours = field.kind is Kind.CHOICE and not callable(field.choices)
            told.append(f"{field.label.lower()} {text.words(value) if is_ours else value}")
    return ", ".join(told)
