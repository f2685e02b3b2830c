"""The audit log: who changed what, when, from where, and how it was before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to one thing. `action` is `wallet.suspended`: the kind of thing, and what became of it.

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
    """Which entries; what is None doesn't matter. `actor` is a whole one, or a key's name for all who are behind it."""

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
    """The fields of something that is told apart by its id, which the subject has."""
    return {field.name: getattr(thing, field.name) for field in fields(thing) if field.name != "id"}


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of both only what isn't the same in the other."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}
