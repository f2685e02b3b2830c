"""The audit log's rows: written in the transaction that makes the change, and never changed afterwards.

A function that makes an accountable change writes an entry on the connection of its own transaction:

    audit.write(
        connection, caller, "wallet.suspended", ("wallet", wallet_id),
        before={"status": "active"}, after={"status": "suspended"},
    )

So a rolled back change has no entry, and every committed change has one. A repeated call that changes nothing writes
nothing. `differing` (`app/domain/audit.py`) picks the fields that have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.domain.audit import AuditEntry, AuditFilter, Change
from app.domain.keys import Caller
from app.domain.moments import moment_text
from app.stores.postgres.tables import audit_log


def write(
    connection: sa.Connection,
    caller: Caller,
    action: str,
    subject: tuple[str, object],
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """`subject` is a kind of thing and its id."""
    kind, subject_id = subject
    write_all(connection, caller, [Change(action, kind, str(subject_id), before, after)])


def write_all(connection: sa.Connection, caller: Caller, changes: Sequence[Change]) -> None:
    """Write entries for several changes of one transaction, in their order."""
    if not changes:
        return
    rows = [
        {
            "action": change.action,
            "subject_kind": change.subject_kind,
            "subject_id": change.subject_id,
            "before": None if change.before is None else _json(change.before),
            "after": None if (after := _after(change, caller)) is None else _json(after),
            "actor": caller.actor,
            "key_id": caller.key_id,
            "address": caller.address,
            "request_id": caller.request_id,
        }
        for change in changes
    ]
    connection.execute(sa.insert(audit_log), rows)


def _after(change: Change, caller: Caller) -> Mapping[str, Any] | None:
    """`after` with the caller's reason added, unless the change has a reason of its own."""
    if caller.reason is None:
        return change.after
    return {"reason": caller.reason, **(change.after or {})}


def list_newest(connection: sa.Connection, wanted: AuditFilter, before_id: int, limit: int) -> Sequence[AuditEntry]:
    statement = sa.select(audit_log).where(audit_log.c.id < before_id, *_matching(wanted))
    rows = connection.execute(statement.order_by(audit_log.c.id.desc()).limit(limit))
    return [
        AuditEntry(
            id=row.id,
            at=row.at,
            change=Change(row.action, row.subject_kind, row.subject_id, row.before, row.after),
            actor=row.actor,
            key_id=row.key_id,
            address=row.address,
            request_id=row.request_id,
        )
        for row in rows
    ]


def _matching(wanted: AuditFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(audit_log.c.at >= wanted.since)
    if wanted.until is not None:
        found.append(audit_log.c.at < wanted.until)
    for name in ("action", "subject_kind", "subject_id", "key_id", "address", "request_id"):
        value = getattr(wanted, name)
        if value is not None:
            found.append(audit_log.c[name] == value)
    if wanted.actor is not None:
        behind = audit_log.c.actor.startswith(f"{wanted.actor}/", autoescape=True)
        found.append((audit_log.c.actor == wanted.actor) | behind)
    return found


def _json(value: Any) -> Any:
    """A value as JSON, with moments in the wire's form."""
    match value:
        case Mapping():
            return {str(name): _json(inner) for name, inner in value.items()}
        case datetime():
            return moment_text(value)
        case date():
            return value.isoformat()
        case UUID():
            return str(value)
        case str() | bool() | int() | None:
            return value
        case list() | tuple():
            return [_json(inner) for inner in value]
    raise TypeError(f"{type(value).__name__} has no place in the audit log")
