"""Answers about API keys and the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from app.domain.amounts import token_number
from app.domain.audit import AuditEntry
from app.domain.keys import KeyKind, KeyScope, in_order
from app.domain.moments import moment_text
from app.operations.keys import MadeKey
from app.stores.postgres.api_keys import KeyRow, KeyState
from app.wire.types import Count, Moment, Text, Words

SOURCES = ("environment", "database")


class KeyAnswer(TypedDict):
    id: Annotated[Text, "Public; in the key itself, in logs and in the audit log."]
    name: Annotated[Text, "The actor of everything done with this key."]
    kind: Annotated[str, Words(KeyKind)]
    scopes: list[Annotated[str, Words(KeyScope)]]
    state: Annotated[str, Words(KeyState)]
    source: Annotated[str, Words(SOURCES), "Where it is kept: a key of the environment is changed there."]
    created_at: Moment
    created_by: Text | None
    expires_at: Annotated[Moment | None, "null: never."]
    revoked_at: Moment | None
    revoked_by: Text | None
    replaces: Annotated[Text | None, "The id of the key that it was rotated from."]
    replaced_by: Annotated[Text | None, "The id of its successor."]
    last_used_at: Annotated[Moment | None, "Up to some seconds old."]
    last_used_address: Text | None


class MadeKeyAnswer(KeyAnswer):
    key: Annotated[Text, "All of it, this once: nobody can tell it again."]


class AuditEntryAnswer(TypedDict):
    id: Count
    at: Moment
    action: Annotated[Text, "The kind of thing, and what became of it: `wallet.suspended`."]
    subject_kind: Text
    subject_id: Text
    before: Annotated[dict[str, Any] | None, "The fields that were changed, as they were."]
    after: Annotated[dict[str, Any] | None, "The same fields after it, and with what reference or reason."]
    actor: Annotated[Text, "Whose doing: a key's name and the person behind it, or `cli/` and who ran a command."]
    key_id: Annotated[Text | None, "By which key."]
    address: Annotated[Text | None, "Where from: an IP address; of a command `user@host`."]
    request_id: Annotated[Text | None, "By which request."]


def key_answer(key: KeyRow) -> KeyAnswer:
    return {
        "id": key.id,
        "name": key.name,
        "kind": key.kind,
        "scopes": [scope.value for scope in in_order(key.scopes)],
        "state": key.state,
        "source": SOURCES[0] if key.is_of_environment else SOURCES[1],
        "created_at": moment_text(key.created_at),
        "created_by": key.created_by,
        "expires_at": None if key.expires_at is None else moment_text(key.expires_at),
        "revoked_at": None if key.revoked_at is None else moment_text(key.revoked_at),
        "revoked_by": key.revoked_by,
        "replaces": key.replaces,
        "replaced_by": key.replaced_by,
        "last_used_at": None if key.last_used_at is None else moment_text(key.last_used_at),
        "last_used_address": key.last_used_address,
    }


def made_key_answer(made: MadeKey) -> MadeKeyAnswer:
    """The answer to making a key: the only one that has the whole key."""
    return {**key_answer(made.row), "key": made.key}


def audit_answer(entry: AuditEntry) -> AuditEntryAnswer:
    change = entry.change
    return {
        "id": entry.id,
        "at": moment_text(entry.at),
        "action": change.action,
        "subject_kind": change.subject_kind,
        "subject_id": change.subject_id,
        "before": _on_the_wire(change.before),
        "after": _on_the_wire(change.after),
        "actor": entry.actor,
        "key_id": entry.key_id,
        "address": entry.address,
        "request_id": entry.request_id,
    }


# Stored name -> wire name of amounts whose names begin with the unit.
_AMOUNTS = {"micros_per_month": "token_per_month", "micros_per_dollar": "tokens_per_dollar"}


def _on_the_wire(value: Any, *, is_amount: bool = False) -> Any:
    """A stored change in the words of the wire: amounts in tokens, under their wire names."""
    if isinstance(value, Mapping):
        return {_name(name): _on_the_wire(inner, is_amount=_is_amount(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [_on_the_wire(inner) for inner in value]
    return token_number(value) if is_amount and isinstance(value, int) else value


def _name(name: str) -> str:
    if name in _AMOUNTS:
        return _AMOUNTS[name]
    return name.replace("_micros_per_million", "_per_million").replace("_micros", "_token")


def _is_amount(name: str) -> bool:
    return "_micros" in name or name in _AMOUNTS
