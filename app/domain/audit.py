"""The audit log: who changed what, when, from where, and the values before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one thing. `action` is the kind of thing and what was done to it, such as `wallet.suspended`.

    `before` and `after` have the fields that differ, amounts as `_micros`; no secrets, and no whole bodies.
    """

    action: str
    subject_kind: str
    subject_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    id: int
    at: datetime
    change: Change
    actor: str
    key_id: str | None
    address: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries; a field that is None doesn't filter. `actor` is either a whole actor, or a key's name for all
    persons behind that key.
    """

    since: datetime | None = None
    until: datetime | None = None
    action: str | None = None
    subject_kind: str | None = None
    subject_id: str | None = None
    actor: str | None = None
    key_id: str | None = None
    address: str | None = None
    request_id: str | None = None


def omitting_id(thing: DataclassInstance) -> dict[str, Any]:
    """The fields of a dataclass without its id, which the subject of the change already has."""
    return {field.name: getattr(thing, field.name) for field in fields(thing) if field.name != "id"}


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields whose values differ, as they were before and as they are after."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}
